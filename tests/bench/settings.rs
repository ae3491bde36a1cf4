//! What is compared, from the environment; `run.sh` documents the variables.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

#[derive(Debug, Clone)]
pub struct Settings {
    pub runs: usize,
    pub scale: u32,
    pub tables: u32,
    pub workers: u32,
    pub stores: Vec<String>,
    pub parts: Vec<String>,
    /// Segments of 16 MB for the parts about WAL.
    pub segments: u64,
    /// Small backups before the restore that follows them.
    pub incrementals: u32,
    /// Sparse data to measure the agent's memory with; none unless it is asked for.
    pub large_gigabytes: u32,
    pub tools: Vec<String>,
    pub pgbackrest: PathBuf,
    pub output: PathBuf,
}

impl Settings {
    pub fn from_environment() -> Result<Self> {
        let settings = Self {
            runs: number("BENCH_RUNS", 3)?,
            scale: number("BENCH_SCALE", 100)?,
            tables: number("BENCH_TABLES", 5000)?,
            workers: number("BENCH_WORKERS", 2)?,
            parts: words("BENCH_PARTS", "backup incremental fragments archive feed loss"),
            segments: number("BENCH_SEGMENTS", 32)?,
            incrementals: number("BENCH_INCREMENTALS", 100)?,
            large_gigabytes: number("BENCH_LARGE_GB", 0)?,
            stores: words("BENCH_STORES", "local s3"),
            tools: words("BENCH_TOOLS", "pgbackrest pitr pitr-1"),
            pgbackrest: std::env::var_os("PGBACKREST").map_or_else(|| "/usr/bin/pgbackrest".into(), PathBuf::from),
            output: std::env::args_os().nth(1).context("usage: pitr-bench OUTPUT-DIRECTORY")?.into(),
        };
        ensure!(settings.runs > 0, "BENCH_RUNS must be at least 1");
        for store in &settings.stores {
            ensure!(["local", "s3"].contains(&store.as_str()), "BENCH_STORES knows local and s3, not \"{store}\"");
        }
        for part in &settings.parts {
            let known = ["backup", "incremental", "fragments", "archive", "feed", "loss", "decode"];
            ensure!(known.contains(&part.as_str()), "BENCH_PARTS knows {}, not \"{part}\"", known.join(", "));
        }
        Ok(settings)
    }
}

impl Settings {
    /// Whether this part is to be measured.
    pub fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|known| known == part)
    }

    /// Whether pgBackRest is to be measured, too.
    pub fn compares(&self) -> bool {
        self.tools.iter().any(|tool| tool == "pgbackrest")
    }
}

fn number<T: FromStr>(key: &str, default: T) -> Result<T> {
    match std::env::var(key) {
        Ok(text) => text.parse().ok().with_context(|| format!("{key}=\"{text}\" is not a number")),
        Err(_) => Ok(default),
    }
}

fn words(key: &str, default: &str) -> Vec<String> {
    let text = std::env::var(key).unwrap_or_else(|_| default.to_owned());
    text.split([' ', ',']).filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
}
