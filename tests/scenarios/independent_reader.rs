//! `docs/format.md` is enough: a script that knows nothing else restores a backup and its WAL.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::ports::Port;
use pitr_tests::postgres::RestoredServer;
use pitr_tests::{Account, Ledger, Postgres, PostgresOptions, Scene, Scratch, Store};

/// Read from stdin, because the servers' account need not see where the sources are.
const READER: &str = include_str!("../reader/restore.py");

fn read(repository: &Path, into: &Path) -> Result<serde_json::Value> {
    let script = tempfile::tempfile().context("make a file")?;
    std::io::Write::write_all(&mut &script, READER.as_bytes())?;
    std::io::Seek::rewind(&mut &script)?;
    let mut command = Account::of_servers()?.command("python3");
    command.arg("-").arg(repository).args(["main"]).arg(into).stdin(Stdio::from(script));
    let output = command.output().context("start python3")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn start(origin: &Postgres, data: &Path, sockets: &Path) -> Result<(RestoredServer, Port)> {
    let port = Port::take()?;
    let options = format!("-p {} -k '{}' -c listen_addresses=''", port.number(), sockets.display());
    let mut command = Account::of_servers()?.command(origin.bin().join("pg_ctl"));
    command.args(["start", "-w", "-s", "-t", "120", "-o", &options, "-D"]).arg(data);
    let log = data.with_file_name("log");
    let ended =
        command.arg("-l").arg(&log).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(ended.success(), "the server did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
    Ok((RestoredServer::find(data)?, port))
}

async fn reads_all(major: u32) -> Result<()> {
    let spaces = Scratch::new()?;
    let server = Postgres::start(PostgresOptions::of(major)).await?;
    let path = spaces.directory("a space")?;
    server.execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", path.display())).await?;
    server.execute("CREATE TABLE moved TABLESPACE elsewhere AS SELECT generate_series(1, 20000) AS n").await?;
    let scene = Scene::around(server, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(3, 5)).await?;
    writers.more(150).await?;
    scene.cli().run(["backup"]).await?.success()?;
    writers.more(150).await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    writers.more(50).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;

    let scratch = Scratch::new()?;
    let into = scratch.directory("read")?;
    let told = read(&scene.store.directory()?, &into)?;
    let version = told.get("postgres_version").and_then(serde_json::Value::as_u64);
    assert_eq!(version.map(|version| version / 10_000), Some(major.into()), "{told}");
    let (restored, _port) = start(&scene.server, &into.join("data"), &scratch.directory("s")?)?;
    let session = restored.connect().await?;
    pitr_tests::wait::until("recovery is over", std::time::Duration::from_mins(1), async || {
        Ok((session.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
    })
    .await?;
    assert_eq!(Ledger::read(&session).await?, ledger.acknowledged());
    assert_eq!(session.value("SELECT sum(n) FROM moved").await?, "200010000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_restores_by_the_format_alone_on_15() -> Result<()> {
    reads_all(15).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_restores_by_the_format_alone_on_18() -> Result<()> {
    reads_all(18).await
}
