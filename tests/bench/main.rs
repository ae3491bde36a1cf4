//! Backup, restore and the way of the WAL compared with pgBackRest on the same data, on this machine, in one session.
//!
//! The tools take turns, so that a drift of the machine meets all of them; figures are medians. Directories that a run
//! leaves are kept until the end: deleting tens of thousands of files makes the file creations after it slow on ext4.

mod contender;
mod data;
mod incremental;
mod measure;
mod ours;
mod pgbackrest;
mod report;
mod settings;
mod wal;

use anyhow::Result;
use pitr_tests::{S3Server, Scratch};

use contender::{Contender, Place};
use report::Report;
use settings::Settings;

fn main() -> Result<()> {
    let settings = Settings::from_environment()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(&settings))
}

async fn run(settings: &Settings) -> Result<()> {
    let mut figures = wal::Figures::default();
    // Before the many files of the backup.
    wal::run(settings, &Scratch::new()?, &mut figures).await?;
    incremental::run(settings, &mut figures).await?;
    let report = if settings.has("backup") { Some(backup_and_restore(settings).await?) } else { None };
    report::finish(settings, report.as_ref(), &figures)
}

async fn backup_and_restore(settings: &Settings) -> Result<Report> {
    let scratch = Scratch::new()?;
    let source = data::Source::prepare(settings, &scratch).await?;
    let mut report = Report::new(settings, &source);
    for store in &settings.stores {
        let server = if store == "s3" { Some(S3Server::start_tls().await?) } else { None };
        for run in 0..settings.runs {
            for tool in &settings.tools {
                let name = format!("{store}-{tool}-{run}");
                report::progress(&format!("run {} of {}: {tool}, {store}", run + 1, settings.runs));
                let place = Place { directory: scratch.directory(&name)?, name, server: server.as_ref() };
                let contender = Contender::prepare(tool, settings, &source, &place).await?;
                let backup = contender.backup().await?;
                let restore = contender.restore().await?;
                report.add(store, tool, backup, restore);
            }
        }
    }
    Ok(report)
}
