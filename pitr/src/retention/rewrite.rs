//! Packs of which little is still needed: what is left of them goes into new ones.
//!
//! A pack goes when nothing names it any more, and one page that a kept backup needs is enough to name it. So what nobody
//! needs would stay as long as the longest pin. [`choose`] bounds that: once its plans are carried out, frames that nobody
//! needs take less than [`RATIO`] − 1 times what is needed, and what a plan would cost.

use std::collections::{BTreeMap, BTreeSet};

use super::holdings::BackupParts;
use crate::repository::backup::{BackupId, PackId};

/// A pack is mostly dead where less than one part of so many is needed.
pub const RATIO: u64 = 3;
/// What a run copies at most, unless reading the maps costs more.
const COPY_BYTES: u64 = 1 << 30;
/// A request counts as so many bytes.
const REQUEST_BYTES: u64 = 64 << 10;

/// Whether so little is needed of a pack that it is worth a copy.
#[must_use]
pub const fn is_mostly_dead(frame_bytes: u64, live_bytes: u64) -> bool {
    live_bytes.saturating_mul(RATIO) < frame_bytes
}

/// A pack that is mostly dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadPack {
    pub id: PackId,
    /// Size of the object, and what all its frames take.
    pub bytes: u64,
    pub frame_bytes: u64,
    /// What the backup that needs most of it needs. All of them together need more only where they share from it along
    /// different ways.
    pub live_bytes: u64,
}

/// Packs that are rewritten together. Nothing where it is not worth it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewritePlan {
    /// Those with the most dead bytes first.
    pub packs: Vec<DeadPack>,
    /// Every kept backup that names one of them, newest first.
    pub backups: Vec<BackupId>,
}

impl RewritePlan {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Sizes of the objects that go.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.bytes).sum()
    }

    /// What is copied.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.live_bytes).sum()
    }
}

/// What a plan reads and writes besides the packs: all maps of every backup that names one of them, and its contents.
#[must_use]
pub fn cost<'a>(backups: impl Iterator<Item = &'a BackupParts>) -> u64 {
    let mut maps = BTreeMap::new();
    let mut cost = 0_u64;
    for parts in backups {
        cost = cost.saturating_add(parts.contents_bytes + REQUEST_BYTES);
        maps.extend(parts.maps_with_bytes());
    }
    maps.values().fold(cost, |cost, bytes| cost.saturating_add(bytes + REQUEST_BYTES))
}

/// Which packs to rewrite, of those that the kept backups name.
#[must_use]
pub fn choose<'a>(kept: impl Iterator<Item = (&'a BackupId, &'a BackupParts)> + Clone) -> RewritePlan {
    let mut most: BTreeMap<PackId, DeadPack> = BTreeMap::new();
    for (_, parts) in kept.clone() {
        for (id, named) in parts.packs_with_use() {
            let Some(frame_bytes) = named.frame_bytes() else { continue };
            let (bytes, live_bytes) = (u64::from(named.bytes), u64::from(named.live_bytes));
            let known =
                most.entry(id).or_insert_with_key(|id| DeadPack { id: id.clone(), bytes, frame_bytes, live_bytes });
            known.live_bytes = known.live_bytes.max(live_bytes);
        }
    }
    let mut packs: Vec<DeadPack> =
        most.into_values().filter(|pack| is_mostly_dead(pack.frame_bytes, pack.live_bytes)).collect();
    let dead = |pack: &DeadPack| pack.frame_bytes.saturating_sub(pack.live_bytes);
    packs.sort_by(|a, b| dead(b).cmp(&dead(a)).then_with(|| a.id.cmp(&b.id)));
    let names = |parts: &BackupParts, packs: &BTreeSet<PackId>| parts.packs().any(|pack| packs.contains(&pack));
    let affected = |packs: &[DeadPack]| {
        let wanted: BTreeSet<PackId> = packs.iter().map(|pack| pack.id.clone()).collect();
        kept.clone().filter(move |(_, parts)| names(parts, &wanted)).collect::<Vec<_>>()
    };
    // What is dead is at least twice what is copied: a run that the limit ends is worth its cost as well.
    let limit = COPY_BYTES.max(cost(affected(&packs).iter().map(|(_, parts)| *parts)));
    let mut copied = 0_u64;
    packs.retain(|pack| {
        let within = copied < limit;
        copied = copied.saturating_add(pack.live_bytes + REQUEST_BYTES);
        within
    });
    let backups = affected(&packs);
    if packs.iter().map(dead).sum::<u64>() <= cost(backups.iter().map(|(_, parts)| *parts)) {
        return RewritePlan::default();
    }
    RewritePlan { packs, backups: backups.iter().rev().map(|(id, _)| (*id).clone()).collect() }
}

#[cfg(test)]
mod tests;
