//! Which frames of mostly dead packs kept backups need, by their maps.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Attempt, Failure};
use crate::expire::Expiry;
use crate::repository::LineageStore;
use crate::repository::backup::{BackupManifest, ContentsLine, Extent, PackId};
use crate::repository::hash::{ContentHash, FrameHash};
use crate::restore::contents::{self, MapRef};
use crate::restore::enveloped_lines::{LineSink, json};
use crate::restore::files::FileMap;
use crate::retention::{DeadPack, is_mostly_dead};

/// Maps that are read at once.
const PARALLEL: usize = 2;
/// Frames that are remembered: some 60 bytes each. Where there are more, packs wait for the next run.
const MAX_FRAMES: usize = 500_000;

/// A frame that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NeededFrame {
    pub(crate) stored_bytes: u32,
    pub(crate) hash: FrameHash,
}

/// By where they begin.
pub(crate) type PackFrames = BTreeMap<u64, NeededFrame>;

/// What is needed of the packs that may be rewritten.
#[derive(Debug)]
pub(crate) struct LiveFrames<'a> {
    wanted: &'a [DeadPack],
    packs: BTreeMap<PackId, PackFrames>,
    frames: usize,
    maps: BTreeSet<ContentHash>,
}

/// Takes the maps out of contents.
#[derive(Default)]
pub(super) struct MapList(pub(super) Vec<MapRef>);

impl LineSink for MapList {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if let ContentsLine::Map { hash, files, plain_bytes, .. } = json(line)? {
            self.0.push(MapRef { hash, files, plain_bytes });
        }
        Ok(())
    }
}

impl<'a> LiveFrames<'a> {
    /// `wanted` in the order in which they are worth it.
    pub(crate) fn of(wanted: &'a [DeadPack]) -> Self {
        let packs = wanted.iter().map(|pack| (pack.id.clone(), PackFrames::new())).collect();
        Self { wanted, packs, frames: 0, maps: BTreeSet::new() }
    }

    /// Adds what `backup` needs.
    pub(super) async fn read(
        &mut self,
        expiry: &Expiry<'_>,
        lineage: &LineageStore,
        backup: &BackupManifest,
    ) -> Attempt<()> {
        let maps = contents::newest(lineage, backup, MapList::default).await?.lines.0;
        let new: Vec<MapRef> = maps.into_iter().filter(|map| self.maps.insert(map.hash)).collect();
        let reads: Vec<_> = new.iter().map(|map| FileMap::load(lineage, map)).collect();
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        while let Some(map) = reads.try_next().await? {
            expiry.may_go_on()?;
            self.add(&map)?;
        }
        Ok(())
    }

    fn add(&mut self, map: &FileMap) -> Attempt<()> {
        for extent in map.files.iter().flat_map(|file| &file.extents) {
            let Extent::Frame(frame) = extent else { continue };
            let pack = usize::try_from(frame.pack).ok().and_then(|pack| map.packs.get(pack));
            let Some(frames) = pack.and_then(|pack| self.packs.get_mut(pack)) else { continue };
            let needed = NeededFrame { stored_bytes: frame.stored_bytes, hash: frame.hash };
            match frames.insert(frame.offset, needed) {
                None => self.frames += 1,
                Some(known) if known == needed => {}
                Some(_) => {
                    let reason = format!("file maps contradict each other over byte {} of a pack", frame.offset);
                    return Err(Failure::Unusable(reason));
                }
            }
        }
        while self.frames > MAX_FRAMES
            && let Some(last) = self.wanted.iter().rev().find(|pack| self.packs.contains_key(&pack.id))
        {
            self.frames -= self.packs.remove(&last.id).map_or(0, |frames| frames.len());
        }
        Ok(())
    }

    /// Now that all that is needed is known: the packs that are mostly dead.
    pub(crate) fn settle(self) -> BTreeMap<PackId, PackFrames> {
        let sizes: BTreeMap<&PackId, u64> = self.wanted.iter().map(|pack| (&pack.id, pack.frame_bytes)).collect();
        let dead = |id: &PackId, frames: &PackFrames| {
            let live = frames.values().map(|frame| u64::from(frame.stored_bytes)).sum();
            sizes.get(id).is_some_and(|frame_bytes| is_mostly_dead(*frame_bytes, live))
        };
        self.packs.into_iter().filter(|(id, frames)| !frames.is_empty() && dead(id, frames)).collect()
    }
}
