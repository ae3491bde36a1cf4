use std::time::Duration;

use anyhow::Result;
use pitr_tests::skip::majors;
use pitr_tests::{Postgres, PostgresOptions, StopMode};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_each_major_start_stop_and_come_back() -> Result<()> {
    for major in majors() {
        let mut server = Postgres::start(PostgresOptions::of(major)).await?;
        assert!(server.value("SHOW server_version_num").await?.starts_with(&major.to_string()));
        assert_eq!(server.value("SHOW data_checksums").await?, "on");
        server.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await?;
        server.restart(StopMode::Fast).await?;
        server.restart(StopMode::Kill).await?;
        assert_eq!(server.value("SELECT n FROM kept").await?, "1");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_reach_the_server() -> Result<()> {
    let options = PostgresOptions::of(18).wal_segment_mb(1).without_checksums().conf("work_mem = '7MB'");
    let server = Postgres::start(options).await?;
    let session = server.connect().await?;
    assert_eq!(session.value("SHOW wal_segment_size").await?, "1MB");
    assert_eq!(session.value("SHOW data_checksums").await?, "off");
    assert_eq!(session.value("SHOW work_mem").await?, "7MB");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_follows_and_takes_over() -> Result<()> {
    let mut primary = Postgres::start(PostgresOptions::of(17)).await?;
    primary.execute("CREATE TABLE kept (n int)").await?;
    let standby = primary.standby().await?;
    primary.execute("INSERT INTO kept VALUES (2)").await?;
    standby.catch_up_with(&primary).await?;
    primary.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    standby.execute("INSERT INTO kept VALUES (3)").await?;
    assert_eq!(standby.value("SELECT sum(n) FROM kept").await?, "5");
    assert_eq!(standby.value("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)").await?, "00000002");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_behind_a_dropped_server() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let data = server.data_directory().to_owned();
    let pid: i32 = std::fs::read_to_string(data.join("postmaster.pid"))?.lines().next().unwrap_or_default().parse()?;
    drop(server);
    assert!(!data.exists());
    let gone = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err();
    pitr_tests::wait::until("the server is gone", Duration::from_secs(5), async || Ok(gone().then_some(()))).await
}
