//! The whole configuration of one cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::error::{ConfigError, LoadError, Problem};
use super::{BackupConfig, DrillConfig, HttpConfig, PostgresConfig, RepositoryConfig, RetentionConfig, WalConfig};
use crate::repository::layout::ClusterName;
use crate::storage::StorageUrl;

/// A configuration in which nothing is wrong, as far as the file alone can tell.
#[derive(Clone, Debug)]
pub struct Config {
    pub cluster: ClusterName,
    pub postgres: PostgresConfig,
    pub repository: RepositoryConfig,
    pub wal: WalConfig,
    pub backup: BackupConfig,
    pub retention: RetentionConfig,
    pub drill: DrillConfig,
    pub http: HttpConfig,
    file: PathBuf,
    /// Where each key that is set stands.
    lines: BTreeMap<String, usize>,
}

impl Config {
    /// Reads and parses `path`.
    ///
    /// # Errors
    /// The file cannot be read, or something is wrong with it.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        Ok(Self::parse(&text, path)?)
    }

    /// `file` is only named in messages.
    ///
    /// # Errors
    /// Everything that is wrong.
    ///
    /// # Panics
    /// Never: what the expectations name was reported before.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let mut document = Document::parse(text);
        let cluster = read_cluster(&mut document);
        let postgres = PostgresConfig::read(&mut document.section("postgres"));
        let repository = RepositoryConfig::read(&mut document.section("repository"));
        // Only names the slot; the missing name is reported already.
        let slot_owner = cluster.as_ref().map_or("", ClusterName::as_str);
        let wal = WalConfig::read(&mut document.section("wal"), slot_owner);
        let backup = BackupConfig::read(&mut document.section("backup"));
        let retention = RetentionConfig::read(&mut document.section("retention"));
        let drill = DrillConfig::read(&mut document.section("drill"));
        let http = HttpConfig::read(&mut document.section("http"));
        let lines = document.finish(file)?;
        let cluster = cluster.expect("a missing or wrong cluster is among the problems");
        let repository = repository.expect("a missing or wrong url is among the problems");
        let file = file.to_owned();
        Ok(Self { cluster, postgres, repository, wal, backup, retention, drill, http, file, lines })
    }

    /// All defaults, for a client that was told no more than where the repository is.
    #[must_use]
    pub fn for_repository(cluster: ClusterName, url: StorageUrl) -> Self {
        Self {
            wal: WalConfig::for_cluster(cluster.as_str()),
            cluster,
            postgres: PostgresConfig::default(),
            repository: RepositoryConfig::new(url),
            backup: BackupConfig::default(),
            retention: RetentionConfig::default(),
            drill: DrillConfig::default(),
            http: HttpConfig::default(),
            file: PathBuf::new(),
            lines: BTreeMap::new(),
        }
    }

    /// The file that was read.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The server's address, which the agent needs and a client that only restores does not.
    ///
    /// # Errors
    /// `[postgres] connection` is missing.
    pub fn connection(&self) -> Result<&str, ConfigError> {
        self.postgres.connection.as_deref().ok_or_else(|| {
            self.refuse("postgres.connection", "missing, for example \"host=/var/run/postgresql user=postgres\"")
        })
    }

    /// An error about `key` (`section.key`), for whoever finds out later that its value does not do.
    #[must_use]
    pub fn refuse(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let line = self.lines.get(key).copied();
        ConfigError::new(&self.file, vec![Problem { line, key: key.to_owned(), message: message.into() }])
    }
}

fn read_cluster(document: &mut Document<'_>) -> Option<ClusterName> {
    let mut top = document.section("");
    let cluster = top.parsed("cluster", str::parse::<ClusterName>);
    if !top.is_set("cluster") {
        top.problem("cluster", "missing, name the cluster on the first line: cluster = \"main\"");
    }
    cluster
}
