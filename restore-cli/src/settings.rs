//! Where the repository and the agent are: from the configuration file, the command line and the environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pitr::config::{Config, Environment, RepositoryConfig, SecretSource, SocketPlaces, client_socket, locate};
use pitr::repository::layout::ClusterName;
use pitr::repository::{LineageStore, Repository};
use pitr::storage::{self, ObjectStore, StorageOptions, StorageUrl};

use crate::agent_client::AgentClient;
use crate::args::{AgentAddress, Global, UsageError};
use crate::failure::Failure;

/// Where configurations are looked for when none is named.
const DIRECTORY: &str = "/etc/pitr";
/// Somebody who only asks waits so long for a store that does not answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// After so long without an answer it is said what is waited for.
const NOTICE_AFTER: Duration = Duration::from_secs(3);

/// What the command line and the configuration say together.
#[derive(Debug, Clone)]
pub struct Settings {
    /// None: whatever the repository holds.
    pub cluster: Option<ClusterName>,
    pub repository: RepositoryConfig,
    /// The file, where there is one.
    pub config: Option<Config>,
    environment: Environment,
    agent: Option<AgentAddress>,
    token_file: Option<PathBuf>,
    uid: u32,
}

impl Settings {
    /// # Errors
    /// There is no configuration, or something is wrong with it.
    pub fn new(global: &Global, environment: &Environment, uid: u32) -> Result<Self, Failure> {
        Self::with_directory(global, environment, uid, Path::new(DIRECTORY))
    }

