//! WAL out of the repository, a segment at a time, as a startup process asks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pitr::postgres::SegmentName;
use pitr_tests::{Account, S3Server};

use super::Where;
use super::figures::Figures;
use super::mover::{self, Moved};
use super::pgbackrest::PgBackRest;
use super::source::WalSource;
use crate::contender::settle;
use crate::settings::Settings;

/// What a segment of full-page images takes to replay, about.
const REDO: Duration = Duration::from_millis(60);

/// Restores the first run's repository of a place, without a start.
pub fn restore(source: &WalSource, place: usize, into: &Path) -> Result<()> {
    let agent = source.agents.get(place).and_then(|agents| agents.first()).context("no agent")?;
    let mut command = agent.cli().command()?;
    command.args(["restore", "--latest", "--into"]).arg(into).arg("--yes");
    let output = command.output()?;
    ensure!(output.status.success(), "restore: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The value of `restore_command` in a restored directory.
pub fn restore_command(data: &Path) -> Result<String> {
    let text = fs::read_to_string(data.join("postgresql.auto.conf"))?;
    let line = text.lines().rfind(|line| line.starts_with("restore_command")).context("no restore_command")?;
    let value = line.split_once('=').context("no value")?.1.trim();
    Ok(value.trim_matches('\'').replace("''", "'"))
}

fn ours(data: &Path, segments: &[SegmentName], pause: Duration) -> Result<Moved> {
    let text = restore_command(data)?;
    let command = |name: &SegmentName| -> Result<Command> {
        let mut command = Account::of_servers()?.command("sh");
        let line = text.replace("%f", &name.to_string()).replace("%p", "pg_wal/RECOVERYXLOG");
        command.arg("-c").arg(format!("exec {line}")).current_dir(data).envs(S3Server::credentials());
        Ok(command)
    };
    let signal = data.join("recovery.signal");
    // The fetcher ends with the recovery.
    let stop = || {
        fs::remove_file(&signal)?;
        let spool = data.join("pg_wal/pitr_spool");
        let begun = Instant::now();
        while spool.exists() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    mover::each(segments, pause, command, |_| Ok(()), stop)
}

fn signal(data: &Path) -> Result<()> {
    let path = data.join("recovery.signal");
    fs::write(&path, "")?;
    Account::of_servers()?.own(&path)
}

/// For a tool that is given a directory to work in.
fn bare(source: &WalSource, name: &str) -> Result<PathBuf> {
    let data = source.scratch.join(name);
    let status = Account::of_servers()?.command("cp").arg("-a").arg(&source.data).arg(&data).status()?;
    ensure!(status.success(), "cp failed");
    for entry in fs::read_dir(data.join("pg_wal"))? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(data)
}

pub fn measure(settings: &Settings, source: &WalSource, places: &[Where<'_>], figures: &mut Figures) -> Result<()> {
    // The last one is in tails, or switched away from: every tool can have those before it.
    let segments = source.segments.get(..source.segments.len().saturating_sub(1)).unwrap_or_default();
    for (index, place) in places.iter().enumerate() {
        let restored = source.scratch.join(format!("fetch-{index}"));
        restore(source, index, &restored)?;
        let other = bare(source, &format!("get-{index}"))?;
        for _ in 0..settings.runs {
            for (job, pause) in [("fetch, back to back", Duration::ZERO), ("fetch, 60 ms apart", REDO)] {
                if settings.compares() {
                    for (tool, asynchronous) in [("pgbackrest sync", false), ("pgbackrest async", true)] {
                        let get = PgBackRest::filled(settings, source, place, 0)?;
                        settle();
                        add(figures, job, place.name, tool, source, &get.get(&other, segments, asynchronous, pause)?);
                    }
                }
                settle();
                signal(&restored)?;
                add(figures, job, place.name, "pitr", source, &ours(&restored, segments, pause)?);
            }
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand segments")]
fn add(figures: &mut Figures, job: &str, place: &str, tool: &str, source: &WalSource, moved: &Moved) {
    let segments = source.segments.len().saturating_sub(1) as f64;
    figures.add(
        job,
        place,
        tool,
        &[
            ("p50 ms", moved.p50()),
            ("p95 ms", moved.p95()),
            ("segments/s", segments / moved.wall.as_secs_f64()),
            ("CPU s/GB", moved.cpu_seconds / source.gigabytes()),
        ],
    );
}
