//! A tool, ready to back up the source and to restore that backup.

use std::path::PathBuf;

use anyhow::Result;
use pitr_tests::S3Server;

use crate::data::Source;
use crate::measure::Sample;
use crate::ours::Ours;
use crate::pgbackrest::PgBackRest;
use crate::settings::Settings;

/// Where one run of one tool puts what it writes.
pub struct Place<'a> {
    pub name: String,
    pub directory: PathBuf,
    /// Set: the repository is on this server.
    pub server: Option<&'a S3Server>,
}

pub enum Contender<'a> {
    PgBackRest(PgBackRest<'a>),
    Ours(Box<Ours<'a>>),
}

impl<'a> Contender<'a> {
    /// `pgbackrest`; `pitr` with the same compression; `pitr-N` with level N.
    pub async fn prepare(tool: &str, settings: &'a Settings, source: &'a Source, place: &'a Place<'a>) -> Result<Self> {
        match tool {
            "pgbackrest" => Ok(Self::PgBackRest(PgBackRest::prepare(settings, source, place)?)),
            "pitr" => Ok(Self::Ours(Box::new(Ours::prepare(settings, source, place, 3).await?))),
            other => {
                let level = other.strip_prefix("pitr-").and_then(|level| level.parse().ok());
                let level = level.ok_or_else(|| anyhow::anyhow!("BENCH_TOOLS does not know \"{other}\""))?;
                Ok(Self::Ours(Box::new(Ours::prepare(settings, source, place, level).await?)))
            }
        }
    }

    pub async fn backup(&self) -> Result<Sample> {
        match self {
            Self::PgBackRest(tool) => tool.backup(),
            Self::Ours(tool) => tool.backup().await,
        }
    }

    pub async fn restore(&self) -> Result<Sample> {
        match self {
            Self::PgBackRest(tool) => tool.restore(),
            Self::Ours(tool) => tool.restore(),
        }
    }
}

/// Memory that a virtual machine may have given back to its host: what is used of it first is slow to come back, and that
/// would be the time of whoever comes first.
const POPULATED_BYTES: usize = 4 << 30;

/// Writes back what earlier steps left in memory, so that it does not disturb the next one, and touches free memory.
pub fn settle() {
    rustix::fs::sync();
    let available = available_bytes().map_or(0, |bytes| bytes / 2);
    let mut memory = vec![0_u8; POPULATED_BYTES.min(available)];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
}

fn available_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}
