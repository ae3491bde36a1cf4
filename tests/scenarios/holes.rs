//! WAL that is lost: never in silence. Each ends without loss, or in a gap that is told, and in a new backup.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{
    Account, AgentOptions, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, S3Server, Scene, StopMode, Store, wait,
};
use serde_json::Value;

/// A server that keeps no more WAL than it must, in small segments.
fn forgetful(major: u32) -> PostgresOptions {
    PostgresOptions::of(major)
        .wal_segment_mb(1)
        .conf("min_wal_size = '2MB'")
        .conf("max_wal_size = '8MB'")
        .conf("wal_keep_size = 0")
}

/// So many MiB of WAL that mean nothing.
async fn burn(server: &Postgres, megabytes: u32) -> Result<()> {
    let messages = megabytes * 128;
    server
        .execute(&format!(
            "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 8000))) FROM generate_series(1, {messages})"
        ))
        .await
}

/// The server forgets what it need not keep.
async fn forget(server: &Postgres) -> Result<()> {
    for _ in 0..2 {
        burn(server, 12).await?;
        server.execute("CHECKPOINT").await?;
    }
    Ok(())
}

async fn some(server: &Postgres, seed: u64) -> Result<Ledger> {
    let writers = Writers::start(server, Load::new(2, seed)).await?;
    writers.more(40).await?;
    writers.stop().await
}

fn list<'a>(info: &'a Value, key: &str) -> &'a [Value] {
    info.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Every file below `directory` whose path holds `part`.
fn files(directory: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, part)?);
        } else if path.display().to_string().contains(part) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

async fn wait_gap(scene: &Scene) -> Result<Value> {
    let found = wait::until("a gap is told", Duration::from_mins(1), async || {
        Ok(list(&scene.agent.info().await?, "gaps").first().cloned())
    });
    found.await.with_context(|| scene.agent.log())
}

/// What was there before the gap and what came behind it can be restored, and nothing in between.
async fn both_sides(scene: &Scene, before: &Ledger, all: &Ledger, gap: &Value) -> Result<()> {
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, all.acknowledged());
    drop(restored);
    // Ids do not rise with positions.
    let last = before.entries().iter().map(|entry| entry.after).max().context("nothing was written")?;
    let restored = scene.restore(&["--lsn", &last.to_string()]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    let missing: Vec<i64> = before.acknowledged().difference(&found).copied().collect();
    assert!(missing.is_empty(), "committed up to {last}, before the gap, and missing: {missing:?}");
    let to: pitr::postgres::Lsn = gap.get("to_lsn").and_then(Value::as_str).context("the gap has no end")?.parse()?;
    let inside = pitr::postgres::Lsn::new(to.as_u64() - 100_000);
    let (run, ..) = scene.try_restore(&["--lsn", &inside.to_string()]).await?;
    run.code(3)?;
    Ok(())
}

