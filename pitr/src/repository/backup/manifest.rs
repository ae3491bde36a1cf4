//! The manifest: the object whose existence makes a backup exist. Written last, never changed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{BackupId, StoredPath};
use crate::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use crate::repository::document::Document;
use crate::repository::hash::ContentHash;
use crate::repository::layout::ClusterName;

/// `backups/<id>/intent.json`: written before the first byte is copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub id: BackupId,
    pub parent: Option<BackupId>,
    /// The interrupted backup that is taken up: what it stored is shared as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<BackupId>,
    pub start_time: DateTime<Utc>,
    pub host: String,
}

impl Document for Intent {
    const KIND: &'static str = "backup-intent";
}

/// Where the files were copied from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupSource {
    Primary,
    Standby,
}

/// A tablespace other than the two built in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupTablespace {
    pub oid: u32,
    /// Where it stood; empty for one in place, a directory in `pg_tblspc`.
    pub location: String,
    pub in_place: bool,
    pub mode: u32,
}

/// A page whose checksum did not match, however often it was read. It is in the backup as it was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CorruptPage {
    pub path: StoredPath,
    /// Block number within the relation, counted across its files.
    pub block: u32,
}

/// Who owned the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub user: Option<String>,
    pub group: Option<String>,
}

/// Settings below which hot standby refuses to replay this cluster's WAL (from `pg_control`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MinimumSettings {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
}

/// How a backup found out which pages it had to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMethod {
    /// Everything was read, and nothing shared.
    #[default]
    Whole,
    /// Pages that WAL changed since the parent were read, by the summaries; the others are the parent's.
    Summaries,
    /// Everything was read, and pages equal to the parent's are shared.
    Scan,
}

/// What a backup took over from one that was interrupted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resumed {
    pub id: BackupId,
    /// Bytes of packs that it and those before it had stored, and that this backup needs.
    pub bytes: u64,
}

/// How a backup came to share pages with an earlier one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sharing {
    pub method: CopyMethod,
    /// Why it was not done in a faster way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The backup that shared nothing, from which parent by parent this one comes; none where this is that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
    /// Pages taken for unchanged that were read all the same, to hold them against the parent's.
    #[serde(default)]
    pub sampled_pages: u64,
    /// Where the next sample begins.
    #[serde(default)]
    pub sample_end: u32,
    /// One that had changed, against what WAL says; everything was compared then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlike: Option<CorruptPage>,
}

/// `backups/<id>/manifest.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupManifest {
    pub id: BackupId,
    pub cluster: ClusterName,
    pub system_identifier: SystemIdentifier,
    pub postgres_version: ServerVersion,
    pub catalog_version: u32,
    pub control_version: u32,
    pub wal_segment_size: WalSegmentSize,
    pub data_checksums: bool,

    pub timeline: TimelineId,
    /// Redo pointer of the starting checkpoint: replay begins here (`START WAL LOCATION`).
    pub start_lsn: Lsn,
    pub checkpoint_lsn: Lsn,
    /// End of the record that makes the backup consistent: what `pg_backup_stop` returned.
    pub stop_lsn: Lsn,
    /// Start of that record (`XLOG_BACKUP_END`): the earliest target of a recovery from this backup.
    pub end_record_lsn: Lsn,
    /// By the server's clock.
    pub start_time: DateTime<Utc>,
    pub stop_time: DateTime<Utc>,
    pub source: BackupSource,

    pub tablespaces: Vec<BackupTablespace>,
    pub settings: MinimumSettings,
    pub owner: Owner,
    /// Permission bits of the data directory.
    pub directory_mode: u32,
    /// Where the data directory stood.
    pub data_directory: String,

    pub files: u64,
    /// Size of all files together.
    pub size_bytes: u64,
    /// Bytes of packs that this backup's files stand in, whoever wrote them.
    pub stored_bytes: u64,
    /// Bytes that this backup added to the repository.
    pub new_bytes: u64,
    pub pages_read: u64,
    pub corrupt_pages: Vec<CorruptPage>,
    /// The backup whose pages were shared; only a note, nothing needs it to exist.
    pub parent: Option<BackupId>,
    #[serde(default)]
    pub sharing: Sharing,
    /// Hash of the JSON lines of `contents.zst`.
    pub contents: ContentHash,
    pub agent_version: String,
}

impl Document for BackupManifest {
    const KIND: &'static str = "backup";
}
