//! Letting a server go on under a cluster's name where it cannot by itself: after `initdb` or `pg_upgrade`, with another
//! history, or out of a restore.
//!
//! What it writes stands in a lineage of its own, so nothing of what was stored before is touched. A cluster that is being
//! archived is not taken over: whoever holds its lease wins.

use chrono::{DateTime, Utc};
use pitr::clock::Clock;
use pitr::config::{Config, Environment};
use pitr::repository::layout::ClusterName;
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::repository::{LineageStore, Repository};

use super::prepare::{PrepareError, Reached, new_lineage, open_store, reach_server, server_address};
use crate::archiver::{ArchiverError, living_holder};
use crate::postgres::origin::{Origin, OriginError};

/// Why a server cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(
        "cluster \"{cluster}\" is being archived: process {pid} on {host} rewrote its lease at {}; nothing was changed",
        seen.format("%H:%M:%S UTC")
    )]
    Living { cluster: ClusterName, host: String, pid: u32, seen: DateTime<Utc> },
    #[error("could not look at the lease of lineage {lineage}")]
    Lease { lineage: LineageId, source: ArchiverError },
}

impl AdoptError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Prepare(error) => error.hint(),
            Self::Living { .. } => Some(
                "stop that agent if this server takes the place of the one that it archives; else give this server a \
                 cluster name of its own in the configuration"
                    .to_owned(),
            ),
            Self::Lease { source, .. } => source.hint(),
        }
    }

    /// Whether another try may succeed without a person doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Prepare(error) => error.is_passing(),
            Self::Living { .. } => false,
            Self::Lease { source, .. } => source.is_passing(),
        }
    }
}

/// Accepts the server as a new lineage of the cluster, or the one that an earlier call made for it. Where the cluster has
/// lineages of the server's identifier that it may not go on in, that takes `new_history`.
///
/// # Errors
/// As [`super::prepare::prepare`], but for the lineage that is missing; and where the cluster is being archived.
pub async fn adopt(
    config: &Config,
    environment: &Environment,
    clock: &dyn Clock,
    new_history: bool,
) -> Result<LineageId, AdoptError> {
    let conninfo = server_address(config, environment)?;
    let Reached { instance, origin, .. } = reach_server(&conninfo, config).await?;
    let failed = |source| PrepareError::Repository { url: config.repository.storage.url.to_string(), source };
    let store = open_store(config, environment).await?;
    let repository = Repository::open_or_create(store, clock).await.map_err(failed)?;
    let known = repository.lineages(&config.cluster).await.map_err(failed)?;
    let ours: Vec<&Lineage> = known
        .iter()
        .map(LineageStore::lineage)
        .filter(|lineage| lineage.lineage.system_identifier() == instance.system_identifier)
        .collect();
    if let (false, Some(own)) = (new_history, origin.newest_own(&ours)) {
        return Ok(own.lineage);
    }
    let mut wanted = new_lineage(&config.cluster, &instance, clock);
    let path = || instance.data_directory.clone().unwrap_or_default();
    if let Origin::Restore { restore } = &origin {
        if restore.is_none() {
            return Err(PrepareError::from(OriginError::Copy(path())).into());
        }
        wanted.restore.clone_from(restore);
    }
    if let Some(newest) = ours.iter().map(|lineage| lineage.lineage.generation()).max() {
        if !new_history {
            return Err(PrepareError::from(OriginError::Copy(path())).into());
        }
        wanted.lineage = LineageId::new(instance.system_identifier, newest.saturating_add(1));
    }
    for lineage in &known {
        refuse_the_living(config, lineage, clock).await?;
    }
    // One that was made meanwhile is somebody else's.
    loop {
        let made = repository.ensure_lineage(&wanted).await.map_err(failed)?;
        if *made.lineage() == wanted {
            return Ok(wanted.lineage);
        }
        let generation = wanted.lineage.generation().saturating_add(1);
        wanted.lineage = LineageId::new(instance.system_identifier, generation);
    }
}

async fn refuse_the_living(config: &Config, lineage: &LineageStore, clock: &dyn Clock) -> Result<(), AdoptError> {
    let id = lineage.lineage().lineage;
    let holder = living_holder(lineage, clock).await.map_err(|source| AdoptError::Lease { lineage: id, source })?;
    match holder {
        None => Ok(()),
        Some(lease) => Err(AdoptError::Living {
            cluster: config.cluster.clone(),
            host: lease.host,
            pid: lease.pid,
            seen: lease.time,
        }),
    }
}
