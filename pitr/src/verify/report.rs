//! What a verification of one lineage found.

use chrono::{DateTime, Utc};

use super::damage::Damage;
use super::loss::Loss;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::BackupId;
use crate::repository::catalog::{Gap, Window};
use crate::repository::lineage::LineageId;
use crate::summarize::VerifiedTimeline;

/// One backup: whole, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupVerdict {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub stop_lsn: Lsn,
    pub stop_time: DateTime<Utc>,
    /// What of it cannot be restored; empty where it is whole.
    pub faults: Vec<String>,
    /// So many more.
    pub more_faults: u64,
}

impl BackupVerdict {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What was looked at, and what nothing names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub backups: u64,
    pub documents: u64,
    pub maps: u64,
    /// That are there.
    pub packs: u64,
    /// Of which every byte was checked.
    pub packs_read: u64,
    pub pack_bytes_read: u64,
    pub segments: u64,
    pub tails: u64,
    pub segments_read: u64,
    /// Plain.
    pub wal_bytes_read: u64,
    /// WAL summaries that say what the records say.
    pub summaries_compared: u64,
    /// Packs, maps and other objects that no backup names: of a backup that runs or was given up, or left by a removal.
    pub unnamed_objects: u64,
    pub unnamed_bytes: u64,
    /// Objects that this version does not know.
    pub unknown_objects: u64,
}

/// What a verification of one lineage found.
#[derive(Clone, Debug)]
pub struct LineageReport {
    pub lineage: LineageId,
    pub damages: Vec<Damage>,
    /// Beyond those that are told.
    pub more_damages: u64,
    pub backups: Vec<BackupVerdict>,
    /// Backups without a manifest: under way, or given up.
    pub incomplete: Vec<BackupId>,
    /// Holes in the WAL for which there is an explanation.
    pub gaps: Vec<Gap>,
    /// What can be restored, without what is damaged.
    pub windows: Vec<Window>,
    pub loss: Loss,
    /// WAL summaries by timeline.
    pub summaries: Vec<VerifiedTimeline>,
    pub figures: Figures,
    /// What a person should know, and is no damage.
    pub notes: Vec<String>,
}

impl LineageReport {
    /// Whether anything is damaged or missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damages.is_empty() && self.more_damages == 0 && self.backups.iter().all(BackupVerdict::is_whole)
    }
}
