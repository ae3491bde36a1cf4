//! A server that the product started on a restored directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Connection;

/// Not a child of the test: found by `postmaster.pid`, and stopped by that pid when the value goes.
#[derive(Debug)]
pub struct RestoredServer {
    data: PathBuf,
    socket_directory: PathBuf,
    port: u16,
    pid: Pid,
}

impl RestoredServer {
    /// The server that runs on `data`.
    ///
    /// # Errors
    /// None does.
    pub fn find(data: &Path) -> Result<Self> {
        let content = fs::read_to_string(data.join("postmaster.pid"))
            .with_context(|| format!("no server runs on {}", data.display()))?;
        let lines: Vec<&str> = content.lines().collect();
        let line = |index: usize| lines.get(index).copied().context("postmaster.pid is too short");
        let first = |text: &str| text.split(',').next().unwrap_or_default().trim().to_owned();
        Ok(Self {
            data: data.to_owned(),
            pid: Pid::from_raw(line(0)?.trim().parse()?),
            port: line(3)?.trim().parse()?,
            socket_directory: PathBuf::from(first(line(4)?)),
        })
    }

    /// # Errors
    /// The server does not answer.
    pub async fn connect(&self) -> Result<Connection> {
        self.connect_to("postgres").await
    }

    /// # Errors
    /// The server does not answer or has no such database.
    pub async fn connect_to(&self, database: &str) -> Result<Connection> {
        Connection::open(&self.socket_directory, self.port, database).await
    }

    /// # Errors
    /// The server does not answer or refuses.
    pub async fn value(&self, sql: &str) -> Result<String> {
        self.connect().await?.value(sql).await
    }

    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// What the agent's configuration takes as `[postgres] connection`.
    #[must_use]
    pub fn connection_string(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_directory.display(), self.port)
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for RestoredServer {
    fn drop(&mut self) {
        let alive = || is_postmaster(self.pid);
        for (signal, limit) in [(Signal::SIGQUIT, 10), (Signal::SIGKILL, 10)] {
            if !alive() || kill(self.pid, signal).is_err() {
                return;
            }
            let start = Instant::now();
            while alive() && start.elapsed() < Duration::from_secs(limit) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Whether a live PostgreSQL process has this pid: one that ended may wait for a parent that never asks, and its number
/// may have gone to somebody else.
fn is_postmaster(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (name, state) = stat.rsplit_once(')').unwrap_or_default();
    name.ends_with("(postgres") && !state.trim_start().starts_with('Z')
}
