//! pgBackRest's `archive-push` and `archive-get`, with zstd 3, over a data directory that holds nothing but WAL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use pitr::postgres::SegmentName;
use pitr_tests::{Account, s3};

use super::Where;
use super::mover::{self, Moved};
use super::source::WalSource;
use crate::measure;
use crate::settings::Settings;

pub struct PgBackRest<'a> {
    program: &'a Path,
    data: PathBuf,
    directory: PathBuf,
    config: PathBuf,
}

impl<'a> PgBackRest<'a> {
    fn at(settings: &'a Settings, source: &WalSource, place: &Where<'_>, run: usize) -> Self {
        let directory = source.scratch.join(format!("pgbackrest-{}-{run}", place.name.replace('+', "-")));
        let config = directory.join("pgbackrest.conf");
        Self { program: &settings.pgbackrest, data: source.data.clone(), directory, config }
    }

    /// With an empty repository.
    pub fn prepare(settings: &'a Settings, source: &WalSource, place: &Where<'_>, run: usize) -> Result<Self> {
        let tool = Self::at(settings, source, place, run);
        let account = Account::of_servers()?;
        for directory in ["", "repository", "log", "lock", "spool"] {
            let path = tool.directory.join(directory);
            fs::create_dir(&path).with_context(|| format!("mkdir {}", path.display()))?;
            account.own(&path)?;
        }
        fs::write(&tool.config, tool.configuration(settings, place)?)?;
        account.own(&tool.config)?;
        measure::command(tool.command(&["--no-online", "stanza-create"])?)?;
        Ok(tool)
    }

    /// What an earlier run has filled, with a spool of its own.
    pub fn filled(settings: &'a Settings, source: &WalSource, place: &Where<'_>, run: usize) -> Result<Self> {
        let tool = Self::at(settings, source, place, run);
        tool.empty_spool()?;
        Ok(tool)
    }

    pub fn empty_spool(&self) -> Result<()> {
        let spool = self.directory.join("spool");
        fs::remove_dir_all(&spool)?;
        fs::create_dir(&spool)?;
        Account::of_servers()?.own(&spool)
    }

    /// As the server's archiver asks where everything waits.
    pub fn push(&self, segments: &[SegmentName]) -> Result<Moved> {
        let status = self.data.join("pg_wal/archive_status");
        let command =
            |name: &SegmentName| self.command(&["--archive-async", "archive-push", &format!("pg_wal/{name}")]);
        let done = |name: &SegmentName| {
            fs::write(status.join(format!("{name}.done")), "")?;
            Ok(fs::remove_file(status.join(format!("{name}.ready")))?)
        };
        mover::each(segments, Duration::ZERO, command, done, || Ok(()))
    }

    /// One after the other, each stored when the call returns.
    pub fn push_each(&self, segments: &[SegmentName]) -> Result<Moved> {
        let command =
            |name: &SegmentName| self.command(&["--no-archive-async", "archive-push", &format!("pg_wal/{name}")]);
        mover::each(segments, Duration::ZERO, command, |_| Ok(()), || Ok(()))
    }

    /// As the startup process asks, in `data`.
    pub fn get(&self, data: &Path, segments: &[SegmentName], asynchronous: bool, pause: Duration) -> Result<Moved> {
        let target = format!("--pg1-path={}", data.display());
        let mode = if asynchronous { "--archive-async" } else { "--no-archive-async" };
        let command = |name: &SegmentName| {
            let mut command =
                self.command(&[&target, mode, "archive-get", &name.to_string(), "pg_wal/RECOVERYXLOG"])?;
            command.current_dir(data);
            Ok(command)
        };
        mover::each(segments, pause, command, |_| Ok(()), || Ok(()))
    }

    /// The `restore_command` of a server.
    pub fn restore_command(&self, data: &Path, asynchronous: bool) -> String {
        let mode = if asynchronous { "--archive-async" } else { "--no-archive-async" };
        format!(
            "{} --config={} --stanza=main --pg1-path={} {mode} archive-get %f \"%p\"",
            self.program.display(),
            self.config.display(),
            data.display()
        )
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Account::of_servers()?.command(self.program);
        command.arg(format!("--config={}", self.config.display())).arg("--stanza=main").args(arguments);
        command.current_dir(&self.data);
        Ok(command)
    }

    fn configuration(&self, settings: &Settings, place: &Where<'_>) -> Result<String> {
        let directory = self.directory.display();
        let repository = match place.endpoint() {
            None => format!("repo1-path={directory}/repository"),
            Some(endpoint) => {
                let (host, port) = endpoint.rsplit_once(':').context("no port")?;
                let name = self.directory.file_name().context("no name")?.to_string_lossy();
                format!(
                    "repo1-type=s3\nrepo1-path=/{name}\nrepo1-s3-endpoint={}\nrepo1-storage-port={port}\n\
                     repo1-s3-bucket={}\nrepo1-s3-region=us-east-1\nrepo1-s3-key={}\nrepo1-s3-key-secret={}\n\
                     repo1-s3-uri-style=path\nrepo1-storage-verify-tls=n",
                    host.trim_start_matches("https://"),
                    s3::BUCKET,
                    s3::ACCESS_KEY,
                    s3::SECRET_KEY
                )
            }
        };
        Ok(format!(
            "[global]\n{repository}\ncompress-type=zst\ncompress-level=3\nprocess-max={}\nlog-level-console=warn\n\
             log-level-file=off\nlog-path={directory}/log\nlock-path={directory}/lock\nspool-path={directory}/spool\n\n\
             [main]\npg1-path={}\n",
            settings.workers,
            self.data.display()
        ))
    }
}
