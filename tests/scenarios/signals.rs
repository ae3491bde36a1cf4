//! SIGTERM and Ctrl-C in the middle.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::process::exit_code;
use pitr_tests::{
    AgentOptions, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, Process, S3Server, Scene, Store, wait,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_agent_ends_in_order_and_goes_on_where_it_was() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(18), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(3, 29)).await?;
    writers.more(100).await?;
    assert_eq!(scene.agent.stop(Duration::from_secs(30)).await?, 0, "{}", scene.agent.log());
    writers.more(50).await?;
    scene.agent.run()?;
    writers.more(50).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_restore_exits_130_and_leaves_nothing_that_starts() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let store = S3Server::start().await?;
        let proxy = FaultProxy::start(store.address()).await?;
        let server = Postgres::start(PostgresOptions::of(15)).await?;
        let options = AgentOptions::s3(&server, &proxy.endpoint());
        let scene = Scene::with(server, Store::S3(Box::new(store)), &options).await?;
        proxy.set(Fault::Throttle { bytes_per_second: 100_000 });
        let directory = scene.next_directory();
        let mut command = scene.cli().command()?;
        command.args(["restore", "--latest", "--yes", "--into"]).arg(&directory);
        let mut process = Process::spawn(command, &scene.agent.scratch().path().join("restore.log"))?;
        wait::until("the restore has begun to write", Duration::from_mins(1), async || {
            Ok(std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some()).then_some(()))
        })
        .await?;
        process.signal(signal)?;
        let code = exit_code(process.wait(Duration::from_secs(20)).await?);
        let expected: &[i32] = if signal == Signal::SIGINT { &[130] } else { &[130, 143] };
        assert!(expected.contains(&code), "{signal}: exit code {code}\n{}", process.output());
        assert!(!directory.join("global/pg_control").exists(), "a half restored directory could be started");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_terminated_during_a_backup_ends_soon() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let fill = "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) AS t FROM generate_series(1, 100000) AS n";
    scene.server.execute(fill).await?;
    scene.cli().run(["backup", "--no-wait"]).await?.success()?;
    assert_eq!(scene.agent.stop(Duration::from_secs(30)).await?, 0, "{}", scene.agent.log());
    scene.agent.run()?;
    scene.agent.wait_backups(1).await?;
    scene.cli().run(["backup"]).await?.success()?;
    Ok(())
}