/// The agent is away; meanwhile `loss` makes the server forget; then there is a gap with this reason and a new backup.
async fn lost_while_away(
    options: PostgresOptions,
    reason: &[&str],
    loss: impl AsyncFnOnce(&Postgres) -> Result<()>,
) -> Result<()> {
    let mut scene = Scene::start(options, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let before = some(&scene.server, 1).await?;
    scene.seal().await?;
    scene.agent.kill()?;
    let mut all = before.clone();
    all.extend(some(&scene.server, 2).await?);
    loss(&scene.server).await?;
    scene.agent.run()?;
    let gap = wait_gap(&scene).await?;
    let told = gap.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
    for word in reason {
        assert!(told.contains(word), "{gap}");
    }
    scene.agent.wait_backups(2).await?;
    all.extend(some(&scene.server, 3).await?);
    both_sides(&scene, &before, &all, &gap).await?;
    let status = scene.cli().run(["status"]).await?.success()?;
    ensure!(status.stdout.contains("moments up to") && status.stdout.contains("can be restored"), "{}", status.stdout);
    // Noticed once, covered once: a restart adds neither a gap nor a backup.
    let repository = scene.store.directory()?;
    let notes = files(&repository, "/gaps/")?;
    assert_eq!(notes.len(), 1, "{notes:?}");
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.agent.run()?;
    scene.seal().await?;
    burn(&scene.server, 2).await?;
    scene.seal().await?;
    assert_eq!(files(&repository, "/gaps/")?, notes);
    assert_eq!(list(&scene.agent.info().await?, "backups").len(), 2);
    let status = scene.cli().json(["status"]).await?;
    let lasting = status.get("problems").context("no problems")?.to_string();
    ensure!(!lasting.contains("is to come"), "the gap is covered, and still a problem: {lasting}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_an_administrator_dropped_leaves_a_gap_and_a_backup() -> Result<()> {
    lost_while_away(forgetful(17), &["had no slot", "pitr_main"], async |server: &Postgres| {
        server.execute("SELECT pg_drop_replication_slot('pitr_main')").await?;
        forget(server).await
    })
    .await
}

async fn over_max_slot_wal_keep_size(major: u32) -> Result<()> {
    let options = forgetful(major).conf("max_slot_wal_keep_size = '4MB'");
    lost_while_away(options, &["max_slot_wal_keep_size"], async |server: &Postgres| forget(server).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_over_max_slot_wal_keep_size_leaves_a_gap_and_a_backup_13() -> Result<()> {
    over_max_slot_wal_keep_size(13).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_over_max_slot_wal_keep_size_leaves_a_gap_and_a_backup_18() -> Result<()> {
    over_max_slot_wal_keep_size(18).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_slot_that_the_server_invalidated_leaves_a_gap_and_a_backup() -> Result<()> {
    let options = forgetful(18).conf("idle_replication_slot_timeout = '1s'");
    lost_while_away(options, &["idle_replication_slot_timeout"], async |server: &Postgres| {
        wait::until("the slot is invalidated", Duration::from_mins(1), async || {
            forget(server).await?;
            let lost = server.value("SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'").await?;
            Ok((lost == "1").then_some(()))
        })
        .await
    })
    .await
}

/// The slot is gone, and its WAL is not: nothing is lost, so nothing is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_slot_whose_wal_is_still_there_loses_nothing() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(18).conf("wal_keep_size = '2GB'"), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut ledger = some(&scene.server, 5).await?;
    scene.agent.kill()?;
    scene.server.execute("SELECT pg_drop_replication_slot('pitr_main')").await?;
    ledger.extend(some(&scene.server, 6).await?);
    scene.server.execute("SELECT pg_switch_wal()").await?;
    ledger.extend(some(&scene.server, 7).await?);
    scene.server.execute("CHECKPOINT").await?;
    scene.agent.run()?;
    scene.seal().await?;
    let info = scene.agent.info().await?;
    assert_eq!((list(&info, "gaps").len(), list(&info, "backups").len()), (0, 1));
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_resetwal_leaves_a_gap_and_a_backup() -> Result<()> {
    let mut scene = Scene::start(forgetful(15), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut ledger = some(&scene.server, 8).await?;
    scene.seal().await?;
    scene.server.stop(StopMode::Fast).await?;
    let mut reset = Account::of_servers()?.command(scene.server.bin().join("pg_resetwal"));
    let output = reset.arg("-f").arg("-D").arg(scene.server.data_directory()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.server.run().await?;
    let gap = wait_gap(&scene).await?;
    assert!(gap.to_string().contains("pg_resetwal"), "{gap}");
    scene.agent.wait_backups(2).await?;
    ledger.extend(some(&scene.server, 9).await?);
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

/// A scene whose agent reaches its store through a proxy.
async fn behind_a_proxy(options: PostgresOptions, wal: &str) -> Result<(Scene, FaultProxy)> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(options).await?;
    let options = AgentOptions::s3(&server, &proxy.endpoint()).set("wal", wal);
    let scene = Scene::with(server, Store::S3(Box::new(store)), &options).await?;
    Ledger::create(&scene.server).await?;
    Ok((scene, proxy))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_for_long_under_load_costs_nothing() -> Result<()> {
    let (scene, proxy) = behind_a_proxy(forgetful(17), "flush_interval = \"200ms\"").await?;
    let writers = Writers::start(&scene.server, Load::new(3, 21)).await?;
    writers.more(50).await?;
    for fault in [Fault::Stall, Fault::SlowDown] {
        proxy.set(fault);
        for _ in 0..4 {
            burn(&scene.server, 15).await?;
            writers.more(60).await?;
            scene.server.execute("CHECKPOINT").await?;
        }
        let slot = "SELECT pg_current_wal_lsn() - restart_lsn > 50000000 FROM pg_replication_slots";
        assert_eq!(scene.server.value(slot).await?, "t", "the slot was to hold it all");
        proxy.set(Fault::None);
        scene.seal().await?;
    }
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let info = scene.agent.info().await?;
    assert_eq!((list(&info, "gaps").len(), list(&info, "backups").len()), (0, 1));
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

async fn slots(server: &Postgres) -> Result<String> {
    server.value("SELECT count(*) FROM pg_replication_slots").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_valve_gives_the_slot_up_before_the_servers_disk_is_full() -> Result<()> {
    let (mut scene, proxy) = behind_a_proxy(forgetful(17), "max_retained = \"64MiB\"").await?;
    let before = some(&scene.server, 25).await?;
    scene.seal().await?;
    proxy.set(Fault::Stall);
    burn(&scene.server, 40).await?;
    wait::until("a warning comes first", Duration::from_mins(1), async || {
        Ok(scene.agent.log().contains("at 64 MiB it is given up").then_some(()))
    })
    .await?;
    assert_eq!(slots(&scene.server).await?, "1");
    burn(&scene.server, 40).await?;
    wait::until("the slot is given up", Duration::from_mins(1), async || {
        Ok((slots(&scene.server).await? == "0").then_some(()))
    })
    .await
    .with_context(|| scene.agent.log())?;
    let mut all = before.clone();
    all.extend(some(&scene.server, 26).await?);
    forget(&scene.server).await?;
    let kept: u64 = scene.server.value("SELECT sum(size)::int8 FROM pg_ls_waldir()").await?.parse()?;
    assert!(kept < 64 << 20, "the server still keeps {} MiB", kept >> 20);
    proxy.set(Fault::None);
    scene.agent.wait_backups(2).await?;
    all.extend(some(&scene.server, 27).await?);
    let gap = wait_gap(&scene).await?;
    assert!(gap.to_string().contains("max_retained"), "{gap}");
    both_sides(&scene, &before, &all, &gap).await
}

/// Given up, and back before the server forgot anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_that_the_server_still_has_after_the_valve_is_not_lost() -> Result<()> {
    let options = forgetful(18).conf("wal_keep_size = '1GB'");
    let (scene, proxy) = behind_a_proxy(options, "max_retained = \"64MiB\"").await?;
    let mut ledger = some(&scene.server, 28).await?;
    proxy.set(Fault::SlowDown);
    burn(&scene.server, 80).await?;
    wait::until("the slot is given up", Duration::from_mins(1), async || {
        Ok((slots(&scene.server).await? == "0").then_some(()))
    })
    .await
    .with_context(|| scene.agent.log())?;
    ledger.extend(some(&scene.server, 29).await?);
    proxy.set(Fault::None);
    scene.seal().await?;
    let info = scene.agent.info().await?;
    assert_eq!((list(&info, "gaps").len(), list(&info, "backups").len()), (0, 1), "{info}");
    let problems = scene.cli().json(["status"]).await?.get("problems").cloned();
    assert_eq!(problems, Some(Value::Array(Vec::new())));
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

/// The whole segments in a local repository.
fn segments(scene: &Scene) -> Result<Vec<PathBuf>> {
    let stored = files(&scene.store.directory()?, "/wal/")?;
    Ok(stored.into_iter().filter(|path| !path.display().to_string().contains(".tail/")).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_segment_that_the_server_has_is_stored_again() -> Result<()> {
    let mut scene = Scene::start(forgetful(17).conf("wal_keep_size = '1GB'"), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut ledger = some(&scene.server, 31).await?;
    burn(&scene.server, 8).await?;
    ledger.extend(some(&scene.server, 32).await?);
    scene.seal().await?;
    let stored = segments(&scene)?;
    for deleted in &stored[stored.len() - 6..stored.len() - 3] {
        std::fs::remove_file(deleted)?;
    }
    // As soon as the lease says that it was sealed.
    wait_gap(&scene).await?;
    let (run, ..) = scene.try_restore(&["--latest"]).await?;
    run.code(3)?;
    // It is looked for at every start.
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.agent.run()?;
    wait::until("it is stored again", Duration::from_mins(1), async || {
        Ok((segments(&scene)?.len() >= stored.len()).then_some(()))
    })
    .await
    .with_context(|| scene.agent.log())?;
    ledger.extend(some(&scene.server, 33).await?);
    scene.seal().await?;
    let info = scene.agent.info().await?;
    assert_eq!((list(&info, "gaps").len(), list(&info, "backups").len()), (0, 1));
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_segment_that_nobody_has_leaves_a_gap_and_a_backup() -> Result<()> {
    let mut scene = Scene::start(forgetful(18), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let before = some(&scene.server, 35).await?;
    burn(&scene.server, 8).await?;
    scene.seal().await?;
    let stored = segments(&scene)?;
    let deleted = stored[stored.len() - 3].clone();
    forget(&scene.server).await?;
    scene.seal().await?;
    std::fs::remove_file(deleted)?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.agent.run()?;
    scene.agent.wait_backups(2).await?;
    let gap = wait_gap(&scene).await?;
    assert!(gap.to_string().contains("deleted from the repository"), "{gap}");
    let mut all = before.clone();
    all.extend(some(&scene.server, 36).await?);
    both_sides(&scene, &before, &all, &gap).await
}

/// A server with its data directory as it was some time ago.
struct PutBack {
    scene: Scene,
    old: PathBuf,
}

impl PutBack {
    /// Takes a copy of a stopped server and goes on with it.
    async fn prepare(options: PostgresOptions) -> Result<Self> {
        let mut scene = Scene::start(options, Store::local()?).await?;
        Ledger::create(&scene.server).await?;
        some(&scene.server, 41).await?;
        scene.seal().await?;
        scene.server.stop(StopMode::Fast).await?;
        let old = scene.server.scratch().path().join("old");
        copy(scene.server.data_directory(), &old)?;
        scene.server.run().await?;
        Ok(Self { scene, old })
    }

    /// The server as it was when it was copied.
    async fn put_back(&mut self) -> Result<()> {
        self.scene.server.stop(StopMode::Immediate).await?;
        std::fs::remove_dir_all(self.scene.server.data_directory())?;
        copy(&self.old, self.scene.server.data_directory())?;
        self.scene.server.run().await
    }

    /// The agent ends, says what to do, and the repository is as it was.
    async fn is_refused(&mut self) -> Result<()> {
        let repository = self.scene.store.directory()?;
        let wal = files(&repository, "/wal/")?;
        let (code, said) =
            self.scene.agent.ends(Duration::from_mins(1)).await.with_context(|| self.scene.agent.log())?;
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("adopt --new-history"), "{said}");
        assert_eq!(files(&repository, "/wal/")?, wal);
        let problems = self.scene.cli().json(["status"]).await?.get("problems").context("no problems")?.to_string();
        assert!(problems.contains("the agent said"), "{problems}");
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let output = Account::of_servers()?.command("cp").arg("-a").arg(from).arg(to).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_put_back_is_refused_and_can_be_adopted_as_a_new_history() -> Result<()> {
    let mut scene = PutBack::prepare(PostgresOptions::of(17)).await?;
    let lost = some(&scene.scene.server, 42).await?;
    scene.scene.seal().await?;
    let xid = lost.entries().last().context("nothing was written")?.xid.to_string();
    scene.put_back().await?;
    scene.is_refused().await?;
    let scene = &mut scene.scene;
    let config = scene.agent.config().to_owned();
    let mut adopt = Account::of_servers()?.command(pitr_tests::executables::product("pitr-agent")?);
    let output = adopt.args(["adopt", "--new-history", "--config"]).arg(&config).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.agent.run()?;
    scene.agent.wait_backups(2).await?;
    some(&scene.server, 43).await?;
    scene.seal().await?;
    let now = Ledger::read(&scene.server.connect().await?).await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, now);
    println!("what was lost ends with transaction {xid}");
    Ok(())
}

/// It has written on, over the place where the repository ends, while nobody looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_that_has_overtaken_the_repository_is_refused() -> Result<()> {
    for whole_segment in [false, true] {
        let mut scene = PutBack::prepare(forgetful(17).conf("wal_keep_size = '1GB'")).await?;
        some(&scene.scene.server, 45).await?;
        if whole_segment {
            // The repository ends with a segment: nothing of the next one is there to be compared.
            scene.scene.server.execute("SELECT pg_switch_wal()").await?;
            let end = scene.scene.server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?;
            scene.scene.agent.wait_sealed(end).await?;
        } else {
            scene.scene.seal().await?;
        }
        scene.scene.agent.kill()?;
        if whole_segment {
            for tail in files(&scene.scene.store.directory()?, ".tail/")? {
                std::fs::remove_file(tail)?;
            }
        }
        scene.put_back().await?;
        burn(&scene.scene.server, 6).await?;
        scene.scene.agent.run()?;
        scene.is_refused().await?;
    }
    Ok(())
}
