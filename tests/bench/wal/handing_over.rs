//! A segment from the server's `archive_command` to the repository: how long the server waits for each.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pitr::postgres::SegmentName;
use pitr_tests::{Account, Agent, executables};

use super::Where;
use super::figures::Figures;
use super::mover::{self, Moved};
use super::pgbackrest::PgBackRest;
use super::source::WalSource;
use crate::contender::settle;
use crate::measure;
use crate::settings::Settings;

const JOB: &str = "hand over";

/// pgBackRest's `archive-push`, and ours of segments that nobody has stored before.
pub async fn measure(
    settings: &Settings,
    source: &WalSource,
    places: &[Where<'_>],
    figures: &mut Figures,
) -> Result<()> {
    for place in places {
        // It streams from here on: what is handed over now was not streamed.
        let mut agent = source.agent(place, settings.runs).await?;
        // Nothing is handed over twice, so that all of it is new.
        let each = source.segments.chunks(source.segments.len().div_ceil(settings.runs).max(1));
        let tool = match settings.compares() {
            true => Some(PgBackRest::prepare(settings, source, place, settings.runs)?),
            false => None,
        };
        for segments in each {
            if let Some(tool) = &tool {
                settle();
                add(figures, place, "pgbackrest, zstd 3", &tool.push_each(segments)?, segments, 0.0);
            }
            settle();
            push(figures, place, "pitr, on demand, zstd 1", source.server.data_directory(), &agent, segments)?;
        }
        agent.kill()?;
    }
    Ok(())
}

/// Ours, of what the agent has streamed from the server with this data directory.
pub fn streamed(
    data: &Path,
    place: &Where<'_>,
    agent: &Agent,
    segments: &[SegmentName],
    figures: &mut Figures,
) -> Result<()> {
    // A server that hands WAL over has done so before: this one tells the agent that it does.
    let (first, rest) = segments.split_first().context("no segments")?;
    each(data, agent, std::slice::from_ref(first))?;
    settle();
    push(figures, place, "pitr, streamed", data, agent, rest)
}

fn push(
    figures: &mut Figures,
    place: &Where<'_>,
    tool: &str,
    data: &Path,
    agent: &Agent,
    segments: &[SegmentName],
) -> Result<()> {
    let pid = agent.pid().context("the agent does not run")?;
    let before = measure::cpu_seconds(pid)?;
    let moved = each(data, agent, segments)?;
    add(figures, place, tool, &moved, segments, measure::cpu_seconds(pid)? - before);
    Ok(())
}

fn each(data: &Path, agent: &Agent, segments: &[SegmentName]) -> Result<Moved> {
    let program = executables::product("pitr-wal-push")?;
    let command = |name: &SegmentName| {
        let mut command = Account::of_servers()?.command(&program);
        command.arg("--config").arg(agent.config()).arg(format!("pg_wal/{name}"));
        command.current_dir(data);
        Ok(command)
    };
    mover::each(segments, Duration::ZERO, command, |_| Ok(()), || Ok(())).with_context(|| agent.log())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand segments")]
fn add(
    figures: &mut Figures,
    place: &Where<'_>,
    tool: &str,
    moved: &Moved,
    segments: &[SegmentName],
    resident_seconds: f64,
) {
    let count = segments.len() as f64;
    figures.add(
        JOB,
        place.name,
        tool,
        &[
            ("p50 ms", moved.p50()),
            ("p95 ms", moved.p95()),
            ("segments/s", count / moved.wall.as_secs_f64()),
            ("CPU ms each", (moved.cpu_seconds + resident_seconds) * 1000.0 / count),
        ],
    );
}
