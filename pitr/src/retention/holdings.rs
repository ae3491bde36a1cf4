//! What the repository holds of one lineage, as far as retention has to know it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::postgres::TimelineId;
use crate::repository::backup::{BackupId, PackId};
use crate::repository::catalog::Catalog;
use crate::repository::condemnation::Condemnation;
use crate::repository::hash::ContentHash;
use crate::repository::lineage::LineageId;
use crate::repository::pin::{Pin, PinSubject};

/// What a backup says of a pack that it names. A pack takes at most 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackUse {
    /// Size of the object.
    pub bytes: u32,
    /// What all frames of the pack take; 0 where it is not told.
    frame_bytes: u32,
    /// What the backup needs of it.
    pub live_bytes: u32,
}

impl PackUse {
    #[must_use]
    pub fn new(bytes: u64, live_bytes: u64, frame_bytes: Option<u64>) -> Self {
        let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let frame_bytes = frame_bytes.map_or(0, narrow);
        Self { bytes: narrow(bytes), frame_bytes, live_bytes: narrow(live_bytes) }
    }

    #[must_use]
    pub fn frame_bytes(&self) -> Option<u64> {
        (self.frame_bytes > 0).then(|| u64::from(self.frame_bytes))
    }
}

/// Which packs and maps a backup names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupParts {
    /// Which generation of its contents says so, and the size of that object.
    pub generation: u32,
    pub contents_bytes: u64,
    packs: BTreeMap<BackupId, BTreeMap<u32, PackUse>>,
    /// With the sizes of their objects.
    maps: BTreeMap<ContentHash, u64>,
}

impl BackupParts {
    #[must_use]
    pub fn of_contents(generation: u32, contents_bytes: u64) -> Self {
        Self { generation, contents_bytes, ..Self::default() }
    }

    pub fn add_pack(&mut self, pack: PackId, named: PackUse) {
        self.packs.entry(pack.backup).or_default().insert(pack.number, named);
    }

    pub fn add_map(&mut self, map: ContentHash, stored_bytes: u64) {
        self.maps.insert(map, stored_bytes);
    }

    #[must_use]
    pub fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.get(&pack.backup).is_some_and(|numbers| numbers.contains_key(&pack.number))
    }

    #[must_use]
    pub fn has_map(&self, map: &ContentHash) -> bool {
        self.maps.contains_key(map)
    }

    pub fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        self.packs_with_use().map(|(id, _)| id)
    }

    pub fn packs_with_use(&self) -> impl Iterator<Item = (PackId, PackUse)> + '_ {
        self.packs.iter().flat_map(|(backup, numbers)| {
            numbers.iter().map(|(number, named)| (PackId { backup: backup.clone(), number: *number }, *named))
        })
    }

    pub fn maps(&self) -> impl Iterator<Item = &ContentHash> {
        self.maps.keys()
    }

    pub fn maps_with_bytes(&self) -> impl Iterator<Item = (ContentHash, u64)> + '_ {
        self.maps.iter().map(|(hash, bytes)| (*hash, *bytes))
    }
}

/// Packs and maps, whoever names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NamedParts {
    packs: BTreeMap<BackupId, BTreeSet<u32>>,
    maps: BTreeSet<ContentHash>,
}

impl NamedParts {
    pub(super) fn add(&mut self, parts: &BackupParts) {
        for (backup, numbers) in &parts.packs {
            self.packs.entry(backup.clone()).or_default().extend(numbers.keys());
        }
        self.maps.extend(parts.maps.keys());
    }

    pub(super) fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.get(&pack.backup).is_some_and(|numbers| numbers.contains(&pack.number))
    }

    pub(super) fn has_map(&self, map: &ContentHash) -> bool {
        self.maps.contains(map)
    }
}

/// A generation of a backup's contents that another one took the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    pub backup: BackupId,
    pub generation: u32,
    pub since: DateTime<Utc>,
    /// None where it cannot be read.
    pub parts: Option<BackupParts>,
}

/// A backup with an intent and without a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBackup {
    pub id: BackupId,
    pub parent: Option<BackupId>,
    /// The interrupted backup that it takes up.
    pub resumes: Option<BackupId>,
    /// When it last put an object.
    pub active: DateTime<Utc>,
}

/// One lineage.
#[derive(Clone, Debug, PartialEq)]
pub struct Holdings {
    pub catalog: Catalog,
    /// By the newest contents, where they can be read, of complete backups and of those whose manifest was deleted.
    pub parts: BTreeMap<BackupId, BackupParts>,
    /// Backups whose newest contents cannot be read.
    pub unreadable: BTreeSet<BackupId>,
    /// Contents that are not the newest of their backup.
    pub superseded: Vec<Superseded>,
    pub open: Vec<OpenBackup>,
    /// Those in force.
    pub pins: Vec<Pin>,
    pub condemned: Vec<Condemnation>,
    /// When the last WAL of a timeline was stored, by the store's clock: what it holds was written before.
    pub wal_stored: BTreeMap<TimelineId, DateTime<Utc>>,
}

impl Holdings {
    #[must_use]
    pub fn id(&self) -> LineageId {
        self.catalog.lineage.lineage
    }

    #[must_use]
    pub fn is_pinned(&self, backup: &BackupId) -> bool {
        self.pins.iter().any(|pin| matches!(&pin.subject, PinSubject::Backup { id } if id == backup))
    }

    /// When a backup was condemned last.
    #[must_use]
    pub fn condemned_since(&self, backup: &BackupId) -> Option<DateTime<Utc>> {
        self.condemned.iter().filter(|note| note.backups.contains(backup)).map(|note| note.time).max()
    }
}
