//! Another `archive_command` for a while: what it let go of is fetched, or told.

use std::time::Duration;

use anyhow::{Context, Result};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Ledger, Postgres, Store, wait};
use serde_json::Value;

use super::{alone, archive_with, archiver, archiving, point_at, seal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_command_took_for_archived_is_fetched_while_the_server_has_it() -> Result<()> {
    let server = Postgres::start(archiving(15).conf("wal_keep_size = '1GB'")).await?;
    let scene = alone(server, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    archive_with(&scene.server, "/bin/true").await?;
    let writers = Writers::start(&scene.server, Load::new(2, 3)).await?;
    for _ in 0..3 {
        writers.more(40).await?;
        scene.server.execute("SELECT pg_switch_wal()").await?;
    }
    let ledger = writers.stop().await?;
    seal(&scene).await.context("with /bin/true")?;
    point_at(&scene.server, &scene.agent).await?;
    seal(&scene).await?;
    assert!(scene.agent.log().contains("fetched from pg_wal"));
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_a_hole_that_is_told_and_not_restored_across() -> Result<()> {
    let server =
        Postgres::start(archiving(15).wal_segment_mb(1).conf("min_wal_size = '2MB'\nmax_wal_size = '2MB'")).await?;
    let mut scene = alone(server, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    seal(&scene).await?;
    scene.agent.kill()?;
    archive_with(&scene.server, "/bin/true").await?;
    let mut load = Load::new(2, 3);
    load.payload = 8000;
    let writers = Writers::start(&scene.server, load).await?;
    for _ in 0..4 {
        writers.more(300).await?;
        let switched = scene.server.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
        wait::until("it is taken for archived", Duration::from_mins(1), async || {
            Ok((archiver(&scene.server, "coalesce(last_archived_wal, '')").await? >= switched).then_some(()))
        })
        .await?;
        scene.server.execute("CHECKPOINT").await?;
    }
    let lost = writers.stop().await?;
    point_at(&scene.server, &scene.agent).await?;
    scene.agent.run()?;
    seal(&scene).await?;
    let gap = wait::until("the gap is noted", Duration::from_mins(1), async || {
        let info = scene.agent.info().await?;
        let gaps = info.get("gaps").and_then(Value::as_array).cloned().unwrap_or_default();
        assert!(gaps.len() <= 1, "{gaps:?}");
        let noted = |gap: &Value| gap.to_string().contains("archive_command");
        Ok(gaps.into_iter().find(noted))
    });
    println!("{}", gap.await?);
    // Nothing within it can be had.
    let entry = lost.entries().get(lost.entries().len() / 2).context("nothing was written")?;
    let (run, _, _port) = scene.try_restore(&["--xid", &entry.xid.to_string()]).await?;
    assert_eq!(run.code, 3, "{run:#?}");
    // The backup behind it is taken without being asked for.
    scene.agent.wait_backups(2).await?;
    seal(&scene).await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert!(Ledger::read(&restored.server.connect().await?).await?.is_superset(&lost.acknowledged()));
    Ok(())
}
