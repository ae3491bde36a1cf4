//! What the agent holds in memory with much data: the files are sparse, one page in each frame holds something.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use pitr::postgres::page::{absolute_block, page_checksum};
use pitr_tests::{Account, Agent, AgentOptions, Postgres, PostgresOptions, Scratch, StopMode};

use crate::measure;
use crate::settings::Settings;
use crate::wal::Figures;

const PAGE: usize = 8192;
/// Pages of one file of a relation.
const PAGES: u32 = 131_072;
/// Pages that stand in one frame.
const FRAME: u32 = 32;

pub async fn measure(settings: &Settings, figures: &mut Figures) -> Result<()> {
    let scratch = Scratch::new()?;
    let mut server = Postgres::start(PostgresOptions::of(15).conf("autovacuum = off")).await?;
    server.execute("CREATE TABLE large (n int, t text); INSERT INTO large VALUES (1, 'one'); CHECKPOINT").await?;
    let path = server.data_directory().join(server.value("SELECT pg_relation_filepath('large')").await?);
    server.stop(StopMode::Fast).await?;
    for segment in 0..settings.large_gigabytes {
        fill(&path, segment)?;
    }
    server.run().await?;
    let options = AgentOptions::local(&server, &scratch.path().join("repository"))
        .set("backup", format!("threads = {}", settings.workers));
    let agent = Agent::start(&options).await?;
    let pid = agent.pid().context("the agent does not run")?;
    let job = format!("{} GB of data", settings.large_gigabytes);
    figures.add(&job, "local", "a first backup", &[("peak MiB", measure::peak_resident_bytes(pid))]);
    server.execute("INSERT INTO large SELECT g, md5(g::text) FROM generate_series(1, 10000) g").await?;
    for what in ["an incremental one", "another one"] {
        let (sample, _) = measure::daemon(pid, agent.cli().json(["backup"])).await?;
        let wall = ("wall s", sample.wall_seconds);
        figures.add(&job, "local", what, &[("peak MiB", measure::peak_resident_bytes(pid)), wall]);
    }
    Ok(())
}

/// One file of the relation: an empty page at the beginning of each frame, zeros behind it.
fn fill(first: &Path, segment: u32) -> Result<()> {
    let name = if segment == 0 { first.to_owned() } else { first.with_extension(segment.to_string()) };
    let file = File::options().create(true).truncate(false).write(true).open(&name)?;
    Account::of_servers()?.own(&name)?;
    std::fs::set_permissions(&name, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    for block in (0..PAGES).step_by(FRAME as usize).skip(usize::from(segment == 0)) {
        let mut page = [0_u8; PAGE];
        // Header: pd_lower 24, pd_upper and pd_special 8192, page size and layout version.
        for (at, value) in [(12, 24_u16), (14, 8192), (16, 8192), (18, 8192 | 4)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        // In the hole, so that no two pages are the same.
        page[4000..4004].copy_from_slice(&block.to_le_bytes());
        page[4004..4008].copy_from_slice(&segment.to_le_bytes());
        let checksum = page_checksum(&page, absolute_block(segment, block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&page, u64::from(block) * PAGE as u64)?;
    }
    file.set_len(u64::from(PAGES) * PAGE as u64)?;
    Ok(())
}
