//! Full disks, at the repository and where a restore goes.

use std::fs;
use std::path::Path;

use anyhow::Result;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::skip::skipped;
use pitr_tests::{AgentOptions, Disk, Ledger, Postgres, PostgresOptions, Scene, Store};

/// Takes all space that is left.
fn fill(directory: &Path) -> Result<()> {
    let path = directory.join("filler");
    let mut size = 1 << 20;
    let mut content = Vec::new();
    while size >= 4096 {
        content.resize(content.len() + size, 1_u8);
        if fs::write(&path, &content).is_err() {
            content.truncate(content.len() - size);
            size /= 2;
        }
    }
    // The last attempt may have left less than what fits.
    let _ = fs::write(&path, &content);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_repository_acknowledges_nothing_and_catches_up_later() -> Result<()> {
    if !Disk::available() && skipped("mounting a tmpfs needs root") {
        return Ok(());
    }
    let disk = Disk::of_megabytes(200)?;
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let options = AgentOptions::local(&server, &disk.path().join("repository"));
    let mut scene = Scene::with(server, Store::local()?, &options).await?;
    Ledger::create(&scene.server).await?;
    scene.seal().await?;
    fill(disk.path())?;
    let full_at = scene.server.insert_lsn().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 23)).await?;
    writers.more(300).await?;
    let ledger = writers.stop().await?;
    let slot = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_type = 'physical'";
    let restart: pitr::postgres::Lsn = scene.server.value(slot).await?.parse()?;
    assert!(restart <= full_at.advance(64 * 1024), "acknowledged {restart} with a full disk since {full_at}");
    let run = scene.cli().run(["backup"]).await?;
    assert_ne!(run.code, 0, "a backup onto a full disk: {run:?}");
    fs::remove_file(disk.path().join("filler"))?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    drop(restored);
    scene.agent.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_without_room_is_refused_before_anything_is_written() -> Result<()> {
    if !Disk::available() && skipped("mounting a tmpfs needs root") {
        return Ok(());
    }
    let disk = Disk::of_megabytes(8)?;
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let into = disk.path().join("restored");
    let run = scene.cli().run(["restore", "--latest", "--into", &into.display().to_string()]).await?;
    run.code(6)?.says(&["space"])?;
    assert!(!into.join("global/pg_control").exists(), "what is there could be started");
    Ok(())
}
