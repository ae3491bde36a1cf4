//! Segments of other sizes than 16 MB.

use anyhow::Result;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Expected, Ledger, Moment, PostgresOptions, Scene, Store};

async fn follows_segments_of(major: u32, megabytes: u32, commits: u64) -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(major).wal_segment_mb(megabytes), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(3, u64::from(megabytes))).await?;
    writers.more(commits).await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    writers.more(50).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    let entry = &ledger.entries()[ledger.entries().len() / 2];
    let restored = scene.restore(&["--lsn", &entry.after.to_string()]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    Expected::at(&Moment::Lsn(entry.after), &ledger, None).check(&found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_of_1_mb() -> Result<()> {
    follows_segments_of(18, 1, 600).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_of_64_mb() -> Result<()> {
    follows_segments_of(15, 64, 100).await
}
