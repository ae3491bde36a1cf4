//! The agent dies at any moment; nothing that it had acknowledged is missing, and nothing needs a person.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use pitr::postgres::Lsn;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Ledger, PostgresOptions, Scene, Store, seed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ROUNDS: u32 = 20;

/// Commits that the writers knew to end at or before `lsn`.
fn committed_up_to(ledger: &Ledger, lsn: Lsn) -> BTreeSet<i64> {
    ledger.entries().iter().filter(|entry| entry.after <= lsn).map(|entry| entry.id).collect()
}

async fn restored_ids(scene: &Scene) -> Result<BTreeSet<i64>> {
    let restored = scene.restore(&["--latest"]).await?;
    Ledger::read(&restored.server.connect().await?).await
}

async fn survives_kills(store: Store) -> Result<()> {
    let seed = seed::of_this_run();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scene = Scene::start(PostgresOptions::of(17), store).await?;
    Ledger::create(&scene.server).await?;
    // Killed quickly enough, the agent may not have sealed even the ledger's tables when they are first looked for.
    scene.seal().await?;
    let mut ledger = Ledger::default();
    let mut load = Load::new(4, seed);
    load.pause = Duration::from_millis(4);
    for round in 0..ROUNDS {
        let writers = Writers::start(&scene.server, load).await?;
        writers.more(rng.random_range(1..150)).await?;
        if rng.random_bool(0.3) {
            // Half-written segments and switches are the interesting places.
            scene.server.execute("SELECT pg_switch_wal()").await?;
        }
        if rng.random_bool(0.2) {
            // A backup that never gets to its end.
            scene.cli().run(["backup", "--no-wait"]).await?;
        }
        writers.more(rng.random_range(1..60)).await?;
        scene.agent.kill()?;
        writers.more(rng.random_range(1..30)).await?;
        ledger.extend(writers.stop().await?);
        if round % 7 == 3 {
            // With the agent dead, what the repository calls sealed is there.
            let sealed = scene.agent.sealed().await?;
            let found = restored_ids(&scene).await?;
            let missing: Vec<i64> = committed_up_to(&ledger, sealed).difference(&found).copied().collect();
            assert!(missing.is_empty(), "round {round}: sealed {sealed}, missing {missing:?}");
        }
        scene.agent.run()?;
    }
    scene.seal().await?;
    let found = restored_ids(&scene).await?;
    let missing: Vec<i64> = ledger.acknowledged().difference(&found).copied().collect();
    assert!(missing.is_empty(), "acknowledged, and lost: {missing:?}");
    let unknown: Vec<&i64> =
        found.iter().filter(|id| !ledger.acknowledged().contains(id) && !ledger.unanswered().contains(id)).collect();
    assert!(unknown.is_empty(), "never committed, and there: {unknown:?}");
    let info = scene.agent.info().await?;
    let gaps = info.get("gaps").and_then(serde_json::Value::as_array).context("no gaps in info")?;
    assert!(gaps.is_empty(), "{gaps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing_with_a_local_repository() -> Result<()> {
    survives_kills(Store::local()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing_with_s3() -> Result<()> {
    survives_kills(Store::s3().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_after_a_killed_one_is_whole() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene
        .server
        .execute("CREATE TABLE big AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 60000) AS n")
        .await?;
    scene.cli().run(["backup", "--no-wait"]).await?.success()?;
    scene.agent.kill()?;
    scene.agent.run()?;
    let before = scene.agent.wait_backups(1).await?;
    scene.cli().run(["backup"]).await?.success()?;
    let count = |info: &serde_json::Value| {
        info.pointer("/clusters/0/backups").and_then(serde_json::Value::as_array).map_or(0, Vec::len)
    };
    let after = scene.agent.wait_backups(count(&before) + 1).await?;
    assert_eq!(count(&after), count(&before) + 1, "an unfinished backup is not listed");
    let restored = scene.restore(&["--immediate"]).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM big WHERE t = repeat(md5(n::text), 20)").await?, "60000");
    Ok(())
}
