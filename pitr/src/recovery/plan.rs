//! The plan of a restore: a value, computed without touching anything, that `--dry-run` prints and a restore executes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::target::RecoveryTarget;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::{BackupManifest, MinimumSettings};
use crate::repository::lineage::Lineage;

/// What a restore will do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RestorePlan {
    pub lineage: Lineage,
    pub backup: BackupManifest,
    pub target: ResolvedTarget,
    /// The WAL to replay, in order, one run for each timeline: from the backup's start to the target's end.
    pub wal: Vec<WalRun>,
    pub fetch: FetchSize,
    /// Settings below which hot standby refuses to replay, or pauses: the backup's, raised by every change in the WAL.
    pub settings: MinimumSettings,
    /// How much was read to make the plan.
    #[serde(default)]
    pub basis: PlanBasis,
    pub warnings: Vec<PlanWarning>,
}

/// What a plan was made from. WAL that was not decoded was not proven either: damage in it shows when it is replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlanBasis {
    /// Bytes of WAL that were read and decoded.
    pub wal_decoded_bytes: u64,
    /// Bytes of WAL that summaries spoke for.
    pub wal_skipped_bytes: u64,
    /// Summaries that were read.
    pub summaries: u64,
}

impl PlanBasis {
    /// What was read for another backup, which did not serve.
    pub const fn add(&mut self, other: &Self) {
        self.wal_decoded_bytes += other.wal_decoded_bytes;
        self.wal_skipped_bytes += other.wal_skipped_bytes;
        self.summaries += other.summaries;
    }
}

/// A target as the server is told: `recovery_target_timeline`, `recovery_target_lsn`, inclusive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResolvedTarget {
    pub asked: RecoveryTarget,
    pub timeline: TimelineId,
    /// Start of the last record that is replayed.
    pub lsn: Lsn,
    /// End of that record.
    pub end_lsn: Lsn,
    /// The newest transaction that the restored state holds, as far as the decoded WAL shows one.
    pub last_kept: Option<Transaction>,
    /// The oldest transaction after the target; none where nothing came later.
    pub first_left_out: Option<Transaction>,
}

/// The end of a transaction in the WAL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transaction {
    pub xid: u32,
    pub time: DateTime<Utc>,
    /// Start of the commit or abort record.
    pub lsn: Lsn,
    pub end: TransactionEnd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionEnd {
    Commit,
    Abort,
}

/// Consecutive WAL on one timeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalRun {
    pub timeline: TimelineId,
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
    pub first_segment: String,
    pub last_segment: String,
    pub segments: u64,
    /// Whether the last segment is still open, and comes from its tails.
    pub ends_in_tails: bool,
}

/// How much comes from the repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FetchSize {
    pub files: u64,
    /// Bytes on disk once restored.
    pub backup_bytes: u64,
    /// Bytes of packs to fetch.
    pub backup_stored_bytes: u64,
    pub wal_segments: u64,
    /// Bytes of WAL to replay.
    pub wal_bytes: u64,
}

/// What a person should know before going on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PlanWarning {
    /// The backup holds pages whose checksum did not match when it was taken.
    CorruptPages { count: u64 },
    /// Replay creates or drops a tablespace at this path, outside the data directory.
    TablespaceInWal { lsn: Lsn, path: String },
    /// Commit times go backwards around the target: the moment is ambiguous.
    TimesNotMonotonic { lsn: Lsn },
    /// The wanted time is after everything the repository holds: the end of it is taken.
    BeyondLastCommit { last: Option<DateTime<Utc>> },
    /// The marker was taken by its name while others share it.
    NewestOfSeveralMarkers { count: u64 },
    /// In-place tablespaces need `allow_in_place_tablespaces`.
    InPlaceTablespace { oid: u32 },
}
