//! The stream and `archive_command` at once: each finds what the other has stored.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Ledger, Postgres, Scene, Store, wait};

use super::{archive_with, archiver, archiving, point_at, push, seal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_at_once_agree() -> Result<()> {
    let server = Postgres::start(archiving(18)).await?;
    let mut scene = Scene::around(server, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    point_at(&scene.server, &scene.agent).await?;
    let mut load = Load::new(3, 41);
    load.payload = 8000;
    let writers = Writers::start(&scene.server, load).await?;
    for round in 0..6 {
        writers.more(100).await?;
        scene.server.execute("SELECT pg_switch_wal()").await?;
        if round == 3 {
            scene.agent.kill()?;
            writers.more(50).await?;
            scene.agent.run()?;
        }
    }
    let ledger = writers.stop().await?;
    seal(&scene).await?;
    let last = archiver(&scene.server, "last_archived_wal").await?;
    push(&scene, std::path::Path::new(&format!("pg_wal/{last}")))?.archived()?;
    // And what only the stream has: the open segment.
    scene.server.execute("CREATE TABLE after_the_switch (n int)").await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    assert_eq!(restored.server.value("SELECT count(*) FROM after_the_switch").await?, "0");
    let status = scene.cli().json(["status"]).await?;
    assert_eq!(status.pointer("/agent/state").and_then(serde_json::Value::as_str), Some("streaming"), "{status}");
    Ok(())
}

/// What waits to be handed over is read before it is asked for, once nobody has touched it for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_between_being_read_and_being_asked_for_is_refused() -> Result<()> {
    let scene = Scene::around(Postgres::start(archiving(15).wal_segment_mb(1)).await?, Store::local()?).await?;
    // It keeps what is not handed over.
    archive_with(&scene.server, "/bin/false").await?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for round in 0..6 {
        scene.server.execute(&format!("CREATE TABLE t{round} AS SELECT generate_series(1, 1000) AS n")).await?;
        let name = scene.server.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
        paths.push(scene.server.data_directory().join("pg_wal").join(name));
    }
    scene.seal().await?;
    wait::until("nobody has touched them for a while", Duration::from_mins(1), async || {
        let last = paths.last().context("no segment")?.metadata()?.modified()?;
        Ok(last.elapsed().is_ok_and(|age| age > Duration::from_secs(5)).then_some(()))
    })
    .await?;
    let (first, rest) = paths.split_first().context("no segment")?;
    push(&scene, first)?.archived()?;
    for (number, path) in rest.iter().enumerate() {
        let good = std::fs::read(path)?;
        let modified = path.metadata()?.modified()?;
        if number % 2 == 0 {
            let mut other = good.clone();
            let last = other.iter().rposition(|byte| *byte != 0).context("an empty segment")?;
            other[last] ^= 1;
            std::fs::write(path, &other)?;
            // Who hides what was done.
            std::fs::File::options().write(true).open(path)?.set_modified(modified)?;
            push(&scene, path)?.refused(&["other content"])?;
            std::fs::write(path, &good)?;
        }
        push(&scene, path)?.archived()?;
    }
    Ok(())
}
