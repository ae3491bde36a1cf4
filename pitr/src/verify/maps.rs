//! File maps: read whole, proven by their hash, and their extents counted by pack.

use std::collections::BTreeMap;

use super::damage::{Damage, ObjectKind, fault_of_restore};
use super::inventory::{KnownMaps, StoredPacks};
use super::named_contents::NamedMap;
use crate::repository::backup::{Extent, PackId};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageStore, Result};
use crate::restore::contents::MapRef;
use crate::restore::files::FileMap;
use crate::storage::ObjectStoreExt as _;

/// Extents in one pack, and the end of the last of their frames.
#[derive(Clone, Copy, Debug, Default)]
struct InPack {
    extents: u32,
    end: u64,
}

/// What a map was found to be.
#[derive(Debug)]
pub(super) struct LookedAt {
    hash: ContentHash,
    found: std::result::Result<BTreeMap<PackId, InPack>, String>,
}

/// # Errors
/// The store fails.
pub(super) async fn look_at(lineage: &LineageStore, named: NamedMap) -> Result<LookedAt> {
    let found = match load(lineage, named).await? {
        Ok(map) => match check(lineage, named, &map).await? {
            None => Ok(count(&map)),
            Some(reason) => Err(reason),
        },
        Err(reason) => Err(reason),
    };
    Ok(LookedAt { hash: named.hash, found })
}

/// The map, or what is wrong with it.
///
/// # Errors
/// The store fails.
pub(super) async fn load(lineage: &LineageStore, named: NamedMap) -> Result<std::result::Result<FileMap, String>> {
    let reference = MapRef { hash: named.hash, files: named.files, plain_bytes: named.plain_bytes };
    match FileMap::load(lineage, &reference).await {
        Ok(map) => Ok(Ok(map)),
        Err(error) => fault_of_restore(error).map(Err),
    }
}

/// What of a map that is whole is not as the backup says.
async fn check(lineage: &LineageStore, named: NamedMap, map: &FileMap) -> Result<Option<String>> {
    let plain: u64 = map.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
    if plain != named.plain_bytes {
        return Ok(Some(format!("holds files of {plain} bytes, the backup says {}", named.plain_bytes)));
    }
    if let Err(contradiction) = crate::restore::files::check_extents(map) {
        return Ok(Some(contradiction));
    }
    let stored = lineage.store().find(&lineage.layout().map(&named.hash)).await?;
    Ok(stored
        .filter(|stored| stored.size_bytes != named.stored_bytes)
        .map(|stored| format!("has {} bytes, the backup says {}", stored.size_bytes, named.stored_bytes)))
}

fn count(map: &FileMap) -> BTreeMap<PackId, InPack> {
    let mut counted: BTreeMap<PackId, InPack> = BTreeMap::new();
    for extent in map.files.iter().flat_map(|file| &file.extents) {
        let Extent::Frame(frame) = extent else { continue };
        let Some(pack) = usize::try_from(frame.pack).ok().and_then(|pack| map.packs.get(pack)) else { continue };
        let in_pack = counted.entry(pack.clone()).or_default();
        in_pack.extents = in_pack.extents.saturating_add(1);
        in_pack.end = in_pack.end.max(frame.offset.saturating_add(u64::from(frame.stored_bytes)));
    }
    counted
}

impl LookedAt {
    /// Puts what was found into the inventory.
    pub(super) fn note(
        self,
        lineage: &LineageStore,
        maps: &mut KnownMaps,
        packs: &mut StoredPacks,
        damages: &mut Vec<Damage>,
    ) {
        let Some(known) = maps.get_mut(&self.hash) else { return };
        let key = lineage.layout().map(&self.hash);
        let counted = match self.found {
            Ok(counted) => counted,
            Err(reason) => {
                let damage = Damage::new(&key, ObjectKind::Map, reason.clone());
                damages.push(Damage { missing: reason == "is missing", ..damage });
                known.fault = Some(reason);
                return;
            }
        };
        for (pack, in_pack) in counted {
            let stored = packs.find(&pack).and_then(|index| packs.get_mut(index).map(|stored| (index, stored)));
            // A pack that is missing is told by the contents that name it; unless they do not.
            let Some((index, stored)) = stored else {
                known.fault = Some(format!("names pack {pack}, which is missing"));
                continue;
            };
            stored.extents = stored.extents.saturating_add(in_pack.extents);
            if in_pack.end > stored.bytes {
                let bytes = stored.bytes;
                known.fault = Some(format!("names a frame of pack {pack} that ends behind its {bytes} bytes"));
            }
            known.packs.push(index);
        }
        known.packs.sort_unstable();
    }
}
