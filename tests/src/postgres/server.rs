//! A throwaway server: made by `initdb`, run as a child of the test, gone with the value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pitr::postgres::Lsn;

use super::{Connection, PostgresOptions};
use crate::ports::Port;
use crate::{Account, Process, Scratch, executables, process, wait};

/// What tests change in every server. Processes are killed here, never the machine: nothing needs to reach the disk.
const SETTINGS: &str = "
fsync = off
shared_buffers = 32MB
max_connections = 60
track_commit_timestamp = on
log_line_prefix = '%m [%p] '
log_checkpoints = on
lc_messages = 'C'
timezone = 'UTC'
log_timezone = 'UTC'
";

/// The three shutdown modes of `pg_ctl stop`, and a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    Smart,
    Fast,
    Immediate,
    /// SIGKILL to the postmaster.
    Kill,
}

/// A server, running or stopped.
#[derive(Debug)]
pub struct Postgres {
    pub(super) options: PostgresOptions,
    pub(super) scratch: Scratch,
    pub(super) data: PathBuf,
    pub(super) bin: PathBuf,
    pub(super) port: Port,
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// The version is not installed, or the server does not come up.
    pub async fn start(options: PostgresOptions) -> Result<Self> {
        let mut server = Self::init(options)?;
        server.run().await?;
        Ok(server)
    }

    /// Makes a cluster without starting it.
    ///
    /// # Errors
    /// The version is not installed, or `initdb` fails.
    pub fn init(options: PostgresOptions) -> Result<Self> {
        let server = Self::prepare(options)?;
        let mut initdb = Account::of_servers()?.command(server.bin.join("initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]);
        if let Some(megabytes) = server.options.wal_segment_mb {
            initdb.arg(format!("--wal-segsize={megabytes}"));
        }
        match (server.options.checksums, server.options.major) {
            (true, _) => drop(initdb.arg("--data-checksums")),
            (false, 18..) => drop(initdb.arg("--no-data-checksums")),
            (false, _) => {}
        }
        run(initdb.arg("--pgdata").arg(&server.data))?;
        server.append_conf(SETTINGS)?;
        for line in &server.options.conf {
            server.append_conf(line)?;
        }
        if let Some(hba) = &server.options.hba {
            fs::write(server.data.join("pg_hba.conf"), hba)?;
        }
        Ok(server)
    }

    pub(super) fn prepare(options: PostgresOptions) -> Result<Self> {
        let bin = executables::postgres_bin(options.major)?;
        let scratch = Scratch::new()?;
        scratch.directory("s")?;
        let data = scratch.path().join(options.directory);
        Ok(Self { options, scratch, data, bin, port: Port::take()?, process: None })
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// It ends or does not answer within a minute.
    pub async fn run(&mut self) -> Result<()> {
        let mut command = Account::of_servers()?.command(self.bin.join("postgres"));
        command.arg("-D").arg(&self.data).arg("-p").arg(self.port().to_string());
        command.arg("-k").arg(self.socket_directory());
        command.arg("-c").arg(format!("listen_addresses={}", if self.options.listen { "127.0.0.1" } else { "" }));
        let mut process = Process::spawn(command, &self.scratch.path().join("postgres.log"))?;
        let answers = wait::until("the server answers", Duration::from_mins(1), async || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("the server ended with {status}:\n{}", process.tail());
            }
            Ok(Connection::open(&self.socket_directory(), self.port(), "postgres").await.ok())
        });
        let answered = answers.await;
        let tail = process.tail();
        // Kept also on failure, so that it ends the orderly way.
        self.process = Some(process);
        answered.map(drop).with_context(|| format!("its log:\n{tail}"))
    }

    /// Stops the server and waits for its end; gives the time that took.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub async fn stop_within(&mut self, mode: StopMode, limit: Duration) -> Result<Duration> {
        let Some(process) = self.process.as_mut() else { return Ok(Duration::ZERO) };
        let start = Instant::now();
        process.signal(match mode {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
            StopMode::Kill => Signal::SIGKILL,
        })?;
        process.wait(limit).await?;
        let took = start.elapsed();
        self.process = None;
        Ok(took)
    }

