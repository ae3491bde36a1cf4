//! The next generation of a backup's contents.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::frames::Moved;
use super::live::MapList;
use super::maps::{COMPRESSION_LEVEL, NewMap, NewMaps};
use super::{Attempt, Failure};
use crate::expire::Expiry;
use crate::repository::LineageStore;
use crate::repository::backup::{BackupManifest, ContentsLine, ContentsWriter, PackId, Rewritten};
use crate::repository::hash::ContentHash;
use crate::restore::contents;
use crate::restore::enveloped_lines::{LineSink, json};
use crate::storage::{ErrorKind, Payload, PutMode};

/// Copies the lines of contents, with new packs and maps in place of old ones.
#[derive(Debug)]
pub(crate) struct NewContents {
    writer: ContentsWriter,
    old: BTreeSet<PackId>,
    /// New packs that are not written yet: lines of packs stand in the order of their names.
    new: BTreeMap<PackId, ContentsLine>,
    maps: HashMap<ContentHash, Arc<NewMap>>,
}

impl LineSink for NewContents {
    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        match json(line)? {
            ContentsLine::Pack { id, .. } if self.old.contains(&id) => Ok(()),
            ContentsLine::Pack { id, bytes, live_bytes, frame_bytes } => {
                self.write_new(|new| *new < id)?;
                self.write(&ContentsLine::Pack { id, bytes, live_bytes, frame_bytes })
            }
            ContentsLine::Map { hash, files, plain_bytes, stored_bytes, first } => {
                self.write_new(|_| true)?;
                let (hash, stored_bytes) =
                    self.maps.get(&hash).map_or((hash, stored_bytes), |new| (new.hash, new.stored_bytes));
                self.write(&ContentsLine::Map { hash, files, plain_bytes, stored_bytes, first })
            }
            other => self.write(&other),
        }
    }
}

impl NewContents {
    fn write(&mut self, line: &ContentsLine) -> Result<(), String> {
        self.writer.add(line).map_err(|error| error.to_string())
    }

    fn write_new(&mut self, which: impl Fn(&PackId) -> bool) -> Result<(), String> {
        while let Some(entry) = self.new.first_entry()
            && which(entry.key())
        {
            let line = entry.remove();
            self.write(&line)?;
        }
        Ok(())
    }

    /// Puts the next generation of the contents of `backup`. False where it needs none.
    pub(super) async fn put(
        expiry: &Expiry<'_>,
        lineage: &LineageStore,
        backup: &BackupManifest,
        moved: &Moved,
        maps: &mut NewMaps,
    ) -> Attempt<bool> {
        let read = contents::newest(lineage, backup, MapList::default).await?;
        let mut replaced = HashMap::new();
        for map in &read.lines.0 {
            expiry.may_go_on()?;
            if let Some(new) = maps.replace(lineage, map, moved).await? {
                replaced.insert(map.hash, new);
            }
        }
        if replaced.is_empty() {
            return Ok(false);
        }
        let (generation, new) = (read.header.generation(), packs(moved, &replaced));
        let make = || {
            Ok::<_, Failure>(Self {
                writer: ContentsWriter::new(COMPRESSION_LEVEL)?,
                old: moved.old_packs().cloned().collect(),
                new: new.clone(),
                maps: replaced.clone(),
            })
        };
        // Once more, because lines come before the hash over all of them.
        let key = lineage.layout().contents_of(&backup.id, generation);
        let (header, mut rewritten) = contents::read_generation(lineage, &key, make()?).await?;
        if header != read.header {
            return Err(Failure::Unusable(format!("object \"{key}\" changed while it was read")));
        }
        rewritten.write_new(|_| true).map_err(Failure::Unusable)?;
        let told = Rewritten { generation: generation + 1, time: expiry.clock.now(), first: header.manifest_hash() };
        let next = lineage.layout().contents_of(&backup.id, told.generation);
        let finished = rewritten.writer.finish_generation(&backup.id, Some(told))?;
        expiry.may_write(lineage).await?;
        match lineage.store().put(&next, Payload::Chunks(finished.object), PutMode::CreateNew).await {
            Ok(_) => Ok(true),
            // Whatever is there is a generation that somebody completed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The new packs that these maps name, with what is needed of each: a frame counts once.
fn packs(moved: &Moved, maps: &HashMap<ContentHash, Arc<NewMap>>) -> BTreeMap<PackId, ContentsLine> {
    let places: BTreeMap<u32, (u32, u64)> = maps
        .values()
        .flat_map(|map| &map.frames)
        .map(|place| (place.number, (place.pack, u64::from(place.stored_bytes))))
        .collect();
    let mut live: BTreeMap<u32, u64> = BTreeMap::new();
    for (pack, bytes) in places.into_values() {
        *live.entry(pack).or_default() += bytes;
    }
    let line = |(index, live_bytes): (u32, u64)| {
        let pack = moved.packs.get(index as usize)?;
        let (id, bytes, frame_bytes) = (pack.id.clone(), pack.bytes, Some(pack.frame_bytes));
        Some((id.clone(), ContentsLine::Pack { id, bytes, live_bytes, frame_bytes }))
    };
    live.into_iter().filter_map(line).collect()
}
