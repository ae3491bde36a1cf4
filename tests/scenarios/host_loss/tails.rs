//! Tails that are missing, and tails that go away under a reader's hands.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::postgres::Lsn;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::proxy::Rule;
use pitr_tests::{Cli, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, S3Server, Scene, Store, s3};

/// The tails of a local repository, in the order of the WAL.
fn tails(scene: &Scene) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![scene.store.directory()?]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().contains(".tail/") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A server whose open segment stands in several tails, and the ledger that it holds.
async fn in_tails() -> Result<(Scene, Ledger)> {
    let server = Postgres::start(PostgresOptions::of(17).conf("autovacuum = off")).await?;
    let store = Store::local()?;
    let options = store.options(&server).set("wal", "flush_interval = \"100ms\"");
    let scene = Scene::with(server, store, &options).await?;
    Ledger::create(&scene.server).await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    let mut load = Load::new(2, 29);
    load.payload = 200;
    let writers = Writers::start(&scene.server, load).await?;
    for _ in 0..6 {
        writers.more(15).await?;
        scene.seal().await?;
    }
    Ok((scene, writers.stop().await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_missing_in_the_middle_is_never_skipped() -> Result<()> {
    let (mut scene, ledger) = in_tails().await?;
    scene.seal().await?;
    scene.lose_host()?;
    let standing = tails(&scene)?;
    ensure!(standing.len() >= 3, "only {standing:?}");
    let missing = &standing[standing.len() / 2];
    let name = missing.file_name().context("no name")?.to_string_lossy().into_owned();
    let (hole, content) = (name.split('-').next().context("no start")?.to_owned(), fs::read(missing)?);
    fs::remove_file(missing)?;

    // What is behind the hole is out of reach, and said to be.
    let last = ledger.entries().iter().map(|entry| entry.before).max().context("no commits")?;
    let (run, directory, _port) = scene.try_restore(&["--lsn", &last.to_string()]).await?;
    run.code(3)?;
    ensure!(!directory.exists(), "something was written");
    // What is before it is restored: a prefix, and no more.
    let (run, directory, _port) = scene.try_restore(&["--latest"]).await?;
    if run.code == 0 {
        let server = pitr_tests::postgres::RestoredServer::find(&directory)?;
        let found = Ledger::read(&server.connect().await?).await?;
        let hole = Lsn::new(u64::from_str_radix(&hole, 16)?);
        let must: std::collections::BTreeSet<i64> =
            ledger.entries().iter().filter(|entry| entry.after <= hole).map(|entry| entry.id).collect();
        let may: std::collections::BTreeSet<i64> =
            ledger.entries().iter().filter(|entry| entry.before < hole).map(|entry| entry.id).collect();
        ensure!(must.is_subset(&found) && found.is_subset(&may), "{hole}: {must:?} {found:?} {may:?}");
    } else {
        run.code(3)?;
    }
    fs::write(missing, content)?;
    pitr_tests::Account::of_servers()?.own(missing)?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

/// The reader lists tails, and before it has read them the segment is complete and they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tails_that_go_between_listing_and_reading_are_looked_for_again() -> Result<()> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(PostgresOptions::of(17).conf("autovacuum = off")).await?;
    let scene = Scene::around(server, Store::S3(Box::new(store))).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(2, 31)).await?;
    writers.more(100).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;

    let mut environment = S3Server::credentials();
    let own = [("PITR_PATH_STYLE", "true"), ("PITR_CLUSTER", "main"), ("PITR_ENDPOINT", &proxy.endpoint())];
    environment.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    environment.push(("PITR_REPOSITORY".to_owned(), format!("s3://{}/pitr", s3::BUCKET)));
    let cli = Cli::bare(&environment)?;
    // A key of a tail and no listing: those have the prefix in the query.
    proxy.set_rules(vec![Rule::every(Fault::Delay(Duration::from_secs(4))).method("GET").path(".tail/0")]);
    let directory = scene.next_directory().display().to_string();
    let arguments = ["restore", "--latest", "--into", &directory, "--yes"];
    let restore = cli.run(arguments);
    let fold = async {
        pitr_tests::wait::until("a tail is about to be read", Duration::from_mins(1), async || {
            Ok((proxy.faults() > 0).then_some(()))
        })
        .await?;
        scene.server.execute("SELECT pg_switch_wal()").await?;
        scene.seal().await?;
        anyhow::Ok(())
    };
    let (run, folded) = tokio::join!(restore, fold);
    folded?;
    run?.success()?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}
