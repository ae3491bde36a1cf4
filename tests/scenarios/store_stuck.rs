//! The store stalls, refuses and breaks off: the server is never held back, and nothing is lost once it works again.

use std::time::Duration;

use anyhow::Result;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{
    AgentOptions, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, S3Server, Scene, StopMode, Store,
};

/// A scene whose agent reaches its store through a proxy.
async fn behind_a_proxy() -> Result<(Scene, FaultProxy)> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(PostgresOptions::of(17)).await?;
    let options = AgentOptions::s3(&server, &proxy.endpoint());
    let scene = Scene::with(server, Store::S3(Box::new(store)), &options).await?;
    Ledger::create(&scene.server).await?;
    Ok((scene, proxy))
}

async fn nothing_is_lost(scene: &Scene, ledger: &Ledger) -> Result<()> {
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_store_does_not_hang_the_servers_shutdown() -> Result<()> {
    let (mut scene, proxy) = behind_a_proxy().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 11)).await?;
    writers.more(50).await?;
    proxy.set(Fault::Stall);
    writers.more(150).await?;
    let mut ledger = writers.stop().await?;
    let took = scene.server.stop_within(StopMode::Fast, Duration::from_secs(15)).await?;
    println!("the server stopped after {took:?}");
    scene.server.run().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 12)).await?;
    writers.more(50).await?;
    proxy.set(Fault::None);
    writers.more(50).await?;
    ledger.extend(writers.stop().await?);
    nothing_is_lost(&scene, &ledger).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_go_on_while_the_store_stalls_and_nothing_is_acknowledged() -> Result<()> {
    let (scene, proxy) = behind_a_proxy().await?;
    // Long segments of stall against a short timeout of the server: the connection has to be kept alive.
    scene.server.execute("ALTER SYSTEM SET wal_sender_timeout = '5s'").await?;
    scene.server.execute("SELECT pg_reload_conf()").await?;
    let writers = Writers::start(&scene.server, Load::new(2, 13)).await?;
    scene.seal().await?;
    proxy.set(Fault::Stall);
    let stalled_at = scene.server.insert_lsn().await?;
    writers.more(400).await?;
    let slot = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_type = 'physical'";
    let restart: pitr::postgres::Lsn = scene.server.value(slot).await?.parse()?;
    // What was under way when the stall began may have arrived.
    let most = stalled_at.advance(64 * 1024);
    assert!(restart <= most, "the slot moved to {restart}, the store took nothing after {stalled_at}");
    proxy.set(Fault::None);
    let ledger = writers.stop().await?;
    assert!(!scene.server.log().contains("terminating walsender process due to replication timeout"));
    nothing_is_lost(&scene, &ledger).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_breaks_are_ridden_out() -> Result<()> {
    let (scene, proxy) = behind_a_proxy().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 17)).await?;
    for fault in [
        Fault::SlowDown,
        Fault::ErrorAfterEffect,
        Fault::ResetAfter { bytes: 5000 },
        Fault::ResetAfterEffect,
        Fault::Throttle { bytes_per_second: 200_000 },
        Fault::Delay(Duration::from_millis(300)),
    ] {
        proxy.set(fault);
        writers.more(60).await?;
        scene.server.execute("SELECT pg_switch_wal()").await?;
        proxy.set(Fault::None);
        writers.more(20).await?;
    }
    let ledger = writers.stop().await?;
    assert!(proxy.faults() > 0, "no request met a fault");
    nothing_is_lost(&scene, &ledger).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_rides_out_broken_downloads() -> Result<()> {
    let (scene, proxy) = behind_a_proxy().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 19)).await?;
    writers.more(200).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let rule = |fault, times| pitr_tests::proxy::Rule::every(fault).method("GET").times(times);
    proxy.set_rules(vec![
        rule(Fault::TruncateBody { bytes: 1000 }, 6),
        rule(Fault::SlowDown, 6),
        rule(Fault::ResetAfterEffect, 6),
    ]);
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    assert!(proxy.faults() >= 6, "no download was broken");
    Ok(())
}
