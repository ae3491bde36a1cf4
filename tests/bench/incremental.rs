//! Backups that cost what changed: the next backup after a change of a known kind, by tools that hold a backup of the moment
//! before it; a restore after many small ones; memory with much data.

mod changes;
mod contender;
mod fragments;
mod large;

use anyhow::Result;
use pitr_tests::{S3Server, Scratch};

use crate::contender::Place;
use crate::data::Source;
use crate::report::progress;
use crate::settings::Settings;
use crate::wal::Figures;
use changes::Change;
use contender::Incremental;

pub async fn run(settings: &Settings, figures: &mut Figures) -> Result<()> {
    if settings.has("incremental") {
        after_changes(settings, figures).await?;
    }
    if settings.has("fragments") {
        fragments::measure(settings, figures).await?;
    }
    if settings.large_gigabytes > 0 {
        large::measure(settings, figures).await?;
    }
    Ok(())
}

/// All tools follow the same server, and take turns after each change.
async fn after_changes(settings: &Settings, figures: &mut Figures) -> Result<()> {
    let scratch = Scratch::new()?;
    let source = Source::prepare(settings, &scratch).await?;
    let mut changed = 0;
    for store in &settings.stores {
        let server = if store == "s3" { Some(S3Server::start_tls().await?) } else { None };
        let mut places = Vec::new();
        for tool in &settings.tools {
            let name = format!("incremental-{store}-{tool}");
            places.push(Place { directory: scratch.directory(&name)?, name, server: server.as_ref() });
        }
        let mut tools = Vec::new();
        for (tool, place) in settings.tools.iter().zip(&places) {
            progress(&format!("a first backup by {tool}, {store}"));
            tools.push((tool, Incremental::prepare(tool, settings, &source, place).await?));
        }
        for run in 0..settings.runs {
            for change in Change::all() {
                changed += 1;
                progress(&format!("run {} of {}: {change}, {store}", run + 1, settings.runs));
                let rows = change.make(&source.server, changed).await?;
                figures.add(&format!("incremental, {change}"), store, "(the change)", &[("rows", rows)]);
                for (_, tool) in &tools {
                    tool.catch_up(&source.server).await?;
                }
                for (name, tool) in &tools {
                    figures.add(&format!("incremental, {change}"), store, name, &tool.backup().await?);
                }
            }
        }
        drop(tools);
        // What nobody reads any more would keep all WAL.
        source.forget_slots().await?;
    }
    Ok(())
}
