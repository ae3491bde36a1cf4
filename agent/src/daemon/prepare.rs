//! What must be true before the first byte is archived: repository, server, lineage.

use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::{Uid, User};
use pitr::clock::Clock;
use pitr::config::{Config, ConfigError, Environment, SecretError, WalSource};
use pitr::postgres::SystemIdentifier;
use pitr::repository::layout::ClusterName;
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::repository::{self, LineageStore, Repository};
use pitr::secret::Secret;
use pitr::storage::{self, ErrorKind, LocalStore, ObjectStore, StorageUrl};

use crate::archiver::{GapBook, SlotGuard};
use crate::postgres::conninfo::{self, ConnInfo};
use crate::postgres::instance::{Finding, Instance, STANDBY, STANDBY_HINT, Severity, Slot};
use crate::postgres::origin::{Origin, OriginError};
use crate::postgres::{self, SqlSession, sql};

/// What we call ourselves to the server, unless the connection string says otherwise.
pub const APPLICATION_NAME: &str = "pitr-agent";

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("a secret of the configuration cannot be had")]
    Secret(#[from] SecretError),
    #[error("could not open the repository {url}")]
    Store {
        url: String,
        #[source]
        source: storage::Error,
    },
    #[error("could not use the repository {url}")]
    Repository {
        url: String,
        #[source]
        source: repository::Error,
    },
    /// A directory that is not mounted looks like one in which nothing was ever stored.
    #[error("there is no repository at {url}, and the slot \"{slot}\" says that this server was archived before")]
    RepositoryGone { url: String, slot: String },
    #[error(
        "there is no repository at {url}, and archive_command has handed over WAL of this server before, last \
         {last_archived}"
    )]
    RepositoryOfPushesGone { url: String, last_archived: String },
    #[error("could not talk to the server")]
    Postgres(#[from] postgres::Error),
    #[error("{}", .0.text)]
    Unsuitable(Finding),
    #[error("the server's data directory \"{}\" cannot be read", path.display())]
    DataDirectory { path: PathBuf, source: std::io::Error },
    #[error("the server does not tell where its data directory is")]
    HiddenDataDirectory,
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(
        "the repository knows cluster \"{cluster}\" with system identifier {known}, and the server's is {found}: it was \
         neither read nor changed"
    )]
    AnotherCluster { cluster: ClusterName, known: SystemIdentifier, found: SystemIdentifier },
}

impl PrepareError {
    /// Whether another try may succeed without a person doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Postgres(error) => error.is_passing(),
            Self::Store { source, .. } => is_passing(source),
            Self::Repository { source: repository::Error::Storage(error), .. } => is_passing(error),
            _ => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Store { source, .. } => return source.hint().map(str::to_owned),
            Self::Repository { source, .. } => return source.hint().map(str::to_owned),
            Self::Postgres(error) => return error.hint(),
            Self::Unsuitable(finding) => return finding.hint.clone(),
            Self::Origin(error) => error.hint(),
            Self::DataDirectory { .. } => {
                "run the agent on the server's host, as the user that owns the data directory"
            }
            Self::RepositoryGone { slot, .. } => {
                return Some(format!(
                    "mount the directory, or correct [repository] url; to begin anew in an empty place drop the slot \
                     first: SELECT pg_drop_replication_slot('{slot}')"
                ));
            }
            Self::RepositoryOfPushesGone { .. } => {
                "mount the directory, or correct [repository] url; where another tool was behind archive_command, or to begin \
                 anew in an empty place: SELECT pg_stat_reset_shared('archiver')"
            }
            Self::HiddenDataDirectory => "GRANT pg_read_all_settings TO the agent's role",
            Self::AnotherCluster { .. } => {
                "give this cluster a name of its own; after pg_upgrade or initdb, \"pitr-agent adopt\" lets it go on \
                 under the old name, and what was stored before stays restorable"
            }
            Self::Config(_) | Self::Secret(_) => return None,
        };
        Some(text.to_owned())
    }
}

fn is_passing(error: &storage::Error) -> bool {
    matches!(error.kind(), ErrorKind::Transient | ErrorKind::Unavailable | ErrorKind::Full)
}

/// All that archiving stands on.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub conninfo: ConnInfo,
    /// Whose files backups read, where they are not the primary's.
    pub standby: Option<ConnInfo>,
    pub instance: Instance,
    pub lineage: LineageStore,
}

