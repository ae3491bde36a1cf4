//! What is handed over is all there is: up to the last switch it is complete, whatever is killed.

use std::time::Duration;

use anyhow::{Context, Result};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{
    Expected, Fault, FaultProxy, Ledger, Moment, Postgres, PostgresOptions, S3Server, StopMode, Store, seed, wait,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{alone, archiver, archiving, point_at, seal, with};

async fn survives_kills(options: PostgresOptions) -> Result<()> {
    let seed = seed::of_this_run();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scene = alone(Postgres::start(options).await?, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut ledger = Ledger::default();
    for round in 0..6 {
        let mut load = Load::new(3, seed.wrapping_add(round));
        load.payload = 8000;
        let writers = Writers::start(&scene.server, load).await?;
        writers.more(rng.random_range(20..200)).await?;
        if rng.random_bool(0.5) {
            scene.server.execute("SELECT pg_switch_wal()").await?;
        }
        scene.agent.kill()?;
        writers.more(rng.random_range(5..100)).await?;
        if round % 2 == 1 {
            let (stopped, written) = tokio::join!(scene.server.stop(StopMode::Kill), writers.stop());
            stopped?;
            ledger.extend(written?);
            scene.server.run().await?;
        } else {
            scene.server.execute("SELECT pg_switch_wal()").await?;
            ledger.extend(writers.stop().await?);
        }
        scene.agent.run()?;
    }
    seal(&scene).await?;
    let restored = scene.restore(&["--latest"]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    Expected { must: ledger.acknowledged(), may: ledger.unanswered().clone() }.check(&found)?;
    drop(restored);
    let entry = ledger.entries().get(ledger.entries().len() / 2).context("nothing was written")?;
    let restored = scene.restore(&["--xid", &entry.xid.to_string()]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    Expected::at(&Moment::Xid(entry.xid), &ledger, None).check(&found)?;
    let info = scene.agent.info().await?;
    let gaps = info.get("gaps").and_then(serde_json::Value::as_array).context("no gaps in info")?;
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(scene.server.value("SELECT count(*) FROM pg_replication_slots").await?, "0", "nothing is streamed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_agent_and_server_lose_nothing_on_13_with_small_segments() -> Result<()> {
    survives_kills(archiving(13).wal_segment_mb(1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_agent_and_server_lose_nothing_on_18() -> Result<()> {
    survives_kills(archiving(18)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_agent_and_server_lose_nothing_on_15_with_large_segments() -> Result<()> {
    survives_kills(archiving(15).wal_segment_mb(64)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_and_backups_end_the_segment_they_wait_for() -> Result<()> {
    let scene = alone(Postgres::start(archiving(15)).await?, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(2, 5)).await?;
    writers.more(30).await?;
    let before = writers.stop().await?;
    let switched = "SELECT div(pg_current_wal_insert_lsn() - '0/0'::pg_lsn, 16777216)";
    let segment = scene.server.value(switched).await?;
    let marked = scene.cli().json(["mark", "release-1"]).await?;
    assert_eq!(marked.get("sealed").and_then(serde_json::Value::as_bool), Some(true), "{marked}");
    assert_ne!(scene.server.value(switched).await?, segment, "the segment of the marker was not ended");
    let writers = Writers::start(&scene.server, Load::new(2, 6)).await?;
    writers.more(30).await?;
    writers.stop().await?;
    scene.cli().run(["backup"]).await?.success()?;
    let restored = scene.restore(&["--before", "release-1"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, before.acknowledged());
    let status = scene.cli().json(["status"]).await?;
    assert_eq!(status.pointer("/agent/state").and_then(serde_json::Value::as_str), Some("archiving"), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_down_is_caught_up_with_in_order() -> Result<()> {
    let mut scene = alone(Postgres::start(archiving(15).wal_segment_mb(1)).await?, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    scene.agent.kill()?;
    let mut load = Load::new(3, 9);
    load.payload = 8000;
    load.pause = Duration::ZERO;
    let writers = Writers::start(&scene.server, load).await?;
    let ready = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    wait::until("60 segments wait", Duration::from_mins(2), async || {
        Ok((scene.server.value(ready).await?.parse::<u32>()? >= 60).then_some(()))
    })
    .await?;
    let ledger = writers.stop().await?;
    assert_ne!(archiver(&scene.server, "failed_count").await?, "0", "the server was told that all is well");
    scene.agent.run()?;
    seal(&scene).await?;
    scene.agent.no_alarms_but(&["lease", "was not archived", "max_slot_wal_keep_size", "fsync is off"])?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_for_a_while_is_ridden_out() -> Result<()> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(archiving(15)).await?;
    let options = pitr_tests::AgentOptions::s3(&server, &proxy.endpoint()).set("wal", "source = \"archive\"");
    let scene = with(server, Store::S3(Box::new(store)), &options).await?;
    Ledger::create(&scene.server).await?;
    let program = pitr_tests::executables::product("pitr-agent")?;
    let quick = format!("{} wal-push --timeout 2s --config {} %p", program.display(), scene.agent.config().display());
    super::archive_with(&scene.server, &quick).await?;
    let mut ledger = Ledger::default();
    for fault in [Fault::SlowDown, Fault::Stall, Fault::ResetAfter { bytes: 5000 }] {
        let failed: u64 = archiver(&scene.server, "failed_count").await?.parse()?;
        proxy.set(fault);
        let writers = Writers::start(&scene.server, Load::new(2, 21)).await?;
        writers.more(40).await?;
        ledger.extend(writers.stop().await?);
        scene.server.execute("SELECT pg_switch_wal()").await?;
        wait::until("the archiver fails", Duration::from_mins(2), async || {
            Ok((archiver(&scene.server, "failed_count").await?.parse::<u64>()? > failed).then_some(()))
        })
        .await?;
        proxy.set(Fault::None);
        seal(&scene).await?;
    }
    point_at(&scene.server, &scene.agent).await?;
    seal(&scene).await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

/// Once the server has handed WAL over, an empty directory is one that is not mounted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_is_not_mounted_is_no_new_one() -> Result<()> {
    let mut scene = alone(Postgres::start(archiving(15)).await?, Store::local()?).await?;
    seal(&scene).await?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    let mounted = scene.store.directory()?;
    let away = mounted.with_extension("away");
    rustix::fs::rename(&mounted, &away)?;
    std::fs::create_dir(&mounted)?;
    pitr_tests::Account::of_servers()?.own(&mounted)?;
    scene.agent.run()?;
    let (code, said) = scene.agent.ends(Duration::from_mins(1)).await?;
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("mount the directory"), "{said}");
    assert_eq!(std::fs::read_dir(&mounted)?.count(), 0, "something was made in the empty directory");
    // Whoever means it says so.
    scene.server.execute("SELECT pg_stat_reset_shared('archiver')").await?;
    scene.agent.run()?;
    scene.agent.wait_backups(1).await?;
    Ok(())
}
