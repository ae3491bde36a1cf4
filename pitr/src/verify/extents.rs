//! What maps say of packs: for packs that are to be read, and for those that were found damaged.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::backups::MapHarm;
use super::inventory::{KnownMap, KnownMaps, PackIndex, StoredPacks};
use super::maps;
use super::packs::{FaultScope, PackFaults};
use super::stored_pack::ExpectedRun;
use crate::postgres::PAGE_SIZE;
use crate::postgres::data_directory::{EntryKind, RelationFile, classify};
use crate::postgres::page::absolute_block;
use crate::repository::backup::file_map::FrameExtent;
use crate::repository::backup::{Extent, FileEntry};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageStore, Result};
use crate::restore::files::FileMap;

/// Maps that are read at once: each is held whole.
const PARALLEL_MAPS: usize = 2;
/// Reasons and pages that are kept of one map.
const MAX_REASONS: usize = 20;
const MAX_PAGES: usize = 1000;

/// By pack and place, each only once however many maps say it.
pub(super) type ExpectedRuns = BTreeMap<PackIndex, Vec<ExpectedRun>>;

/// What all maps say of the packs that `wanted` names, in order.
///
/// # Errors
/// The store fails.
pub(super) async fn expected(
    lineage: &LineageStore,
    packs: &StoredPacks,
    known: &KnownMaps,
    wanted: &[PackIndex],
) -> Result<ExpectedRuns> {
    let mut runs: ExpectedRuns = wanted.iter().map(|index| (*index, Vec::new())).collect();
    let concerned = known.values().filter(|map| map.packs.iter().any(|index| runs.contains_key(index)));
    let concerned: Vec<&KnownMap> = concerned.collect();
    let loads = stream::iter(concerned)
        .map(async |map| Ok::<_, crate::repository::Error>((map, maps::load(lineage, map.named).await?)));
    let mut loads = std::pin::pin!(loads.buffered(PARALLEL_MAPS));
    while let Some((map, loaded)) = loads.try_next().await? {
        // One that was read before and cannot be now was removed, or is told as damaged already.
        let Ok(loaded) = loaded else { continue };
        for_each_extent(&loaded, packs, |index, file, frame, file_offset| {
            if let Some(runs) = runs.get_mut(&index) {
                runs.push(run_of(file, frame, file_offset, map.checksums));
            }
        });
        for list in runs.values_mut() {
            list.sort_unstable();
            list.dedup();
        }
    }
    Ok(runs)
}

fn run_of(file: &FileEntry, frame: &FrameExtent, file_offset: u64, checksums: bool) -> ExpectedRun {
    ExpectedRun {
        offset: frame.offset,
        at: frame.at,
        bytes: u32::try_from(frame.bytes).unwrap_or(u32::MAX),
        stored_bytes: frame.stored_bytes,
        hash: frame.hash,
        first_block: first_block(file, file_offset).filter(|_| checksums),
    }
}

/// The number of the block at `file_offset`, of a relation's file.
fn first_block(file: &FileEntry, file_offset: u64) -> Option<u32> {
    let EntryKind::Relation(RelationFile { segment, .. }) = classify(&file.path.to_path(), false) else { return None };
    let in_file = file_offset.is_multiple_of(PAGE_SIZE as u64).then_some(file_offset / PAGE_SIZE as u64)?;
    Some(absolute_block(segment, u32::try_from(in_file).ok()?))
}

fn for_each_extent(map: &FileMap, packs: &StoredPacks, mut take: impl FnMut(PackIndex, &FileEntry, &FrameExtent, u64)) {
    let indexes: Vec<Option<PackIndex>> = map.packs.iter().map(|pack| packs.find(pack)).collect();
    for file in &map.files {
        let mut file_offset = 0;
        for extent in &file.extents {
            if let Extent::Frame(frame) = extent
                && let Some(index) = indexes.get(frame.pack as usize).copied().flatten()
            {
                take(index, file, frame, file_offset);
            }
            file_offset += extent.bytes();
        }
    }
}

/// What the faults of packs do to the maps that need them.
///
/// # Errors
/// The store fails.
pub(super) async fn harms(
    lineage: &LineageStore,
    packs: &StoredPacks,
    known: &KnownMaps,
    faults: &PackFaults,
) -> Result<BTreeMap<ContentHash, MapHarm>> {
    let mut harms = BTreeMap::new();
    let concerned = known.values().filter(|map| map.packs.iter().any(|index| faults.concern(*index)));
    for map in concerned {
        let Ok(loaded) = maps::load(lineage, map.named).await? else { continue };
        let mut harm = MapHarm::default();
        for_each_extent(&loaded, packs, |index, file, frame, file_offset| {
            let own = first_block(file, file_offset);
            for fault in faults.of(index) {
                let key = lineage.layout().pack(&fault.pack);
                match &fault.scope {
                    FaultScope::Frame { offset } if *offset != frame.offset => {}
                    FaultScope::Page(page) => {
                        let within = page.offset == frame.offset
                            && page.at >= frame.at
                            && u64::from(page.at) < u64::from(frame.at) + frame.bytes
                            && own.is_some_and(|first| first + (page.at - frame.at) / PAGE_SIZE as u32 == page.block);
                        if within && harm.pages.len() < MAX_PAGES {
                            harm.pages.push((file.path.clone(), page.clone()));
                        }
                    }
                    FaultScope::Whole | FaultScope::Frame { .. } => {
                        if harm.reasons.len() < MAX_REASONS {
                            harm.reasons
                                .push(format!("object \"{key}\", needed for \"{}\", {}", file.path, fault.reason));
                        }
                    }
                }
            }
        });
        harms.insert(map.named.hash, harm);
    }
    Ok(harms)
}