/// How the server is connected to, by the configuration.
///
/// # Errors
/// The connection string is missing or wrong, or its password cannot be had.
pub fn server_address(config: &Config, environment: &Environment) -> Result<ConnInfo, PrepareError> {
    let mut conninfo = address(config, environment, "postgres.connection", config.connection()?)?;
    if conninfo.application_name.is_none() {
        // The server is told by this name whom commits wait for: no other cluster's agent may have it.
        let name = if config.wal.synchronous { &config.wal.slot } else { APPLICATION_NAME };
        conninfo = conninfo.with_application_name(name);
    }
    Ok(conninfo)
}

/// How the standby is connected to whose files backups read.
///
/// # Errors
/// The connection string is wrong, or its password cannot be had.
pub fn standby_address(config: &Config, environment: &Environment) -> Result<Option<ConnInfo>, PrepareError> {
    let text = config.backup.standby.as_deref();
    text.map(|text| address(config, environment, "backup.standby", text)).transpose()
}

fn address(config: &Config, environment: &Environment, key: &str, text: &str) -> Result<ConnInfo, PrepareError> {
    let mut conninfo = ConnInfo::parse(text, &libpq_environment(environment))
        .map_err(|error| config.refuse(key, error.to_string()))?;
    if let Some(source) = &config.postgres.password {
        conninfo.password = Some(source.resolve(environment)?);
    }
    Ok(conninfo)
}

fn libpq_environment(environment: &Environment) -> conninfo::Environment {
    let user = User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name);
    conninfo::Environment {
        password: environment.get("PGPASSWORD").map(|password| Secret::new(password.to_owned())),
        passfile: environment.get("PGPASSFILE").map(PathBuf::from),
        home: environment.get("HOME").map(PathBuf::from),
        user,
    }
}

/// The store that the configuration names. A local directory is made where it is missing.
///
/// # Errors
/// It cannot be opened.
pub async fn open_store(config: &Config, environment: &Environment) -> Result<Arc<dyn ObjectStore>, PrepareError> {
    if let StorageUrl::File { path } = &config.repository.storage.url {
        let failed = |source| PrepareError::Store { url: config.repository.storage.url.to_string(), source };
        LocalStore::create(path).await.map_err(failed)?;
    }
    existing_store(config, environment).await
}

async fn existing_store(config: &Config, environment: &Environment) -> Result<Arc<dyn ObjectStore>, PrepareError> {
    let options = config.repository.storage_options(environment)?;
    let failed = |source| PrepareError::Store { url: options.url.to_string(), source };
    storage::open(&options).await.map_err(failed)
}

/// What outlives attempts to reach server and repository.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub gaps: GapBook,
    pub guard: SlotGuard,
}

/// Reaches the server and the repository, and checks that they belong together.
///
/// # Errors
/// The first thing that stands in the way.
pub async fn prepare(
    config: &Config,
    environment: &Environment,
    clock: &dyn Clock,
    memory: &Memory,
) -> Result<Prepared, PrepareError> {
    let conninfo = server_address(config, environment)?;
    let standby = standby_address(config, environment)?;
    let Reached { instance, origin, before } = reach_server(&conninfo, config).await?;
    // A slot that was given up says as much of the server as one that is there.
    let before = if memory.guard.reason().is_some() { ArchivedBefore::BySlot } else { before };
    let url = config.repository.storage.url.to_string();
    let failed = |source| PrepareError::Repository { url: url.clone(), source };
    let opened = match before {
        ArchivedBefore::No => Repository::open_or_create(open_store(config, environment).await?, clock).await,
        _ => Repository::open(existing_store(config, environment).await?).await,
    };
    let repository = match (opened, before) {
        (Err(repository::Error::NotARepository), ArchivedBefore::BySlot) => {
            return Err(PrepareError::RepositoryGone { url, slot: config.wal.slot.clone() });
        }
        (Err(repository::Error::NotARepository), ArchivedBefore::ByPush { last_archived }) => {
            return Err(PrepareError::RepositoryOfPushesGone { url, last_archived });
        }
        (opened, _) => opened.map_err(failed)?,
    };
    let known = repository.lineages(&config.cluster).await.map_err(failed)?;
    let lineage = match choose_lineage(&known, &instance, &origin)? {
        Choice::Known(lineage) => lineage.clone(),
        Choice::Another(other) => {
            return Err(PrepareError::AnotherCluster {
                cluster: config.cluster.clone(),
                known: other,
                found: instance.system_identifier,
            });
        }
        Choice::First => new_lineage(&config.cluster, &instance, clock),
    };
    let lineage = repository.ensure_lineage(&lineage).await.map_err(failed)?;
    memory.gaps.load(&lineage).await.map_err(failed)?;
    Ok(Prepared { conninfo, standby, instance, lineage })
}

