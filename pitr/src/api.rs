//! The agent's HTTP API as values: what `pitr` and other clients send and get. JSON over HTTP/1.1, on the agent's unix
//! socket.
//!
//! | Method and path | Body | Answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`AgentStatus`] |
//! | `POST /v1/markers` | [`MarkRequest`] | 201 [`MarkReply`] |
//! | `POST /v1/markers/finish` | [`FinishRequest`] | 201 [`MarkReply`] |
//! | `POST /v1/backups` | [`BackupRequest`] | 202 [`BackupJob`]; 409 while another runs |
//! | `GET /v1/backups/current` | | [`BackupJob`] of the running or last one; 404 where none ran |
//! | `POST /v1/expire` | [`ExpireRequest`] | 202 [`ExpireJob`]; 409 while another runs |
//! | `GET /v1/expire/current` | | [`ExpireJob`] of the running or last one; 404 where none ran |
//! | `POST /v1/wal` | [`WalPushRequest`] | 200 [`WalPushReply`] once it is durable; from the agent's own user only |
//!
//! Every failure is an [`ApiError`] with a status of 4xx or 5xx.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId};
use crate::repository::backup::BackupId;
use crate::repository::lease::WalPosition;
use crate::repository::marker::{FinishedMarker, Outcome};

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub version: String,
    pub cluster: String,
    pub system_identifier: Option<SystemIdentifier>,
    pub postgres_version: Option<ServerVersion>,
    pub started: DateTime<Utc>,
    pub streaming: StreamingState,
    /// Up to where the server has flushed WAL, as far as the agent heard.
    pub server: Option<WalPosition>,
    pub received: Option<WalPosition>,
    pub sealed: Option<WalPosition>,
    /// Time of the newest commit or abort that is sealed.
    pub sealed_commit_time: Option<DateTime<Utc>>,
    /// Bytes between `server` and `sealed`.
    pub lag_bytes: Option<u64>,
    pub backup: Option<BackupJob>,
    pub next_backup: Option<DateTime<Utc>>,
    /// Trouble that lasts, in words, newest first.
    pub problems: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamingState {
    Connecting,
    Streaming,
    /// Connected, and served by `archive_command`: nothing is streamed.
    Archiving,
    /// Connected, and held back by uploads that do not get on.
    Stalled,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkRequest {
    pub name: String,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub who: Option<String>,
    /// How long to wait until the marker is sealed; 0 answers at once.
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishRequest {
    pub name: String,
    /// Picks one of several markers of that name.
    #[serde(default)]
    pub lsn: Option<Lsn>,
    pub outcome: Outcome,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    #[serde(default)]
    pub who: Option<String>,
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkReply {
    #[serde(flatten)]
    pub marker: FinishedMarker,
    /// Whether everything up to the marker, and the marker, is durable in the repository.
    pub sealed: bool,
    /// Whether an earlier request with the same key made it.
    pub found: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    #[serde(default)]
    pub who: Option<String>,
    /// Share nothing with earlier backups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupJob {
    pub id: BackupId,
    pub state: BackupState,
    pub phase: BackupPhase,
    pub started: DateTime<Utc>,
    pub finished: Option<DateTime<Utc>>,
    pub timeline: Option<TimelineId>,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub new_bytes: u64,
    pub corrupt_pages: u64,
    /// The interrupted backup that is taken up.
    #[serde(default)]
    pub resumes: Option<BackupId>,
    /// Bytes of packs that are taken over from it, once that is known.
    #[serde(default)]
    pub resumed_bytes: u64,
    /// Why it failed, and what is unharmed.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    Running,
    Complete,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupPhase {
    Starting,
    Copying,
    Stopping,
    WaitingForWal,
    Finishing,
}

/// Asks for retention now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireRequest {
    #[serde(default)]
    pub who: Option<String>,
    /// These backups, and nothing else; what the rules say where there is none.
    #[serde(default)]
    pub backups: Vec<BackupId>,
    /// Also pinned ones, and the last one.
    #[serde(default)]
    pub forced: bool,
}

/// A run of retention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireJob {
    pub state: ExpireState,
    pub started: DateTime<Utc>,
    pub finished: Option<DateTime<Utc>>,
    /// Backups that are gone.
    pub backups: Vec<BackupId>,
    pub deleted_objects: u64,
    pub deleted_bytes: u64,
    /// What nobody needs and that goes later.
    pub later_objects: u64,
    pub later_bytes: u64,
    /// What keeps anything from being deleted.
    pub held_up: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpireState {
    Running,
    Complete,
    Failed,
}

/// A file of `pg_wal` that is to be archived. The agent reads it itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalPushRequest {
    /// The file's name, which says what it must be.
    pub name: String,
    /// Absolute.
    pub path: String,
    /// The file as the client sees it: what the agent finds under `path` must be the same one.
    pub bytes: u64,
    pub device: u64,
    pub inode: u64,
    /// How long the client waits.
    pub timeout_ms: u64,
}

/// Proof that the file is durable in the repository: nothing else is answered with this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPushReply {
    pub name: String,
    pub durable: bool,
    /// Whether the same content was there already.
    pub found: bool,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    pub kind: ApiErrorKind,
    pub message: String,
    pub hint: Option<String>,
    /// For [`ApiErrorKind::Ambiguous`]: the markers to choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub markers: Vec<FinishedMarker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorKind {
    Invalid,
    NotFound,
    Conflict,
    Ambiguous,
    /// Made, but not sealed in time.
    TimedOut,
    /// The server or the repository cannot be reached.
    Unavailable,
    Internal,
}
