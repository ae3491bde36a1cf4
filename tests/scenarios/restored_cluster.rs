//! What a restored server is, besides its rows: a cluster of its own that leaves its origin alone.

use anyhow::Result;
use pitr_tests::{PostgresOptions, Scene, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_server_is_writable_on_a_new_timeline_and_archives_nowhere() -> Result<()> {
    let options = PostgresOptions::of(17)
        .conf("archive_mode = on")
        .conf("archive_command = 'false'")
        .conf("synchronous_standby_names = ''");
    let scene = Scene::start(options, Store::local()?).await?;
    scene.server.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n").await?;
    scene.server.execute("SELECT pg_create_physical_replication_slot('somebody', true)").await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    let session = restored.server.connect().await?;
    assert_eq!(session.value("SELECT count(*) FROM kept").await?, "1000");
    assert_eq!(session.value("SELECT pg_is_in_recovery()").await?, "f");
    assert_eq!(session.value("SHOW archive_mode").await?, "off");
    assert_eq!(session.value("SELECT count(*) FROM pg_replication_slots").await?, "0");
    session.batch_execute("CREATE TABLE later (n int); CHECKPOINT").await?;
    assert_ne!(session.value("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)").await?, "00000001");
    assert_eq!(session.value("SHOW port").await?, restored.server.port().to_string());
    let info = scene.agent.info().await?;
    assert_eq!(info.pointer("/window/0/timeline").and_then(serde_json::Value::as_u64), Some(1), "{info:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_without_start_says_how_to_start() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let directory = scene.next_directory();
    let path = directory.display().to_string();
    let run = scene.cli().run(["restore", "--latest", "--into", &path]).await?.success()?;
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("pg_ctl") || said.contains("postgres -D"), "{said}");
    assert!(directory.join("recovery.signal").exists());
    assert!(directory.join("global/pg_control").exists());
    assert!(!directory.join("postmaster.pid").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_touches_nothing() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let directory = scene.next_directory();
    let path = directory.display().to_string();
    let plan = scene.cli().json(["restore", "--latest", "--into", &path, "--dry-run"]).await?;
    assert!(plan.is_object(), "{plan}");
    assert!(!directory.exists());
    Ok(())
}
