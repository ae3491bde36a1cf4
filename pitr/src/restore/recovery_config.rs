//! The recovery configuration: what `pitr wal-fetch --restore` reads to serve one restored server.
//!
//! A restore leaves it as a file beside the data directory, with mode 0600. All paths in it are absolute, because a server
//! runs its `restore_command` in a directory and an environment of its own. It holds no secret: it says where credentials
//! come from.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::stamp::RestoreId;
use crate::fs::{self, Action};
use crate::postgres::{Lsn, TimelineId};
use crate::recovery::{RestorePlan, WalRun};
use crate::repository::layout::ClusterName;
use crate::repository::lineage::LineageId;
use crate::storage::{InvalidUrl, StorageOptions};

/// The version that this crate writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// No recovery configuration is larger.
const MAX_BYTES: u64 = 16 << 20;

/// How the repository is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepositoryAccess {
    /// The configuration file that the restore was given, which may name credentials; what follows takes precedence.
    pub config: Option<PathBuf>,
    pub url: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    #[serde(default)]
    pub path_style: bool,
    pub ca_file: Option<PathBuf>,
    /// Variables of the environment that lead to credentials without being any: `AWS_PROFILE`, `AWS_CONFIG_FILE`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

impl RepositoryAccess {
    /// Options for a store, as far as they stand here.
    ///
    /// # Errors
    /// The URL names no place for a repository.
    pub fn storage_options(&self) -> Result<StorageOptions, InvalidUrl> {
        let mut options = StorageOptions::new(self.url.parse()?);
        options.s3.endpoint.clone_from(&self.endpoint);
        options.s3.region.clone_from(&self.region);
        options.s3.path_style = self.path_style;
        options.s3.ca_file.clone_from(&self.ca_file);
        Ok(options)
    }
}

/// Where a restored server gets its WAL from, and how much of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoveryConfig {
    pub format: u32,
    pub restore: RestoreId,
    pub repository: RepositoryAccess,
    pub cluster: ClusterName,
    pub lineage: LineageId,
    pub data_directory: PathBuf,
    /// A directory in the file system of `pg_wal`, for segments that are fetched ahead. Made when needed.
    pub spool: PathBuf,
    /// What the server is told as `recovery_target_timeline`; none where it follows its origin as a standby.
    pub target_timeline: Option<TimelineId>,
    /// What the server needs up to its target, in order; empty where there is no end.
    pub wal: Vec<WalRun>,
}

/// Why a recovery configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryConfigError {
    #[error("the recovery configuration could not be read")]
    File(#[from] fs::Error),
    #[error("\"{}\" is no recovery configuration", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("\"{}\" has format {found}, this version reads up to {FORMAT}", path.display())]
    TooNew { path: PathBuf, found: u32 },
    #[error("\"{}\" is larger than any recovery configuration", path.display())]
    TooLarge { path: PathBuf },
}

impl RecoveryConfig {
    /// That of a plan's restore into `data_directory`.
    #[must_use]
    pub fn for_plan(
        restore: RestoreId,
        plan: &RestorePlan,
        repository: RepositoryAccess,
        data_directory: PathBuf,
    ) -> Self {
        Self {
            format: FORMAT,
            restore,
            repository,
            cluster: plan.lineage.cluster.clone(),
            lineage: plan.lineage.lineage,
            spool: data_directory.join("pg_wal").join("pitr_spool"),
            data_directory,
            target_timeline: Some(plan.target.timeline),
            wal: plan.wal.clone(),
        }
    }

    /// End of the target's record.
    #[must_use]
    pub fn end_lsn(&self) -> Option<Lsn> {
        self.wal.last().map(|run| run.to_lsn)
    }

    /// The content of the file.
    ///
    /// # Panics
    /// Never: paths that are not UTF-8 are refused when a restore is asked for.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a struct of strings and numbers")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a recovery configuration always has a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a file that holds what [`RecoveryConfig::to_bytes`] made.
    ///
    /// # Errors
    /// The file cannot be read, or is something else.
    pub fn load(path: &Path) -> Result<Self, RecoveryConfigError> {
        #[derive(Deserialize)]
        struct Preamble {
            format: u32,
        }
        let failed = |error| fs::Error::new(Action::Read, path, error);
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(RecoveryConfigError::TooLarge { path: path.to_owned() });
        }
        let malformed = |source| RecoveryConfigError::Malformed { path: path.to_owned(), source };
        let preamble: Preamble = serde_json::from_slice(&bytes).map_err(malformed)?;
        if preamble.format > FORMAT {
            return Err(RecoveryConfigError::TooNew { path: path.to_owned(), found: preamble.format });
        }
        serde_json::from_slice(&bytes).map_err(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::catalog::testing::{lsn, tli};

    fn config() -> RecoveryConfig {
        RecoveryConfig {
            format: FORMAT,
            restore: "20261122T101500Z-1a2b3c4d".parse().unwrap(),
            repository: RepositoryAccess {
                url: "s3://backups/pitr".to_owned(),
                endpoint: Some("http://127.0.0.1:9000".to_owned()),
                path_style: true,
                ..RepositoryAccess::default()
            },
            cluster: "main".parse().unwrap(),
            lineage: "7-1".parse().unwrap(),
            data_directory: "/srv/restored".into(),
            spool: "/srv/restored/pg_wal/pitr_spool".into(),
            target_timeline: Some(tli(1)),
            wal: vec![WalRun {
                timeline: tli(1),
                from_lsn: lsn(0x200_0028),
                to_lsn: lsn(0x300_0100),
                first_segment: "000000010000000000000002".to_owned(),
                last_segment: "000000010000000000000003".to_owned(),
                segments: 2,
                ends_in_tails: true,
            }],
        }
    }

    #[test]
    fn is_read_back() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("restore.json");
        std::fs::write(&path, config().to_bytes()).unwrap();
        assert_eq!(RecoveryConfig::load(&path).unwrap(), config());
        let options = config().repository.storage_options().unwrap();
        assert!(options.s3.path_style && options.s3.endpoint.is_some());
    }

    #[test]
    fn other_files_and_newer_formats_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("restore.json");
        assert!(matches!(RecoveryConfig::load(&path), Err(RecoveryConfigError::File(_))));
        for text in ["", "{}", "{\"format\":1}", "null"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(RecoveryConfig::load(&path), Err(RecoveryConfigError::Malformed { .. })), "{text}");
        }
        std::fs::write(&path, "{\"format\":2}").unwrap();
        assert!(matches!(RecoveryConfig::load(&path), Err(RecoveryConfigError::TooNew { found: 2, .. })));
    }
}