/// A server that can be archived.
pub(super) struct Reached {
    pub instance: Instance,
    pub origin: Origin,
    pub before: ArchivedBefore,
}

/// What the server knows of having been archived.
#[derive(Clone, Debug)]
pub(super) enum ArchivedBefore {
    No,
    /// It has our slot.
    BySlot,
    /// The command that hands WAL over to us has succeeded.
    ByPush {
        last_archived: String,
    },
}

pub(super) async fn reach_server(conninfo: &ConnInfo, config: &Config) -> Result<Reached, PrepareError> {
    let session = sql::connect(conninfo).await?;
    let instance = Instance::read(&session).await?;
    let before = archived_before(&session, config).await?;
    drop(session.close().await);
    let name = conninfo.application_name.as_deref().unwrap_or(APPLICATION_NAME);
    let mut findings = match config.wal.source {
        WalSource::Stream => instance.findings(name, config.wal.synchronous),
        WalSource::Archive => instance.findings_without_stream(name),
    };
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings {
        if finding.severity == Severity::Error {
            return Err(PrepareError::Unsuitable(finding));
        }
        tracing::warn!(hint = finding.hint.as_deref(), "{}", finding.text);
    }
    if instance.in_recovery {
        tracing::warn!(hint = STANDBY_HINT, "{STANDBY}");
    }
    let data_directory = instance.data_directory.clone().ok_or(PrepareError::HiddenDataDirectory)?;
    let path = data_directory.clone();
    let read = tokio::task::spawn_blocking(move || read_origin(path)).await;
    let failed = |crash| PrepareError::DataDirectory { path: data_directory, source: std::io::Error::other(crash) };
    Ok(Reached { instance, origin: read.map_err(failed)??, before })
}

/// `archive_command` ends with success only where the repository has the file, so what it archived was archived there. What
/// another command archived says nothing.
async fn archived_before(session: &SqlSession, config: &Config) -> Result<ArchivedBefore, PrepareError> {
    if config.wal.source == WalSource::Stream {
        let slot = Slot::read(session, &config.wal.slot).await?;
        return Ok(slot.map_or(ArchivedBefore::No, |_| ArchivedBefore::BySlot));
    }
    let sql = "SELECT last_archived_wal FROM pg_stat_archiver
               WHERE archived_count > 0 AND current_setting('archive_command') LIKE '%wal-push%'";
    let rows = session.query(sql, &[]).await?;
    let last = rows.first().and_then(|row| row.get::<_, Option<String>>(0));
    Ok(last.map_or(ArchivedBefore::No, |last_archived| ArchivedBefore::ByPush { last_archived }))
}

fn read_origin(path: PathBuf) -> Result<Origin, PrepareError> {
    match std::fs::read(path.join("global/pg_control")) {
        Ok(_) => Ok(Origin::read(&path)?),
        Err(source) => Err(PrepareError::DataDirectory { path, source }),
    }
}

pub(super) fn new_lineage(cluster: &ClusterName, instance: &Instance, clock: &dyn Clock) -> Lineage {
    Lineage {
        cluster: cluster.clone(),
        lineage: LineageId::new(instance.system_identifier, 1),
        postgres_version: instance.version,
        wal_segment_size: instance.segment_size,
        created: clock.now(),
        restore: None,
    }
}

/// Where a server goes on.
pub(crate) enum Choice<'a> {
    Known(&'a Lineage),
    First,
    Another(SystemIdentifier),
}

/// The newest generation of the server's own identifier that is open to its data directory; a cluster's name never passes to
/// another server by itself.
pub(crate) fn choose_lineage<'a>(
    known: &'a [LineageStore],
    instance: &Instance,
    origin: &Origin,
) -> Result<Choice<'a>, OriginError> {
    let lineages = || known.iter().map(LineageStore::lineage);
    let ours = |lineage: &&Lineage| lineage.lineage.system_identifier() == instance.system_identifier;
    let ours: Vec<&Lineage> = lineages().filter(ours).collect();
    let path = || instance.data_directory.clone().unwrap_or_default();
    Ok(match (origin.newest_own(&ours), origin, ours.last(), lineages().next_back()) {
        (Some(lineage), ..) => Choice::Known(lineage),
        (None, Origin::Restore { .. }, ..) => return Err(OriginError::Copy(path())),
        (None, _, Some(copys), _) => {
            return Err(OriginError::NotTheCopy { path: path(), lineage: copys.lineage });
        }
        (None, _, None, Some(other)) => Choice::Another(other.lineage.system_identifier()),
        (None, _, None, None) => Choice::First,
    })
}
