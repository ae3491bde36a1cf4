//! The certificate of a restore: what was asked, what the recovered server says it reached, and whether that is the same.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::stamp::RestoreId;
use crate::postgres::{Lsn, SystemIdentifier, TimelineId};
use crate::recovery::{RecoveryTarget, Transaction};
use crate::repository::backup::BackupId;
use crate::repository::document::Document;
use crate::repository::layout::ClusterName;
use crate::repository::lineage::LineageId;

/// One thing that was compared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub expected: String,
    pub found: String,
    pub ok: bool,
}

impl Check {
    pub(super) fn equal(name: &str, expected: impl ToString, found: Option<impl ToString>) -> Self {
        let expected = expected.to_string();
        let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        Self { name: name.to_owned(), ok: expected == found, expected, found }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check holds.
    Reached,
    NotReached,
}

/// How long a part of the restore took.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PhaseSeconds {
    pub phase: String,
    pub seconds: f64,
}

impl PhaseSeconds {
    /// To the millisecond: more is noise, and so few digits mean the same number to every reader of JSON.
    pub fn new(phase: &str, seconds: f64) -> Self {
        Self { phase: phase.to_owned(), seconds: (seconds * 1000.0).round() / 1000.0 }
    }
}

/// How much was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RestoredBytes {
    pub files: u64,
    /// On disk.
    pub restored: u64,
    /// From the repository.
    pub fetched: u64,
    /// WAL between the start of the backup and the target.
    pub wal: u64,
}

/// The server that was left running.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CertifiedServer {
    pub version: String,
    pub pid: u32,
    pub port: u16,
    pub socket_directory: PathBuf,
    pub log: PathBuf,
    pub stop_command: String,
}

/// `restores/<id>.json`, and `certificate.json` beside the restored cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Certificate {
    pub restore: RestoreId,
    pub cluster: ClusterName,
    pub lineage: LineageId,
    pub system_identifier: SystemIdentifier,
    /// What a person asked for.
    pub asked: RecoveryTarget,
    pub backup: BackupId,
    pub data_directory: PathBuf,
    pub started: DateTime<Utc>,
    pub finished: DateTime<Utc>,

    pub timeline_before: TimelineId,
    /// The one that the recovery ended on; none where it did not end.
    pub timeline_after: Option<TimelineId>,
    /// Start of the last record that was to be replayed.
    pub target_lsn: Lsn,
    /// Start of the last record that the server replayed, by its own word.
    pub reached_lsn: Option<Lsn>,
    pub last_kept: Option<Transaction>,
    pub first_left_out: Option<Transaction>,

    pub checks: Vec<Check>,
    pub seconds: Vec<PhaseSeconds>,
    pub bytes: RestoredBytes,
    pub server: Option<CertifiedServer>,
    pub notes: Vec<String>,
    /// Why it failed, if the server never got so far that it could be checked.
    pub failure: Option<String>,
    pub verdict: Verdict,
}

impl Document for Certificate {
    const KIND: &'static str = "restore-certificate";
}

impl Certificate {
    pub const FILE_NAME: &'static str = "certificate.json";

    /// The checks that do not hold.
    pub fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.ok)
    }
}