    /// # Errors
    /// It still runs after a minute.
    pub async fn stop(&mut self, mode: StopMode) -> Result<()> {
        self.stop_within(mode, Duration::from_mins(1)).await.map(drop)
    }

    /// # Errors
    /// It does not stop or not come up.
    pub async fn restart(&mut self, mode: StopMode) -> Result<()> {
        self.stop(mode).await?;
        self.run().await
    }

    /// Ends recovery of a standby and waits until it accepts writes.
    ///
    /// # Errors
    /// It does not within a minute.
    pub async fn promote(&self) -> Result<()> {
        let connection = self.connect().await?;
        connection.value("SELECT pg_promote(true, 60)").await?;
        wait::until("the promoted server accepts writes", Duration::from_mins(1), async || {
            Ok((connection.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
        })
        .await
    }

    /// All processes of the running server.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.process.as_ref().map(|process| process::family(process.pid())).unwrap_or_default()
    }

    /// Kills all processes of the server at once, as a lost machine does, and waits until they are gone: while one still holds
    /// the shared memory, no other server starts here.
    ///
    /// # Errors
    /// One of them is still there after a minute.
    pub async fn crash(&mut self) -> Result<()> {
        let doomed = self.processes();
        for &pid in &doomed {
            // A backend may have ended meanwhile.
            let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
        }
        self.stop(StopMode::Kill).await?;
        wait::until("the server's processes are gone", Duration::from_mins(1), async || {
            Ok((!doomed.iter().any(|&pid| process::runs(pid))).then_some(()))
        })
        .await
    }

    /// Removes what a server leaves whose processes were all killed: its data directory, as a lost disk does, and the shared
    /// memory, which is the machine's and not the disk's.
    ///
    /// # Errors
    /// The directory can't be removed.
    pub fn bury(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        let segment = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = segment.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            // Best effort: it is a few bytes.
            let _ = Command::new("ipcrm").args(["-m", id]).output();
        }
        fs::remove_dir_all(&self.data).with_context(|| format!("remove {}", self.data.display()))
    }

    /// # Errors
    /// The server does not answer.
    pub async fn connect(&self) -> Result<Connection> {
        self.connect_to("postgres").await
    }

    /// # Errors
    /// The server does not answer or has no such database.
    pub async fn connect_to(&self, database: &str) -> Result<Connection> {
        Connection::open(&self.socket_directory(), self.port(), database).await
    }

    /// Runs statements in a session of their own.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.connect().await?.batch_execute(sql).await.with_context(|| format!("run: {sql}"))
    }

    /// One value, as text, in a session of its own.
    ///
    /// # Errors
    /// The server refuses, or there is no row.
    pub async fn value(&self, sql: &str) -> Result<String> {
        self.connect().await?.value(sql).await
    }

    /// Where the next record goes: everything committed before is below it.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn insert_lsn(&self) -> Result<Lsn> {
        Ok(self.value("SELECT pg_current_wal_insert_lsn()").await?.parse()?)
    }

    /// Adds lines to `postgresql.conf`; they count from the next start or reload.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn append_conf(&self, lines: &str) -> Result<()> {
        let path = self.data.join("postgresql.conf");
        let mut content = fs::read_to_string(&path)?;
        content.push('\n');
        content.push_str(lines);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// What the agent's configuration takes as `[postgres] connection`.
    #[must_use]
    pub fn connection_string(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_directory().display(), self.port())
    }

    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.scratch.path().join("s")
    }

    /// The server's own scratch directory, for files that go with it.
    #[must_use]
    pub const fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    #[must_use]
    pub const fn major(&self) -> u32 {
        self.options.major
    }

    /// The directory of the server's programs.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.scratch.path().join("postgres.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Postgres {
    /// Asks for an immediate shutdown first: a killed postmaster leaves its shared memory behind.
    fn drop(&mut self) {
        let Some(process) = self.process.as_mut() else { return };
        if process.signal(Signal::SIGQUIT).is_ok() {
            let start = Instant::now();
            while matches!(process.ended(), Ok(None)) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Runs a program to its end.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed with {}:\n{}{}",
        command.get_program().display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