    fn with_directory(global: &Global, environment: &Environment, uid: u32, directory: &Path) -> Result<Self, Failure> {
        let file = match (&global.config, &global.repository) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(locate(global.cluster.as_ref(), directory)?),
        };
        let config = file.as_deref().map(Config::load).transpose()?;
        let cluster = global.cluster.clone().or_else(|| config.as_ref().map(|config| config.cluster.clone()));
        let repository = match (config.as_ref(), &global.repository) {
            (Some(config), Some(url)) => {
                let mut repository = config.repository.clone();
                repository.storage.url = url.clone();
                repository
            }
            (Some(config), None) => config.repository.clone(),
            (None, Some(url)) => RepositoryConfig::new(url.clone()),
            (None, None) => return Err(UsageError::new("no repository is named").into()),
        };
        let mut settings = Self {
            cluster,
            repository,
            config,
            environment: environment.clone(),
            agent: global.agent.clone(),
            token_file: global.token_file.clone(),
            uid,
        };
        settings.override_store(global);
        Ok(settings)
    }

    fn override_store(&mut self, global: &Global) {
        let s3 = &mut self.repository.storage.s3;
        if let Some(endpoint) = &global.endpoint {
            s3.endpoint = Some(endpoint.clone());
        }
        if let Some(region) = &global.region {
            s3.region = Some(region.clone());
        }
        if let Some(path_style) = global.path_style {
            s3.path_style = path_style;
        }
    }

    /// # Errors
    /// A secret is not where it should be.
    pub fn storage_options(&self) -> Result<StorageOptions, Failure> {
        Ok(self.repository.storage_options(&self.environment)?)
    }

    pub fn url(&self) -> &StorageUrl {
        &self.repository.storage.url
    }

    /// The repository, for work that takes its time: a store that is away for a while does not end it.
    ///
    /// # Errors
    /// The store cannot be used, or holds no repository.
    pub async fn open_repository(&self) -> Result<Repository, Failure> {
        self.open_with(self.storage_options()?).await
    }

    /// The repository, for somebody who waits for an answer.
    ///
    /// # Errors
    /// As [`Settings::open_repository`].
    pub async fn open_repository_soon(&self) -> Result<Repository, Failure> {
        let mut options = self.storage_options()?;
        options.retry.deadline = options.retry.deadline.min(ANSWER_DEADLINE);
        self.open_with(options).await
    }

    async fn open_with(&self, options: StorageOptions) -> Result<Repository, Failure> {
        let store: Arc<dyn ObjectStore> = storage::open(&options).await?;
        let mut opening = std::pin::pin!(Repository::open(store));
        let opened = tokio::select! {
            opened = &mut opening => opened,
            () = tokio::time::sleep(NOTICE_AFTER) => {
                let seconds = options.retry.deadline.as_secs();
                tracing::warn!("{} does not answer yet; it is tried for up to {seconds} s", self.url());
                opening.await
            }
        };
        opened.map_err(|source| Failure::OpenRepository { url: self.url().to_string(), source })
    }

    /// The cluster that is named, or the only one in the repository.
    ///
    /// # Errors
    /// There are several, or none.
    pub async fn cluster(&self, repository: &Repository) -> Result<ClusterName, Failure> {
        if let Some(cluster) = &self.cluster {
            return Ok(cluster.clone());
        }
        let clusters = repository.clusters().await?;
        match clusters.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::Failed { message: "the repository holds no cluster yet".to_owned(), hint: None }),
            several => {
                let names: Vec<&str> = several.iter().map(ClusterName::as_str).collect();
                Err(UsageError::new(format!("the repository holds {}", names.join(", ")))
                    .with_hint("choose one with --cluster NAME")
                    .into())
            }
        }
    }

    /// Those of the cluster that is meant, as [`Self::lineages`] gives them.
    ///
    /// # Errors
    /// The repository cannot be opened or read, or knows no such cluster.
    pub async fn lineages_of_cluster(&self) -> Result<Vec<LineageStore>, Failure> {
        let repository = self.open_repository().await?;
        let cluster = self.cluster(&repository).await?;
        self.lineages(&repository, &cluster).await
    }

    /// The lineages of `cluster`, oldest first; at least one.
    ///
    /// # Errors
    /// The repository cannot be read, or knows no such cluster.
    pub async fn lineages(&self, repository: &Repository, cluster: &ClusterName) -> Result<Vec<LineageStore>, Failure> {
        let lineages = repository.lineages(cluster).await?;
        if lineages.is_empty() {
            return Err(pitr::repository::Error::NoSuchCluster { cluster: cluster.to_string() }.into());
        }
        Ok(lineages)
    }

    /// # Errors
    /// The token cannot be read, or it is not known which agent is meant.
    pub fn agent(&self) -> Result<AgentClient, Failure> {
        let address = match &self.agent {
            Some(address) => address.clone(),
            None => AgentAddress::Socket(self.socket()?),
        };
        let token = self.token_file.clone().map(SecretSource::File);
        let token = token.map(|source| source.resolve(&self.environment)).transpose()?;
        Ok(AgentClient::new(address, token))
    }

    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = self.config.as_ref().and_then(|config| config.http.socket.clone()) {
            return Ok(socket);
        }
        let cluster = self.cluster.as_ref().ok_or_else(|| {
            UsageError::new("it is not known which agent is meant").with_hint("name it with --agent or --cluster")
        })?;
        Ok(client_socket(cluster, &SocketPlaces::of(self.uid, &self.environment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::GlobalArgs;

    fn global(change: impl FnOnce(&mut GlobalArgs)) -> Global {
        let mut args = GlobalArgs::default();
        change(&mut args);
        args.validate().unwrap()
    }

    fn settings(directory: &Path, change: impl FnOnce(&mut GlobalArgs)) -> Result<Settings, Failure> {
        Settings::with_directory(&global(change), &Environment::default(), u32::MAX, directory)
    }

    fn write(directory: &Path, cluster: &str) -> PathBuf {
        let path = directory.join(format!("{cluster}.toml"));
        let text =
            format!("cluster = \"{cluster}\"\n[repository]\nurl = \"s3://backups/{cluster}\"\nregion = \"eu-1\"\n");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_repository_on_the_command_line_needs_no_file() {
        let empty = tempfile::tempdir().unwrap();
        let settings = settings(empty.path(), |args| {
            args.repository = Some("s3://backups/pitr".to_owned());
            args.endpoint = Some("http://127.0.0.1:9000".to_owned());
            args.path_style = Some(true);
        })
        .unwrap();
        let options = settings.storage_options().unwrap();
        assert_eq!(options.url.to_string(), "s3://backups/pitr");
        assert_eq!(options.s3.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(options.s3.path_style && settings.cluster.is_none());
        assert!(matches!(settings.agent(), Err(Failure::Usage(_))));
    }

    #[test]
    fn the_only_file_is_found_and_the_command_line_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(settings(directory.path(), |_| ()), Err(Failure::Locate(_))));
        write(directory.path(), "main");
        let found = settings(directory.path(), |_| ()).unwrap();
        assert_eq!(found.cluster.unwrap().as_str(), "main");
        let changed = settings(directory.path(), |args| args.region = Some("us-1".to_owned())).unwrap();
        assert_eq!(changed.repository.storage.s3.region.as_deref(), Some("us-1"));

        let other = write(directory.path(), "other");
        assert!(matches!(settings(directory.path(), |_| ()), Err(Failure::Locate(_))));
        let chosen = settings(directory.path(), |args| args.cluster = Some("other".to_owned())).unwrap();
        assert_eq!(chosen.url().to_string(), "s3://backups/other");
        let named = settings(directory.path(), |args| {
            args.config = Some(other);
            args.repository = Some("file:///var/lib/pitr".to_owned());
        })
        .unwrap();
        assert_eq!(
            (named.url().to_string().as_str(), named.cluster.unwrap().as_str()),
            ("file:///var/lib/pitr", "other")
        );
    }

    #[test]
    fn socket_comes_from_the_configuration_or_the_name_of_the_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), "main");
        let by_name = settings(directory.path(), |_| ()).unwrap().socket().unwrap();
        assert_eq!(by_name, Path::new("/tmp/pitr-4294967295/main.sock"));
        let text = std::fs::read_to_string(&path).unwrap() + "[http]\nsocket = \"/srv/pitr.sock\"\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(settings(directory.path(), |_| ()).unwrap().socket().unwrap(), Path::new("/srv/pitr.sock"));
    }
}
