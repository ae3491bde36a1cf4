//! A tool that holds a backup, and takes the next one.

use std::time::Duration;

use anyhow::{Context, Result};
use pitr::clock::{Clock, SystemClock};
use pitr_tests::Postgres;
use serde_json::Value;

use crate::contender::{Contender, Place, settle};
use crate::data::Source;
use crate::measure::Sample;
use crate::settings::Settings;

/// All WAL of a large change has to be in the repository first; that is not what is measured.
const ARCHIVED: Duration = Duration::from_mins(10);

pub struct Incremental<'a> {
    tool: Contender<'a>,
}

impl<'a> Incremental<'a> {
    /// With a first backup.
    pub async fn prepare(tool: &str, settings: &'a Settings, source: &'a Source, place: &'a Place<'a>) -> Result<Self> {
        let tool = Contender::prepare(tool, settings, source, place).await?;
        if let Contender::PgBackRest(tool) = &tool {
            // The agent has taken its own.
            tool.backup()?;
        }
        Ok(Self { tool })
    }

    /// Until the WAL of the change is in the repository.
    pub async fn catch_up(&self, server: &Postgres) -> Result<()> {
        let Contender::Ours(tool) = &self.tool else { return Ok(()) };
        let end = server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?;
        crate::wal::wait_sealed(tool.agent(), end, ARCHIVED).await
    }

    pub async fn backup(&self) -> Result<Vec<(&'static str, f64)>> {
        settle();
        match &self.tool {
            Contender::PgBackRest(tool) => Ok(common(&tool.incremental()?)),
            Contender::Ours(tool) => {
                let begun = SystemClock.now();
                let (sample, job) = tool.measured(&["backup"]).await?;
                let mut figures = common(&sample);
                figures.extend(of_job(&job, begun)?);
                if let Some(pages) = tool.newest().await?.get("pages_read").and_then(Value::as_f64) {
                    figures.push(("pages read", pages));
                }
                Ok(figures)
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn common(sample: &Sample) -> Vec<(&'static str, f64)> {
    vec![
        ("wall s", sample.wall_seconds),
        ("CPU s", sample.cpu_seconds),
        ("MB stored", sample.repository_bytes as f64 / 1e6),
        ("peak MiB", (sample.peak_memory_bytes >> 20) as f64),
    ]
}

/// By the agent's own clock: the command looks only now and then.
fn of_job(job: &Value, begun: chrono::DateTime<chrono::Utc>) -> Result<Option<(&'static str, f64)>> {
    let time = |key: &str| -> Result<chrono::DateTime<chrono::Utc>> {
        Ok(job.get(key).and_then(Value::as_str).with_context(|| format!("no {key} in {job}"))?.parse()?)
    };
    let seconds = (time("finished")? - begun).as_seconds_f64();
    Ok(Some(("until done s", seconds)))
}
