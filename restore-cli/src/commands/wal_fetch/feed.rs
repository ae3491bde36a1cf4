//! Which WAL is meant: by the recovery configuration of a restore, or by the configuration of the cluster.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;

use pitr::config::{Config, Environment, LoadError};
use pitr::postgres::SystemIdentifier;
use pitr::postgres::control_file::ControlFile;
use pitr::repository::{LineageStore, Repository};
use pitr::restore::recovery_config::{RecoveryConfig, RepositoryAccess};
use pitr::restore::wal_feed::WalFeed;
use pitr::storage::{self, ObjectStore, StorageOptions};

use crate::args::UsageError;
use crate::context::Context;
use crate::failure::Failure;

/// The feed of a restore.
///
/// # Errors
/// The repository cannot be read, or holds no such lineage.
pub async fn of_restore(config: &RecoveryConfig, environment: &Environment) -> Result<WalFeed, Failure> {
    let store: Arc<dyn ObjectStore> = storage::open(&storage_options(&config.repository, environment)?).await?;
    let repository = Repository::open(store).await?;
    let lineages = repository.lineages(&config.cluster).await?;
    let lineage = lineages.into_iter().find(|lineage| lineage.lineage().lineage == config.lineage);
    let lineage = lineage.ok_or_else(|| Failure::Failed {
        message: format!("the repository holds no lineage {} of \"{}\"", config.lineage, config.cluster),
        hint: None,
    })?;
    Ok(WalFeed::for_target(lineage, config.target_timeline, &config.wal)?)
}

/// As the restore reached it: by its configuration file where that can be read, else by what the restore noted of it.
fn storage_options(access: &RepositoryAccess, environment: &Environment) -> Result<StorageOptions, Failure> {
    let noted = || access.storage_options().map_err(|error| UsageError::new(error.to_string()));
    let Some(file) = &access.config else { return Ok(noted()?) };
    match Config::load(file) {
        Ok(config) => {
            let noted = noted()?;
            let mut options = config.repository.storage_options(environment)?;
            options.url = noted.url;
            options.s3.endpoint = noted.s3.endpoint;
            options.s3.region = noted.s3.region;
            options.s3.path_style = noted.s3.path_style;
            options.s3.ca_file = noted.s3.ca_file;
            Ok(options)
        }
        Err(error @ LoadError::Unreadable { .. }) => {
            tracing::info!(%error, "going on without it");
            Ok(noted()?)
        }
        Err(error) => Err(error.into()),
    }
}

/// All WAL of the cluster whose data directory this runs in.
///
/// # Errors
/// The repository cannot be read, or it is not clear which lineage is meant.
pub async fn of_cluster(context: &Context) -> Result<WalFeed, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository().await?;
    let cluster = settings.cluster(&repository).await?;
    let lineages = settings.lineages(&repository, &cluster).await?;
    let here = system_identifier_in(&context.current_directory);
    let lineage = choose(lineages, here).ok_or_else(|| match here {
        Some(id) => Failure::Failed {
            message: format!("the repository holds no WAL of the system {id}, which this data directory is of"),
            hint: None,
        },
        None => Failure::Failed {
            message: format!(
                "\"{cluster}\" has several lineages in the repository, and this is no data directory of one"
            ),
            hint: Some("run it in the data directory, as the server does".to_owned()),
        },
    })?;
    Ok(WalFeed::new(lineage))
}

/// The lineage of the data directory, the newest of its generations; outside of one, the only lineage there is.
fn choose(mut lineages: Vec<LineageStore>, here: Option<SystemIdentifier>) -> Option<LineageStore> {
    match here {
        Some(id) => lineages.into_iter().rfind(|lineage| lineage.lineage().lineage.system_identifier() == id),
        None if lineages.len() == 1 => lineages.pop(),
        None => None,
    }
}

fn system_identifier_in(directory: &Path) -> Option<SystemIdentifier> {
    let bytes = std::fs::read(directory.join("global/pg_control")).ok()?;
    ControlFile::parse(&bytes).ok().map(|control| control.system_identifier)
}

/// Runs this program again with the variables that lead to the credentials of a restore, where the server that called it
/// lacks them. Returns only where that is not needed, or fails.
///
/// # Errors
/// The program cannot be run.
pub fn with_variables(wanted: &BTreeMap<String, String>, environment: &Environment) -> io::Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| environment.get(name).is_none()).collect();
    // Also ends a chain of calls in which a variable does not arrive.
    if missing.is_empty() || environment.get(AGAIN).is_some() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let _name = arguments.next();
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(arguments).envs(missing).env(AGAIN, "1");
    Err(command.exec())
}

const AGAIN: &str = "PITR_WAL_FETCH_AGAIN";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_restore_counts_where_it_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("main.toml");
        let text =
            "cluster = \"main\"\n[repository]\nurl = \"s3://other/x\"\nregion = \"eu-1\"\nproxy = \"http://p:1\"\n";
        std::fs::write(&file, text).unwrap();
        let mut access = RepositoryAccess {
            config: Some(file),
            url: "s3://backups/pitr".to_owned(),
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            path_style: true,
            ..RepositoryAccess::default()
        };
        let options = storage_options(&access, &Environment::default()).unwrap();
        assert_eq!(options.url.to_string(), "s3://backups/pitr");
        assert!(options.s3.proxy.is_some() && options.s3.path_style && options.s3.region.is_none());

        access.config = Some(directory.path().join("gone.toml"));
        let options = storage_options(&access, &Environment::default()).unwrap();
        assert!(options.s3.proxy.is_none() && options.s3.endpoint.is_some());

        std::fs::write(directory.path().join("gone.toml"), "x").unwrap();
        assert!(matches!(storage_options(&access, &Environment::default()), Err(Failure::Config(_))));
    }

    #[test]
    fn runs_itself_again_only_for_what_is_missing_and_only_once() {
        let wanted = BTreeMap::from([("AWS_PROFILE".to_owned(), "backup".to_owned())]);
        assert!(with_variables(&wanted, &Environment::from_iter([("AWS_PROFILE", "mine")])).is_ok());
        assert!(with_variables(&wanted, &Environment::from_iter([(AGAIN, "1")])).is_ok());
        assert!(with_variables(&BTreeMap::new(), &Environment::default()).is_ok());
    }
}
