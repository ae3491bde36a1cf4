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

/// Which packs and maps a backup names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupParts {
    packs: BTreeMap<BackupId, BTreeSet<u32>>,
    maps: BTreeSet<ContentHash>,
}

impl BackupParts {
    pub fn add_pack(&mut self, pack: PackId) {
        self.packs.entry(pack.backup).or_default().insert(pack.number);
    }

    pub fn add_map(&mut self, map: ContentHash) {
        self.maps.insert(map);
    }

    pub fn add(&mut self, other: &Self) {
        for (backup, numbers) in &other.packs {
            self.packs.entry(backup.clone()).or_default().extend(numbers);
        }
        self.maps.extend(&other.maps);
    }

    #[must_use]
    pub fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.get(&pack.backup).is_some_and(|numbers| numbers.contains(&pack.number))
    }

    #[must_use]
    pub fn has_map(&self, map: &ContentHash) -> bool {
        self.maps.contains(map)
    }

    pub fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        self.packs
            .iter()
            .flat_map(|(backup, numbers)| numbers.iter().map(|n| PackId { backup: backup.clone(), number: *n }))
    }

    pub fn maps(&self) -> impl Iterator<Item = &ContentHash> {
        self.maps.iter()
    }
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
    /// By the contents that can be read, of complete backups and of those whose manifest was deleted.
    pub parts: BTreeMap<BackupId, BackupParts>,
    /// Contents that cannot be read.
    pub unreadable: BTreeSet<BackupId>,
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
