//! A restore of a backup whose pages many small ones have brought, against one of a backup that shares nothing.

use anyhow::{Context, Result};
use pitr_tests::Scratch;
use serde_json::Value;

use super::changes::Change;
use super::contender::common;
use crate::contender::{Contender, Place};
use crate::data::Source;
use crate::report::progress;
use crate::settings::Settings;
use crate::wal::Figures;

pub async fn measure(settings: &Settings, figures: &mut Figures) -> Result<()> {
    let scratch = Scratch::new()?;
    let source = Source::prepare(settings, &scratch).await?;
    for store in &settings.stores {
        let server = if store == "s3" { Some(pitr_tests::S3Server::start_tls().await?) } else { None };
        let name = format!("fragments-{store}");
        let place = Place { directory: scratch.directory(&name)?, name, server: server.as_ref() };
        let Contender::Ours(tool) = Contender::prepare("pitr-1", settings, &source, &place).await? else {
            anyhow::bail!("not ours");
        };
        let job = format!("restore, {} small backups", settings.incrementals);
        let mut stored = 0.0;
        for number in 0..settings.incrementals {
            // A different hundredth each time: in the end hardly any frame is of the first backup alone.
            Change::Pages(1).make(&source.server, number).await?;
            let (sample, _) = tool.measured(&["backup"]).await?;
            stored += common(&sample).iter().find(|(name, _)| *name == "MB stored").map_or(0.0, |(_, value)| *value);
        }
        let last = id(&tool.newest().await?)?;
        tool.measured(&["backup", "--fresh"]).await?;
        let fresh = id(&tool.newest().await?)?;
        progress(&format!("{} small backups have stored {stored:.0} MB", settings.incrementals));
        for run in 0..settings.runs {
            for (what, backup) in [("the last of them", &last), ("a fresh one", &fresh)] {
                let sample = tool.restore_of(backup, &format!("{what}-{run}"))?;
                figures.add(&job, store, what, &[("wall s", sample.wall_seconds), ("CPU s", sample.cpu_seconds)]);
            }
        }
        figures.add(&job, store, "all of them", &[("MB stored", stored)]);
        drop(tool);
        source.forget_slots().await?;
    }
    Ok(())
}

fn id(backup: &Value) -> Result<String> {
    Ok(backup.get("id").and_then(Value::as_str).context("a backup without an id")?.to_owned())
}
