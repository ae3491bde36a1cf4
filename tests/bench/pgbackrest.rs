//! pgBackRest with zstd 3, bundles and block increments, which is how its own guide tunes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pitr_tests::{Account, s3};

use crate::contender::{Place, settle};
use crate::data::Source;
use crate::measure::{self, Sample};
use crate::settings::Settings;

pub struct PgBackRest<'a> {
    program: &'a PathBuf,
    source: &'a Source,
    place: &'a Place<'a>,
    config: PathBuf,
}

impl<'a> PgBackRest<'a> {
    pub fn prepare(settings: &'a Settings, source: &'a Source, place: &'a Place<'a>) -> Result<Self> {
        let account = Account::of_servers()?;
        let directory = &place.directory;
        for name in ["repository", "log", "lock", "spool", "restored"] {
            fs::create_dir(directory.join(name))?;
            account.own(&directory.join(name))?;
        }
        fs::set_permissions(directory.join("restored"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let config = directory.join("pgbackrest.conf");
        fs::write(&config, configuration(settings, source, place)?)?;
        account.own(&config)?;
        let tool = Self { program: &settings.pgbackrest, source, place, config };
        measure::command(tool.command(&["stanza-create"])?)?;
        Ok(tool)
    }

    /// From now on the server archives here.
    fn attach(&self) -> Result<()> {
        let push = format!(
            "exec {} --config={} --stanza=main archive-push \"$1\"\n",
            self.program.display(),
            self.config.display()
        );
        fs::write(&self.source.archiver, push)?;
        Account::of_servers()?.own(&self.source.archiver)
    }

    pub fn backup(&self) -> Result<Sample> {
        self.source.warm()?;
        settle();
        self.take("--type=full")
    }

    /// Of what changed since the last one.
    pub fn incremental(&self) -> Result<Sample> {
        settle();
        self.take("--type=incr")
    }

    fn take(&self, kind: &str) -> Result<Sample> {
        self.attach()?;
        let mut sample = measure::command(self.command(&[kind, "backup"])?)?;
        // Nobody archives any more until the next tool's turn.
        fs::remove_file(&self.source.archiver)?;
        sample.repository_bytes = self.backup_bytes()?;
        Ok(sample)
    }

    pub fn restore(&self) -> Result<Sample> {
        settle();
        let target = format!("--pg1-path={}", self.place.directory.join("restored").display());
        measure::command(self.command(&[&target, "--type=immediate", "restore"])?)
    }

    fn backup_bytes(&self) -> Result<u64> {
        let output = self.command(&["--output=json", "info"])?.output()?;
        ensure!(output.status.success(), "pgbackrest info: {}", String::from_utf8_lossy(&output.stderr));
        let info: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let backups = info.pointer("/0/backup").and_then(serde_json::Value::as_array);
        let newest = backups.and_then(|backups| backups.last()).context("no backup")?;
        let bytes = newest.pointer("/info/repository/delta").and_then(serde_json::Value::as_u64);
        bytes.with_context(|| format!("no size of the backup in {info}"))
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Account::of_servers()?.command(self.program);
        command.arg(format!("--config={}", self.config.display())).arg("--stanza=main").args(arguments);
        Ok(command)
    }
}

fn configuration(settings: &Settings, source: &Source, place: &Place<'_>) -> Result<String> {
    let directory = place.directory.display();
    let repository = match place.server {
        None => format!("repo1-path={directory}/repository"),
        Some(server) => {
            let (host, port) = server
                .endpoint()
                .rsplit_once(':')
                .map(|(host, port)| (host.to_owned(), port.to_owned()))
                .context("no port")?;
            format!(
                "repo1-type=s3\nrepo1-path=/{}\nrepo1-s3-endpoint={}\nrepo1-storage-port={port}\nrepo1-s3-bucket={}\n\
                 repo1-s3-region=us-east-1\nrepo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-s3-uri-style=path\n\
                 repo1-storage-verify-tls=n",
                place.name,
                host.trim_start_matches("https://"),
                s3::BUCKET,
                s3::ACCESS_KEY,
                s3::SECRET_KEY
            )
        }
    };
    let block = if knows_block_increments(&settings.pgbackrest)? { "repo1-block=y\n" } else { "" };
    Ok(format!(
        "[global]\n{repository}\nrepo1-retention-full=9\nrepo1-bundle=y\n{block}compress-type=zst\n\
         compress-level=3\nprocess-max={}\nstart-fast=y\nlog-level-console=warn\nlog-level-file=off\n\
         log-path={directory}/log\nlock-path={directory}/lock\nspool-path={directory}/spool\n\n\
         [main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\npg1-database=postgres\n",
        settings.workers,
        source.server.data_directory().display(),
        source.server.port(),
        source.server.socket_directory().display()
    ))
}

/// Before 2.46 they are a beta feature.
fn knows_block_increments(program: &Path) -> Result<bool> {
    let output = Account::of_servers()?.command(program).arg("version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().strip_prefix("pgBackRest ").with_context(|| format!("not pgBackRest: {text}"))?;
    let mut parts = version.split(['.', 'd']).map_while(|part| part.parse::<u32>().ok());
    Ok((parts.next(), parts.next()) >= (Some(2), Some(46)))
}
