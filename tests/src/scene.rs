//! The usual stage: a server, a repository, an agent that has taken its first backup.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pitr::clock::{Clock, SystemClock};
use pitr::postgres::Lsn;
use pitr::secret::Secret;
use pitr::storage::options::S3Credentials;
use pitr::storage::{self, ObjectStore, StorageOptions};
use serde_json::Value;

use crate::ports::Port;
use crate::postgres::RestoredServer;
use crate::{Agent, AgentOptions, Cli, Postgres, PostgresOptions, Run, S3Server, Scratch, s3};

/// Where the repository is.
#[derive(Debug)]
pub enum Store {
    Local(Scratch),
    S3(Box<S3Server>),
}

impl Store {
    /// # Errors
    /// The temporary directory can't be written.
    pub fn local() -> Result<Self> {
        let scratch = Scratch::new()?;
        scratch.directory("repository")?;
        Ok(Self::Local(scratch))
    }

    /// # Errors
    /// The S3 server is not installed or does not come up.
    pub async fn s3() -> Result<Self> {
        Ok(Self::S3(Box::new(S3Server::start().await?)))
    }

    /// The directory of a local repository.
    ///
    /// # Errors
    /// It is on S3.
    pub fn directory(&self) -> Result<PathBuf> {
        match self {
            Self::Local(scratch) => Ok(scratch.path().join("repository")),
            Self::S3(_) => anyhow::bail!("the repository is not a directory"),
        }
    }

    /// A place, for the test's own eyes; through `endpoint` where it is on S3. A local one must exist.
    ///
    /// # Errors
    /// It can't be opened.
    pub async fn open(&self, place: &str, endpoint: Option<&str>) -> Result<Arc<dyn ObjectStore>> {
        let url = match self {
            Self::Local(scratch) => format!("file://{}", scratch.path().join(place).display()),
            Self::S3(_) => format!("s3://{}/{place}", s3::BUCKET),
        };
        let mut options = StorageOptions::new(url.parse().map_err(|error| anyhow::anyhow!("{url}: {error}"))?);
        if let Self::S3(server) = self {
            options.s3.endpoint = Some(endpoint.map_or_else(|| server.endpoint(), ToOwned::to_owned));
            options.s3.region = Some("us-east-1".to_owned());
            options.s3.path_style = true;
            options.s3.credentials = Some(S3Credentials {
                access_key_id: s3::ACCESS_KEY.to_owned(),
                secret_access_key: Secret::new(s3::SECRET_KEY.to_owned()),
                session_token: None,
            });
        }
        Ok(storage::open(&options).await?)
    }

    /// The agent's configuration for a server with this repository.
    #[must_use]
    pub fn options(&self, server: &Postgres) -> AgentOptions {
        match self {
            Self::Local(scratch) => AgentOptions::local(server, &scratch.path().join("repository")),
            Self::S3(store) => AgentOptions::s3(server, &store.endpoint()),
        }
    }
}

/// A protected server. Dropped in the order of its parts: the agent before what it talks to.
#[derive(Debug)]
pub struct Scene {
    pub agent: Agent,
    pub server: Postgres,
    pub store: Store,
    restores: Scratch,
    restored: AtomicU32,
}

impl Scene {
    /// # Errors
    /// A part does not come up.
    pub async fn start(options: PostgresOptions, store: Store) -> Result<Self> {
        Self::around(Postgres::start(options).await?, store).await
    }

    /// # Errors
    /// A part does not come up.
    pub async fn around(server: Postgres, store: Store) -> Result<Self> {
        let options = store.options(&server);
        Self::with(server, store, &options).await
    }

    /// With an agent configured otherwise.
    ///
    /// # Errors
    /// A part does not come up.
    pub async fn with(server: Postgres, store: Store, options: &AgentOptions) -> Result<Self> {
        Self::of(server, store, Agent::start(options).await?)
    }

    /// Of parts that run already.
    ///
    /// # Errors
    /// The temporary directory can't be written.
    pub fn of(server: Postgres, store: Store, agent: Agent) -> Result<Self> {
        Ok(Self { agent, server, store, restores: Scratch::new()?, restored: AtomicU32::new(0) })
    }

    #[must_use]
    pub const fn cli(&self) -> &Cli {
        self.agent.cli()
    }

    /// A path for the next restore; it does not exist yet.
    #[must_use]
    pub fn next_directory(&self) -> PathBuf {
        self.restores.path().join(format!("r{}", self.restored.fetch_add(1, Ordering::Relaxed)))
    }

    /// Waits until everything that the server has written so far is sealed.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn seal(&self) -> Result<Lsn> {
        // What was inserted and not flushed belongs to nobody yet: a commit makes it flushed.
        self.server.execute("SELECT pg_current_xact_id()").await?;
        let lsn = self.server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?;
        self.agent.wait_sealed(lsn).await?;
        Ok(lsn)
    }

    /// The primary's host is lost: agent and server are killed in the same moment, and the data directory is gone. Gives that
    /// moment.
    ///
    /// # Errors
    /// They can't be killed.
    pub fn lose_host(&mut self) -> Result<DateTime<Utc>> {
        let mut doomed = vec![self.agent.pid().context("the agent does not run")?];
        doomed.extend(self.server.processes());
        let moment = SystemClock.now();
        for pid in doomed {
            // A backend may have ended meanwhile.
            let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
        }
        self.agent.kill()?;
        self.server.bury()?;
        Ok(moment)
    }

    /// Restores, starts the restored server and gives it with the certificate.
    ///
    /// # Errors
    /// The restore fails.
    pub async fn restore(&self, target: &[&str]) -> Result<Restored> {
        let (run, directory, port) = self.try_restore(target).await?;
        let run = run.success().with_context(|| format!("restore {}", target.join(" ")))?;
        let certificate = run.json()?;
        let server = RestoredServer::find(&directory)?;
        Ok(Restored { server, certificate, run, _port: port })
    }

    /// Restores with `--start`, and leaves it to the caller whether that should work.
    ///
    /// # Errors
    /// The command can't be run.
    pub async fn try_restore(&self, target: &[&str]) -> Result<(Run, PathBuf, Port)> {
        let (directory, port) = (self.next_directory(), Port::take()?);
        let (path, number) = (directory.display().to_string(), port.number().to_string());
        let mut arguments = vec!["restore"];
        arguments.extend(target);
        arguments.extend(["--into", &path, "--start", "--port", &number, "--yes", "--json"]);
        Ok((self.cli().run(arguments).await?, directory, port))
    }
}

/// A server that came out of a restore.
#[derive(Debug)]
pub struct Restored {
    pub server: RestoredServer,
    pub certificate: Value,
    pub run: Run,
    _port: Port,
}
