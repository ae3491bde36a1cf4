//! The table that is printed, and the figures for later.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use pitr::clock::{Clock, SystemClock};
use serde_json::json;

use crate::data::Source;
use crate::measure::Sample;
use crate::settings::Settings;
use crate::wal::Figures;

/// The tool that the others are compared with.
const REFERENCE: &str = "pgbackrest";

#[expect(clippy::print_stderr, reason = "talk of a command-line program")]
pub fn progress(line: &str) {
    eprintln!("bench: {line}");
}

pub struct Report {
    settings: Settings,
    bytes: u64,
    files: u64,
    /// By job, store and tool, in the order of the runs.
    samples: BTreeMap<(&'static str, String, String), Vec<Sample>>,
}

impl Report {
    pub fn new(settings: &Settings, source: &Source) -> Self {
        Self { settings: settings.clone(), bytes: source.bytes, files: source.files, samples: BTreeMap::new() }
    }

    pub fn add(&mut self, store: &str, tool: &str, backup: Sample, restore: Sample) {
        for (job, sample) in [("backup", backup), ("restore", restore)] {
            progress(&format!(
                "  {job}: {:.2} s, {:.2} CPU s, {} MiB",
                sample.wall_seconds,
                sample.cpu_seconds,
                sample.peak_memory_bytes >> 20
            ));
            self.samples.entry((job, store.to_owned(), tool.to_owned())).or_default().push(sample);
        }
    }

    #[expect(clippy::print_stdout, reason = "the output of a command-line program")]
    fn print(&self) {
        println!(
            "\n{} MB in {} files, {} workers, medians of {}\n",
            self.bytes / 1_000_000,
            self.files,
            self.settings.workers,
            self.settings.runs
        );
        println!(
            "{:<8} {:<6} {:<11} {:>8} {:>17} {:>8} {:>9} {:>9}   times faster, less CPU",
            "job", "store", "tool", "wall s", "range", "CPU s", "peak MiB", "repo MB"
        );
        for job in ["backup", "restore"] {
            for store in &self.settings.stores {
                for tool in &self.settings.tools {
                    println!("{}", self.row(job, store, tool).unwrap_or_default());
                }
            }
        }
    }

    fn row(&self, job: &'static str, store: &str, tool: &str) -> Option<String> {
        let of = |tool: &str| self.samples.get(&(job, store.to_owned(), tool.to_owned()));
        let samples = of(tool)?;
        let wall = median(samples, |sample| sample.wall_seconds);
        let cpu = median(samples, |sample| sample.cpu_seconds);
        let mut walls: Vec<f64> = samples.iter().map(|sample| sample.wall_seconds).collect();
        walls.sort_by(f64::total_cmp);
        let peak = samples.iter().map(|sample| sample.peak_memory_bytes).max()?;
        let repository = samples.last()?.repository_bytes;
        let ratios = of(REFERENCE).filter(|_| tool != REFERENCE).map_or_else(String::new, |reference| {
            let wall = median(reference, |sample| sample.wall_seconds) / wall;
            let cpu = median(reference, |sample| sample.cpu_seconds) / cpu;
            format!("{wall:.2}, {cpu:.2}")
        });
        Some(format!(
            "{job:<8} {store:<6} {tool:<11} {wall:>8.2} {:>17} {cpu:>8.2} {:>9} {:>9}   {ratios}",
            format!("{:.2}-{:.2}", walls.first()?, walls.last()?),
            peak >> 20,
            if repository == 0 { String::new() } else { (repository / 1_000_000).to_string() }
        ))
    }

    fn json(&self) -> serde_json::Value {
        let rows: Vec<serde_json::Value> = self
            .samples
            .iter()
            .map(|((job, store, tool), samples)| json!({"job": job, "store": store, "tool": tool, "samples": samples}))
            .collect();
        json!({
            "bytes": self.bytes, "files": self.files, "workers": self.settings.workers,
            "pgbackrest": self.settings.pgbackrest, "rows": rows,
        })
    }
}

/// Prints what was measured, and keeps all figures.
pub fn finish(settings: &Settings, report: Option<&Report>, figures: &Figures) -> Result<()> {
    if let Some(report) = report {
        report.print();
    }
    if !figures.is_empty() {
        figures.print();
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    progress(&format!("load of the machine at the end: {}", load.trim()));
    let path = settings.output.join(format!("{}.json", SystemClock.now().format("%Y%m%dT%H%M%SZ")));
    let all = json!({"backup": report.map(Report::json), "wal": figures.json(), "load": load.trim()});
    fs::write(&path, serde_json::to_vec_pretty(&all)?).with_context(|| format!("write {}", path.display()))?;
    progress(&format!("all figures are in {}", path.display()));
    Ok(())
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
