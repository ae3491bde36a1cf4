//! The cluster that is backed up: pgbench tables and thousands of small ones, with data checksums.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pitr_tests::{Account, Postgres, PostgresOptions, Scratch};

use crate::report::progress;
use crate::settings::Settings;

pub struct Source {
    pub server: Postgres,
    /// While this file exists, the server archives its WAL through it: it is the command to run. pgBackRest demands its
    /// own name in `archive_command`.
    pub archiver: PathBuf,
    pub bytes: u64,
    pub files: u64,
}

impl Source {
    pub async fn prepare(settings: &Settings, scratch: &Scratch) -> Result<Self> {
        let archiver = scratch.path().join("pgbackrest-archive-push");
        let command = format!("archive_command = 'test ! -e {0} || sh {0} %p'", archiver.display());
        let options = PostgresOptions::of(15)
            .conf("archive_mode = on")
            .conf(command)
            .conf("shared_buffers = 256MB")
            .conf("max_wal_size = 8GB")
            .conf("max_locks_per_transaction = 256")
            .conf("autovacuum = off");
        progress("making a cluster");
        let server = Postgres::start(options).await?;
        let mut pgbench = Account::of_servers()?.command(server.bin().join("pgbench"));
        pgbench.args(["--initialize", "--quiet", "--scale", &settings.scale.to_string()]);
        pgbench.arg("--host").arg(server.socket_directory()).args(["--port", &server.port().to_string()]);
        let output = pgbench.args(["--username", "postgres", "postgres"]).output().context("start pgbench")?;
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        let session = server.connect().await?;
        for first in (0..settings.tables).step_by(500) {
            let last = (first + 499).min(settings.tables - 1);
            session
                .batch_execute(&format!(
                    "DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format('CREATE TABLE small_%s AS \
                     SELECT k, md5(k::text || %s) AS v FROM generate_series(1, 60) AS k', n, n); END LOOP; END $$"
                ))
                .await?;
        }
        session.batch_execute("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await?;
        let (bytes, files) = size(server.data_directory(), &["pg_wal"])?;
        progress(&format!("{files} files, {} MB without pg_wal", bytes / 1_000_000));
        Ok(Self { server, archiver, bytes, files })
    }

    /// Drops the slots of agents that are gone.
    pub async fn forget_slots(&self) -> Result<()> {
        let gone = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        self.server.execute(gone).await
    }

    /// Reads every file once, so that no tool is the first one to.
    pub fn warm(&self) -> Result<()> {
        let data = self.server.data_directory();
        let status = Account::of_servers()?
            .command("sh")
            .args(["-c", "find \"$0\" -type f -print0 | xargs -0 cat >/dev/null"])
            .arg(data)
            .status()?;
        // Files may vanish between the two.
        if !status.success() {
            progress("some files vanished while the cache was warmed");
        }
        rustix::fs::sync();
        Ok(())
    }
}

/// Bytes and number of the files in a tree, without directories of these names.
pub fn size(tree: &Path, without: &[&str]) -> Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    let mut open = vec![tree.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let entry = entry?;
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                if !without.contains(&entry.file_name().to_string_lossy().as_ref()) {
                    open.push(entry.path());
                }
            } else {
                (bytes, files) = (bytes + found.len(), files + 1);
            }
        }
    }
    Ok((bytes, files))
}
