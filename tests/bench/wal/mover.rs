//! A command for each segment, in order, as the server's archiver and startup process call one.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::figures::quantile;
use crate::measure;

/// How the calls went.
#[derive(Debug)]
pub struct Moved {
    pub wall: Duration,
    /// Of all processes, those that outlived their callers included.
    pub cpu_seconds: f64,
    milliseconds: Vec<f64>,
}

impl Moved {
    pub fn p50(&self) -> f64 {
        quantile(&self.milliseconds, 0.5)
    }

    pub fn p95(&self) -> f64 {
        quantile(&self.milliseconds, 0.95)
    }
}

/// Runs the command of each item, and does nothing for `pause` between two of them. `stop` ends what was left running.
pub fn each<T>(
    items: &[T],
    pause: Duration,
    mut command: impl FnMut(&T) -> Result<Command>,
    mut done: impl FnMut(&T) -> Result<()>,
    stop: impl FnOnce() -> Result<()>,
) -> Result<Moved> {
    let cpu = measure::Orphans::adopt()?;
    let (begun, mut milliseconds) = (Instant::now(), Vec::new());
    let mut paused = Duration::ZERO;
    for item in items {
        let mut command = command(item)?;
        let line = format!("{command:?}");
        let start = Instant::now();
        let output = command.output()?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
        ensure!(output.status.success(), "{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        let start = Instant::now();
        done(item)?;
        std::thread::sleep(pause);
        paused += start.elapsed();
    }
    let wall = begun.elapsed().saturating_sub(paused);
    stop()?;
    Ok(Moved { wall, cpu_seconds: cpu.seconds()?, milliseconds })
}
