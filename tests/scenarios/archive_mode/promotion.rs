//! A standby takes over, and goes on archiving.

use anyhow::{Context, Result};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Expected, Ledger, Moment, Postgres, StopMode, Store};

use super::{alone, archiving, point_at, seal};

async fn promoted(major: u32) -> Result<()> {
    let server = Postgres::start(archiving(major).conf("wal_keep_size = '1GB'")).await?;
    let mut scene = alone(server, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut standby = scene.server.standby().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 31)).await?;
    writers.more(120).await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    writers.more(40).await?;
    let first = writers.stop().await?;
    standby.catch_up_with(&scene.server).await?;
    scene.agent.kill()?;
    // A whole segment that only the old primary was to archive: the standby takes it for archived.
    scene.server.execute("SELECT pg_current_xact_id(); SELECT pg_switch_wal(); SELECT pg_current_xact_id()").await?;
    standby.catch_up_with(&scene.server).await?;
    scene.server.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    std::mem::swap(&mut scene.server, &mut standby);
    drop(standby);
    scene.agent.reconfigure(&scene.store.options(&scene.server).set("wal", "source = \"archive\""))?;
    scene.agent.run()?;
    point_at(&scene.server, &scene.agent).await?;
    let writers = Writers::start(&scene.server, Load::new(3, 37)).await?;
    writers.more(120).await?;
    let second = writers.stop().await?;
    seal(&scene).await?;
    let sealed = scene.agent.info().await?;
    assert_eq!(sealed.pointer("/sealed/timeline").and_then(serde_json::Value::as_u64), Some(2), "{sealed}");
    let mut all = first.clone();
    all.extend(second);
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, all.acknowledged());
    drop(restored);
    let entry = first.entries().get(first.entries().len() / 2).context("nothing was written")?;
    let restored = scene.restore(&["--xid", &entry.xid.to_string()]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    Expected::at(&Moment::Xid(entry.xid), &first, None).check(&found)?;
    let stored = std::process::Command::new("find").arg(scene.store.directory()?).output()?;
    let stored = String::from_utf8_lossy(&stored.stdout).into_owned();
    for name in ["00000002.history.zst", ".partial.zst", ".backup.zst"] {
        assert!(stored.contains(name), "{name} is missing:\n{stored}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_followed_with_history_and_partial_files_on_13() -> Result<()> {
    promoted(13).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_followed_with_history_and_partial_files_on_18() -> Result<()> {
    promoted(18).await
}
