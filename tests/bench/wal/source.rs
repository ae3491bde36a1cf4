//! A server, the agents that are to archive its WAL, and that WAL itself, the same for everybody.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pitr::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use pitr_tests::{Account, Agent, AgentOptions, Postgres, PostgresOptions, Scratch};

use super::Where;
use crate::report::progress;
use crate::settings::Settings;

pub struct WalSource {
    pub server: Postgres,
    /// By place, then by run: each has taken its first backup, was stopped, and has a slot that keeps the WAL since.
    pub agents: Vec<Vec<Agent>>,
    /// What a server's data directory is for a tool that pushes its WAL: `pg_control`, and the segments.
    pub data: PathBuf,
    /// What a recovery needs before `segments`: from the start of the agents' backups on.
    pub prior: Vec<SegmentName>,
    /// In order.
    pub segments: Vec<SegmentName>,
    pub end: Lsn,
    pub scratch: PathBuf,
}

impl WalSource {
    pub async fn prepare(settings: &Settings, scratch: &Scratch, places: &[Where<'_>]) -> Result<Self> {
        let options = PostgresOptions::of(15)
            .conf("shared_buffers = 256MB")
            .conf("max_wal_size = 8GB")
            .conf("checkpoint_timeout = '1h'")
            .conf("wal_keep_size = '8GB'")
            .conf("max_replication_slots = 40")
            .conf("max_wal_senders = 40")
            .conf("autovacuum = off");
        progress("making a cluster for its WAL");
        let server = Postgres::start(options).await?;
        pgbench(&server, &["--initialize", "--quiet", "--scale", "10"])?;
        server.execute("CHECKPOINT; SELECT pg_switch_wal()").await?;
        let backups_from = WalSegmentSize::DEFAULT.segment_of(server.insert_lsn().await?);
        let mut agents = Vec::new();
        for place in places {
            let mut of_place = Vec::new();
            for run in 0..settings.runs {
                let mut agent = Agent::start(&options_of(&server, place, scratch.path(), run)?).await?;
                agent.kill()?;
                of_place.push(agent);
            }
            agents.push(of_place);
        }
        let mut source = Self {
            server,
            agents,
            data: scratch.directory("walsource")?,
            prior: Vec::new(),
            segments: Vec::new(),
            end: Lsn::INVALID,
            scratch: scratch.path().to_owned(),
        };
        source.fill(settings, backups_from).await?;
        Ok(source)
    }

    /// Full-page images first, and rows behind them, as a busy server writes after a checkpoint.
    async fn fill(&mut self, settings: &Settings, backups_from: SegmentNumber) -> Result<()> {
        let size = WalSegmentSize::DEFAULT;
        self.server.execute("SELECT pg_switch_wal()").await?;
        let first = size.segment_of(self.server.insert_lsn().await?);
        progress(&format!("writing {} segments of WAL", settings.segments));
        while size.segment_of(self.server.insert_lsn().await?).as_u64() < first.as_u64() + settings.segments {
            self.server.execute("CHECKPOINT").await?;
            pgbench(&self.server, &["--no-vacuum", "--client", "4", "--jobs", "2", "--time", "3"])?;
        }
        let last = size.segment_of(self.server.insert_lsn().await?);
        self.server.execute("SELECT pg_switch_wal()").await?;
        self.end = self.server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?;
        let name = |number: u64| SegmentNumber::new(number).name(TimelineId::FIRST, size);
        self.prior = (backups_from.as_u64()..first.as_u64()).map(name).collect();
        self.segments = (first.as_u64()..=last.as_u64()).map(name).collect();
        let script = "set -e; cd \"$0\"; mkdir -p global pg_wal/archive_status; from=\"$1\"; shift; \
                      cp \"$from\"/global/pg_control global; cp \"$from\"/PG_VERSION .; \
                      for s in \"$@\"; do cp \"$from/pg_wal/$s\" pg_wal; done";
        let mut copy = Account::of_servers()?.command("sh");
        copy.arg("-c").arg(script).arg(&self.data).arg(self.server.data_directory());
        let copied = copy.args(self.prior.iter().chain(&self.segments).map(ToString::to_string)).output()?;
        ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        if settings.has("decode") {
            let kept = settings.output.join("wal");
            // An earlier run's.
            let _ = fs::remove_dir_all(&kept);
            fs::create_dir_all(&kept)?;
            for name in &self.segments {
                fs::copy(self.data.join("pg_wal").join(name.to_string()), kept.join(name.to_string()))?;
            }
        }
        progress(&format!(
            "{} segments, {} MB",
            self.segments.len(),
            (self.segments.len() * 16 * 1024 * 1024) / 1_000_000
        ));
        Ok(())
    }

    /// Another agent, with a repository of its own, which begins with the WAL of now.
    pub async fn agent(&self, place: &Where<'_>, run: usize) -> Result<Agent> {
        Agent::start(&options_of(&self.server, place, &self.scratch, run)?).await
    }

    /// Bytes of the segments, in units of 10^9.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand segments")]
    pub fn gigabytes(&self) -> f64 {
        self.segments.len() as f64 * 16.0 * 1024.0 * 1024.0 / 1e9
    }

    /// Marks all segments as ready to be archived, as the server does.
    pub fn mark_ready(&self, segments: &[SegmentName]) -> Result<()> {
        let status = self.data.join("pg_wal/archive_status");
        for entry in fs::read_dir(&status)? {
            fs::remove_file(entry?.path())?;
        }
        for name in segments {
            let path = status.join(format!("{name}.ready"));
            fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
            Account::of_servers()?.own(&path)?;
        }
        Ok(())
    }
}

pub fn pgbench(server: &Postgres, arguments: &[&str]) -> Result<String> {
    let mut pgbench = Account::of_servers()?.command(server.bin().join("pgbench"));
    pgbench.args(arguments).arg("--host").arg(server.socket_directory()).args(["--port", &server.port().to_string()]);
    let output = pgbench.args(["--username", "postgres", "postgres"]).output().context("start pgbench")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn options_of(server: &Postgres, place: &Where<'_>, scratch: &Path, run: usize) -> Result<AgentOptions> {
    let name = format!("wal-{}-{run}", place.name.replace('+', "-"));
    let options = match (place.server, place.endpoint()) {
        (Some(s3), Some(endpoint)) => {
            let authority = s3.authority().context("the S3 server speaks no TLS")?;
            AgentOptions::s3(server, &endpoint)
                .replace("repository", "url", format!("url = \"s3://{}/{name}\"", pitr_tests::s3::BUCKET))
                .set("repository", format!("ca_file = \"{}\"", authority.display()))
        }
        _ => AgentOptions::local(server, &scratch.join(&name)),
    };
    Ok(options.set("wal", format!("slot = \"{}\"", name.replace('-', "_"))))
}
