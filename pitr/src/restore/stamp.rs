//! The stamp of a restored data directory: `pitr_restore.json`, the first file that a restore writes and a file that stays.
//!
//! While a restore runs it says so: a directory with a stamp and without `global/pg_control` is the rest of a restore that
//! did not finish, in which no server can have started, and may be cleaned up by the next one. Afterwards it tells whose
//! copy the directory is, and that it must not archive into the lineage it came from: the agent refuses to serve a data
//! directory whose stamp has `archive` false.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::fs::{self, Action, Directory, Publish};
use crate::postgres::{Lsn, TimelineId};
use crate::recovery::{RecoveryTarget, RestorePlan};
use crate::repository::backup::BackupId;
use crate::repository::layout::ClusterName;
use crate::repository::lineage::LineageId;

/// No stamp is larger; a larger file of that name is not ours.
const MAX_STAMP_BYTES: u64 = 1 << 20;

/// Names one restore: the time it began and a random part, `20261122T101500Z-1a2b3c4d`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RestoreId(String);

/// The text does not name a restore.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid restore \"{0}\", expected a name such as 20261122T101500Z-1a2b3c4d")]
pub struct InvalidRestoreId(String);

impl RestoreId {
    #[must_use]
    pub fn new(time: DateTime<Utc>, random: u32) -> Self {
        Self(format!("{}-{random:08x}", time.format("%Y%m%dT%H%M%SZ")))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RestoreId {
    type Err = InvalidRestoreId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidRestoreId(text.to_owned());
        let (time, random) = text.split_once('-').ok_or_else(invalid)?;
        let time: BackupId = time.parse().map_err(|_| invalid())?;
        let random = u32::from_str_radix(random, 16).map_err(|_| invalid())?;
        let id = Self::new(time.time(), random);
        if id.0 == text { Ok(id) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for RestoreId {
    type Error = InvalidRestoreId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RestoreId> for String {
    fn from(id: RestoreId) -> Self {
        id.0
    }
}

impl fmt::Display for RestoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far the restore is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StampState {
    /// Files are being written; the directory cannot start.
    Restoring,
    /// All files are durable; only `global/pg_control` may be missing.
    Restored,
}

/// `pitr_restore.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreStamp {
    pub restore: RestoreId,
    pub state: StampState,
    /// Whether the server here may write into the lineage it came from. Only a rollback in place may.
    pub archive: bool,
    pub cluster: ClusterName,
    pub lineage: LineageId,
    pub backup: BackupId,
    pub target: RecoveryTarget,
    pub target_timeline: TimelineId,
    pub target_lsn: Lsn,
    pub started: DateTime<Utc>,
    pub data_directory: PathBuf,
    /// Directories outside the data directory that belong to this restore.
    pub tablespaces: Vec<PathBuf>,
    /// Whether files of an older cluster are reused here: what did not finish may then not be removed as a whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delta: bool,
    /// Where tablespaces of that cluster stand that the backup does not put there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_tablespaces: Vec<PathBuf>,
    /// Names in the data directory that its `pg_wal` was moved to, or is about to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_wal: Vec<String>,
}

/// The stamp of a directory, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum StampError {
    #[error("the stamp of the restore could not be read")]
    File(#[from] fs::Error),
    #[error("\"{}\" is not the stamp of a restore", path.display())]
    Malformed { path: PathBuf, source: Option<serde_json::Error> },
}

impl RestoreStamp {
    pub const FILE_NAME: &'static str = "pitr_restore.json";

    /// The stamp of a restore by `plan` that begins now.
    #[must_use]
    pub fn new(restore: RestoreId, plan: &RestorePlan, started: DateTime<Utc>, data_directory: &Path) -> Self {
        Self {
            restore,
            state: StampState::Restoring,
            archive: false,
            cluster: plan.lineage.cluster.clone(),
            lineage: plan.lineage.lineage,
            backup: plan.backup.id.clone(),
            target: plan.target.asked.clone(),
            target_timeline: plan.target.timeline,
            target_lsn: plan.target.lsn,
            started,
            data_directory: data_directory.to_owned(),
            tablespaces: Vec::new(),
            delta: false,
            former_tablespaces: Vec::new(),
            former_wal: Vec::new(),
        }
    }

    /// The stamp in `directory`, if there is one.
    ///
    /// # Errors
    /// A file of that name that cannot be read or is no stamp: who decides by the stamp must then decide for the worst.
    pub fn read(directory: &Path) -> Result<Option<Self>, StampError> {
        let path = directory.join(Self::FILE_NAME);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fs::Error::new(Action::Stat, path, error).into()),
        };
        if metadata.len() > MAX_STAMP_BYTES {
            return Err(StampError::Malformed { path, source: None });
        }
        let bytes = std::fs::read(&path).map_err(|error| fs::Error::new(Action::Read, &path, error))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|source| StampError::Malformed { path, source: Some(source) })
    }

    /// Puts the stamp into `directory` in place of an earlier one, durably. Blocks.
    pub(super) fn write(&self, directory: &Directory, owner: Option<(u32, u32)>) -> fs::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        super::owned_file::publish(directory, Self::FILE_NAME, &text, 0o600, owner, Publish::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_ids_are_read_back() {
        let id = RestoreId::new("2026-11-22T10:15:00.7Z".parse().unwrap(), 0x1a2b);
        assert_eq!(id.to_string(), "20261122T101500Z-00001a2b");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "20261122T101500Z", "20261122T101500Z-1", "20261122T101500Z-0000000G", "x-00000000", "../a"] {
            assert!(text.parse::<RestoreId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_file_that_is_no_stamp_is_an_error_not_an_absence() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(matches!(RestoreStamp::read(scratch.path()), Ok(None)));
        std::fs::write(scratch.path().join(RestoreStamp::FILE_NAME), "{}").unwrap();
        assert!(matches!(RestoreStamp::read(scratch.path()), Err(StampError::Malformed { .. })));
    }
}
