//! Packs that are stored, and maps that are named: the little that is kept of each.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::named_contents::NamedMap;
use crate::repository::backup::{BackupId, PackId};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageStore, Result};

/// Index of a pack in [`StoredPacks`].
pub(super) type PackIndex = u32;

#[derive(Clone, Copy, Debug)]
pub(super) struct StoredPack {
    pub(super) number: u32,
    pub(super) bytes: u64,
    /// A backup that was looked at names it.
    pub(super) named: bool,
    /// Extents of maps that are in it.
    pub(super) extents: u32,
}

/// Every pack of a lineage: 24 bytes for each.
#[derive(Debug, Default)]
pub(super) struct StoredPacks {
    packs: Vec<StoredPack>,
    /// Where the packs of each writer begin, in the order of `packs`.
    writers: Vec<(BackupId, PackIndex)>,
    /// Keys below `packs/` that are no packs.
    pub(super) foreign: Vec<String>,
}

impl StoredPacks {
    /// # Errors
    /// The store fails.
    pub(super) async fn list(lineage: &LineageStore) -> Result<Self> {
        let layout = lineage.layout();
        let prefix = layout.all_packs();
        let mut listed = lineage.store().list(&prefix);
        let mut by_writer: BTreeMap<BackupId, Vec<StoredPack>> = BTreeMap::new();
        let mut foreign = Vec::new();
        while let Some(meta) = listed.try_next().await? {
            let rest = meta.key.as_str().strip_prefix(prefix.as_str()).unwrap_or_default();
            let Ok(PackId { backup, number }) = rest.parse() else {
                foreign.push(meta.key.to_string());
                continue;
            };
            let pack = StoredPack { number, bytes: meta.size_bytes, named: false, extents: 0 };
            by_writer.entry(backup).or_default().push(pack);
        }
        let (mut packs, mut writers) = (Vec::new(), Vec::new());
        for (writer, mut own) in by_writer {
            own.sort_by_key(|pack| pack.number);
            writers.push((writer, u32::try_from(packs.len()).unwrap_or(u32::MAX)));
            packs.append(&mut own);
        }
        Ok(Self { packs, writers, foreign })
    }

    fn range_of(&self, writer: usize) -> std::ops::Range<usize> {
        let start = self.writers.get(writer).map_or(0, |(_, start)| *start as usize);
        let end = self.writers.get(writer + 1).map_or(self.packs.len(), |(_, start)| *start as usize);
        start..end
    }

    pub(super) fn find(&self, id: &PackId) -> Option<PackIndex> {
        let writer = self.writers.binary_search_by(|(writer, _)| writer.cmp(&id.backup)).ok()?;
        let range = self.range_of(writer);
        let at = self.packs.get(range.clone())?.binary_search_by_key(&id.number, |pack| pack.number).ok()?;
        u32::try_from(range.start + at).ok()
    }

    pub(super) fn get(&self, index: PackIndex) -> Option<&StoredPack> {
        self.packs.get(index as usize)
    }

    pub(super) fn get_mut(&mut self, index: PackIndex) -> Option<&mut StoredPack> {
        self.packs.get_mut(index as usize)
    }

    pub(super) fn id(&self, index: PackIndex) -> Option<PackId> {
        let writer = self.writers.partition_point(|(_, start)| *start <= index).checked_sub(1)?;
        let (backup, _) = self.writers.get(writer)?;
        Some(PackId { backup: backup.clone(), number: self.get(index)?.number })
    }

    /// In the order of their indexes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PackIndex, &StoredPack)> {
        (0..).zip(&self.packs)
    }
}

/// A map that a backup names.
#[derive(Clone, Debug)]
pub(super) struct KnownMap {
    pub(super) named: NamedMap,
    /// Every backup that names it is of a cluster with data checksums.
    pub(super) checksums: bool,
    /// Packs that its extents are in, in order.
    pub(super) packs: Vec<PackIndex>,
    /// Why no backup can use it.
    pub(super) fault: Option<String>,
}

/// By hash: the same map in many backups is one.
pub(super) type KnownMaps = BTreeMap<ContentHash, KnownMap>;
