//! Maps that name the new packs in place of the old ones.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::frames::{Moved, Place};
use super::{Attempt, Failure};
use crate::codec::Compressor;
use crate::repository::LineageStore;
use crate::repository::backup::file_map::FileMapPacks;
use crate::repository::backup::{Extent, FileMapHeader, PackId};
use crate::repository::envelope;
use crate::repository::hash::ContentHash;
use crate::restore::contents::MapRef;
use crate::restore::files::FileMap;
use crate::storage::{ErrorKind, Payload, PutMode};

pub(super) const COMPRESSION_LEVEL: i32 = 3;

/// A map in place of another.
#[derive(Clone, Debug)]
pub(crate) struct NewMap {
    pub(crate) hash: ContentHash,
    pub(crate) stored_bytes: u64,
    /// Moved frames that it names, each once.
    pub(crate) frames: Vec<Place>,
}

/// Those that were looked at, by the hash of the old one; none for a map that stays as it is.
#[derive(Debug, Default)]
pub(crate) struct NewMaps(HashMap<ContentHash, Option<Arc<NewMap>>>);

impl NewMaps {
    /// What takes the place of `map`; the first to ask puts it.
    pub(super) async fn replace(
        &mut self,
        lineage: &LineageStore,
        map: &MapRef,
        moved: &Moved,
    ) -> Attempt<Option<Arc<NewMap>>> {
        if let Some(known) = self.0.get(&map.hash) {
            return Ok(known.clone());
        }
        let loaded = FileMap::load(lineage, map).await?;
        let new = if loaded.packs.iter().any(|pack| moved.has_moved(pack)) {
            Some(Arc::new(put(lineage, rename(loaded, moved)?).await?))
        } else {
            None
        };
        self.0.insert(map.hash, new.clone());
        Ok(new)
    }
}

/// Where an extent stands: by the number of the pack in the old map, or of a new pack.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Old(u32),
    New(u32),
}

/// A map that is not stored yet.
struct Renamed {
    header: FileMapHeader,
    lines: Vec<u8>,
    frames: Vec<Place>,
}

fn rename(mut map: FileMap, moved: &Moved) -> Attempt<Renamed> {
    let unusable = |reason: &str| Failure::Unusable(format!("a file map {reason}"));
    let named = std::mem::take(&mut map.packs);
    let is_old: Vec<bool> = named.iter().map(|pack| moved.has_moved(pack)).collect();
    // Packs in the order in which they are met, by a number that is theirs until all of them are known.
    let mut frames: BTreeMap<u32, Place> = BTreeMap::new();
    let mut numbers: HashMap<Source, u32> = HashMap::new();
    let mut met: Vec<PackId> = Vec::new();
    for extent in map.files.iter_mut().flat_map(|file| &mut file.extents) {
        let Extent::Frame(frame) = extent else { continue };
        let at = frame.pack as usize;
        let old = named.get(at).ok_or_else(|| unusable("names a pack that it does not list"))?;
        let source = if is_old.get(at).is_some_and(|is_old| *is_old) {
            let place = moved
                .place(old, frame.offset)
                .filter(|place| place.stored_bytes == frame.stored_bytes)
                .ok_or_else(|| unusable("names a frame that was not copied"))?;
            frame.offset = place.offset;
            frames.insert(place.number, place);
            Source::New(place.pack)
        } else {
            Source::Old(frame.pack)
        };
        frame.pack = match numbers.entry(source) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                let id = match source {
                    Source::Old(_) => Some(old),
                    Source::New(pack) => moved.packs.get(pack as usize).map(|pack| &pack.id),
                };
                met.push(id.ok_or_else(|| unusable("names a frame that was not copied"))?.clone());
                *free.insert(u32::try_from(met.len() - 1).unwrap_or(u32::MAX))
            }
        };
    }
    let ids: BTreeSet<&PackId> = met.iter().collect();
    let ranks: HashMap<&PackId, u32> = ids.iter().copied().zip(0..).collect();
    let order: Vec<u32> = met.iter().map(|id| ranks.get(id).copied().unwrap_or(u32::MAX)).collect();
    let mut lines = Vec::new();
    write_line(&mut lines, &FileMapPacks { packs: ids.into_iter().cloned().collect() })?;
    for file in &mut map.files {
        for extent in &mut file.extents {
            if let Extent::Frame(frame) = extent {
                frame.pack = order.get(frame.pack as usize).copied().unwrap_or(u32::MAX);
            }
        }
        write_line(&mut lines, file)?;
    }
    let blake3 = ContentHash::of(&lines);
    let header = FileMapHeader { files: map.files.len() as u64, bytes: lines.len() as u64, blake3 };
    Ok(Renamed { header, lines, frames: frames.into_values().collect() })
}

fn write_line(lines: &mut Vec<u8>, line: &impl serde::Serialize) -> Attempt<()> {
    serde_json::to_writer(&mut *lines, line).map_err(|error| Failure::Unusable(error.to_string()))?;
    lines.push(b'\n');
    Ok(())
}

async fn put(lineage: &LineageStore, renamed: Renamed) -> Attempt<NewMap> {
    let Renamed { header, lines, frames } = renamed;
    let compress = move || {
        let compressed = Compressor::new(COMPRESSION_LEVEL)?.compress(&lines)?;
        Ok::<_, crate::codec::Error>(compressed)
    };
    let content =
        tokio::task::spawn_blocking(compress).await.map_err(|error| Failure::Unusable(error.to_string()))??;
    let payload = Payload::Chunks(vec![envelope::header(&header).into(), content.into()]);
    let key = lineage.layout().map(&header.blake3);
    let mut stored_bytes = payload.size_bytes();
    match lineage.store().put(&key, payload, PutMode::CreateNew).await {
        Ok(_) => {}
        // Its name describes it wholly; its size depends on who compressed it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            stored_bytes = lineage.store().head(&key).await?.size_bytes;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(NewMap { hash: header.blake3, stored_bytes, frames })
}
