//! Restarts, crashes and promotions of the server are followed without a hole.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::postgres::Lsn;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Account, Expected, Ledger, Moment, Postgres, PostgresOptions, Scene, StopMode, Store, wait};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_and_crashes_of_the_server_leave_no_hole() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(18), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut ledger = Ledger::default();
    for (seed, mode) in [StopMode::Fast, StopMode::Immediate, StopMode::Kill].into_iter().enumerate() {
        let writers = Writers::start(&scene.server, Load::new(3, seed as u64)).await?;
        writers.more(80).await?;
        let (stopped, written) = tokio::join!(scene.server.stop(mode), writers.stop());
        stopped?;
        ledger.extend(written?);
        scene.server.run().await?;
    }
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    Expected { must: ledger.acknowledged(), may: ledger.unanswered().clone() }.check(&found)
}

/// A primary that gave up its role to its standby, and the agent moved over to that.
async fn promoted() -> Result<(Scene, Ledger, Ledger)> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut standby = scene.server.standby().await?;
    let writers = Writers::start(&scene.server, Load::new(3, 31)).await?;
    writers.more(120).await?;
    let first = writers.stop().await?;
    standby.catch_up_with(&scene.server).await?;
    scene.seal().await?;
    scene.agent.kill()?;
    scene.server.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    std::mem::swap(&mut scene.server, &mut standby);
    drop(standby);
    scene.agent.reconfigure(&scene.store.options(&scene.server))?;
    scene.agent.run()?;
    let writers = Writers::start(&scene.server, Load::new(3, 37)).await?;
    writers.more(120).await?;
    let second = writers.stop().await?;
    scene.seal().await?;
    Ok((scene, first, second))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_followed_onto_its_timeline() -> Result<()> {
    let (scene, first, second) = promoted().await?;
    let mut all = first.clone();
    all.extend(second);
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, all.acknowledged());
    drop(restored);
    // A moment on the first timeline, by way of the second one's history.
    let entry = first.entries().get(first.entries().len() / 2).context("nothing was written")?;
    let restored = scene.restore(&["--xid", &entry.xid.to_string()]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    Expected::at(&Moment::Xid(entry.xid), &first, None).check(&found)
}

/// Both servers in one connection string.
fn either(one: &Postgres, other: &Postgres, target: &str) -> String {
    format!(
        "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs={target}",
        one.socket_directory().display(),
        other.socket_directory().display(),
        one.port(),
        other.port()
    )
}

async fn ids(server: &Postgres) -> Result<BTreeSet<i64>> {
    Ledger::read(&server.connect().await?).await
}

async fn restored_ids(scene: &Scene, target: &[&str]) -> Result<BTreeSet<i64>> {
    let restored = scene.restore(target).await?;
    Ledger::read(&restored.server.connect().await?).await
}

async fn some(server: &Postgres, seed: u64) -> Result<Ledger> {
    let writers = Writers::start(server, Load::new(3, seed)).await?;
    writers.more(60).await?;
    writers.stop().await
}

/// The primary dies under load, its standby takes over, and the agent goes there by itself.
async fn follows_a_failover(major: u32) -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(major).conf("wal_keep_size = '1GB'")).await?;
    Ledger::create(&server).await?;
    let mut standby = server.standby().await?;
    let store = Store::local()?;
    let options = store.options(&server).connection(&either(&server, &standby, "read-write"));
    let mut scene = Scene::with(server, store, &options).await?;
    let writers = Writers::start(&scene.server, Load::new(4, 51)).await?;
    writers.more(150).await?;
    standby.catch_up_with(&scene.server).await?;
    writers.more(100).await?;
    let (stopped, written) = tokio::join!(scene.server.stop(StopMode::Kill), writers.stop());
    stopped?;
    let first = written?;
    standby.promote().await?;
    std::mem::swap(&mut scene.server, &mut standby);
    let mut old = standby;
    let taken_over = ids(&scene.server).await?;
    let known: BTreeSet<i64> = first.acknowledged().union(first.unanswered()).copied().collect();
    assert!(taken_over.is_subset(&known), "the standby has what nobody wrote");
    let mut all = taken_over.clone();
    all.extend(some(&scene.server, 52).await?.acknowledged());
    scene.seal().await?;
    assert_eq!(scene.server.value("SELECT count(*) FROM pg_replication_slots WHERE active").await?, "1");
    assert_eq!(restored_ids(&scene, &["--latest"]).await?, all);
    let info = scene.agent.info().await?;
    assert_eq!(info.pointer("/sealed/timeline"), Some(&Value::from(2)));
    assert_eq!(info.get("gaps"), Some(&Value::Array(Vec::new())), "{info}");

    // A backup is of the server whose WAL is archived, whatever comes first in the connection string.
    scene.cli().run(["backup"]).await?.success()?;
    let info = scene.agent.info().await?;
    assert_eq!(info.pointer("/backups/1/timeline"), Some(&Value::from(2)), "{info}");

    // The old primary comes back as it was: nothing of it is stored, and no slot is made on it.
    old.run().await?;
    old.execute("INSERT INTO ledger VALUES (-7, 0, 'of the old primary'); SELECT pg_switch_wal()").await?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.agent.run()?;
    all.extend(some(&scene.server, 53).await?.acknowledged());
    scene.seal().await?;
    ensure!(scene.agent.log().contains("left behind by a failover"), "{}", scene.agent.log());
    assert_eq!(restored_ids(&scene, &["--latest"]).await?, all);
    let on_first = restored_ids(&scene, &["--latest", "--timeline", "1"]).await?;
    assert!(!on_first.contains(&-7), "the old primary was archived on");
    let missing: Vec<&i64> = taken_over.difference(&on_first).collect();
    assert!(missing.is_empty(), "of what the standby had on timeline 1 the repository lacks {missing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_follows_a_failover_under_load_13() -> Result<()> {
    follows_a_failover(13).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_follows_a_failover_under_load_18() -> Result<()> {
    follows_a_failover(18).await
}

/// The agent was away when the primary died: what is missing of the old timeline comes from the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_old_timeline_comes_from_the_new_primary() -> Result<()> {
    let options = PostgresOptions::of(18).wal_segment_mb(1).conf("wal_keep_size = '1GB'");
    let server = Postgres::start(options).await?;
    Ledger::create(&server).await?;
    let standby = server.standby().await?;
    let store = Store::local()?;
    let options = store.options(&server).connection(&either(&server, &standby, "primary"));
    let mut scene = Scene::with(server, store, &options).await?;
    let first = some(&scene.server, 55).await?;
    scene.seal().await?;
    scene.agent.kill()?;
    let away = some(&scene.server, 56).await?;
    for _ in 0..5 {
        scene.server.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 700000))").await?;
    }
    standby.catch_up_with(&scene.server).await?;
    scene.server.stop(StopMode::Kill).await?;
    standby.promote().await?;
    let _gone = std::mem::replace(&mut scene.server, standby);
    scene.agent.run()?;
    let after = some(&scene.server, 57).await?;
    scene.seal().await?;
    let mut all = first.clone();
    all.extend(away.clone());
    all.extend(after);
    assert_eq!(restored_ids(&scene, &["--latest"]).await?, all.acknowledged());
    let info = scene.agent.info().await?;
    assert_eq!(info.get("gaps"), Some(&Value::Array(Vec::new())), "{info}");
    let entry = away.entries().last().context("nothing was written")?;
    first_and(&scene, &[&first, &away], entry.xid).await
}

/// A target on the old timeline, by way of the newest one.
async fn first_and(scene: &Scene, ledgers: &[&Ledger], xid: u32) -> Result<()> {
    let mut all = Ledger::default();
    ledgers.iter().for_each(|ledger| all.extend((*ledger).clone()));
    Expected::at(&Moment::Xid(xid), &all, None).check(&restored_ids(scene, &["--xid", &xid.to_string()]).await?)
}

/// Three timelines, each left for the next by a promotion, with a target on each.
async fn over_three_timelines(major: u32) -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(major).conf("wal_keep_size = '1GB'"), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let mut parts = Vec::new();
    let mut ends: Vec<Lsn> = Vec::new();
    for round in 0..3_u64 {
        parts.push(some(&scene.server, 60 + round).await?);
        ends.push(scene.seal().await?);
        if round == 2 {
            break;
        }
        let mut standby = scene.server.standby().await?;
        standby.catch_up_with(&scene.server).await?;
        scene.seal().await?;
        scene.server.stop(StopMode::Immediate).await?;
        standby.promote().await?;
        std::mem::swap(&mut scene.server, &mut standby);
        drop(standby);
        scene.agent.reconfigure(&scene.store.options(&scene.server))?;
        scene.agent.stop(Duration::from_secs(30)).await?;
        scene.agent.run()?;
    }
    let up_to = |last: usize| {
        let mut all = Ledger::default();
        parts[..=last].iter().for_each(|part| all.extend(part.clone()));
        all
    };
    for (index, part) in parts.iter().enumerate() {
        let entry = &part.entries()[part.entries().len() / 2];
        let found = restored_ids(&scene, &["--xid", &entry.xid.to_string()]).await?;
        Expected::at(&Moment::Xid(entry.xid), &up_to(index), None).check(&found)?;
        // The end of each timeline, whatever came later.
        let found = restored_ids(&scene, &["--latest", "--timeline", &(index + 1).to_string()]).await?;
        assert_eq!(found, up_to(index).acknowledged(), "timeline {}", index + 1);
    }
    assert_eq!(restored_ids(&scene, &["--latest", "--timeline", "latest"]).await?, up_to(2).acknowledged());
    // "current" is the timeline of the newest backup, which is the first one here.
    assert_eq!(restored_ids(&scene, &["--latest", "--timeline", "current"]).await?, up_to(0).acknowledged());
    let (run, ..) = scene.try_restore(&["--latest", "--timeline", "9"]).await?;
    run.code(3)?.says(&["timeline 9"])?;
    // Beyond where the first timeline was left there is nothing on it.
    let (run, ..) = scene.try_restore(&["--lsn", &ends[2].to_string(), "--timeline", "1"]).await?;
    run.code(3)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_on_each_of_three_timelines_are_reached_13() -> Result<()> {
    over_three_timelines(13).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_on_each_of_three_timelines_are_reached_18() -> Result<()> {
    over_three_timelines(18).await
}

/// What was written on a branch that was left, and a backup of it, serve nothing on the branch that lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_on_a_dead_branch_is_refused_with_the_reason() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(18).conf("wal_keep_size = '1GB'"), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let shared = some(&scene.server, 71).await?;
    let mut standby = scene.server.standby().await?;
    standby.catch_up_with(&scene.server).await?;
    standby.append_conf("primary_conninfo = ''")?;
    standby.execute("SELECT pg_reload_conf()").await?;
    wait::until("the standby stands alone", Duration::from_mins(1), async || {
        Ok((standby.value("SELECT count(*) FROM pg_stat_wal_receiver").await? == "0").then_some(()))
    })
    .await?;
    let dead = some(&scene.server, 72).await?;
    scene.cli().run(["backup"]).await?.success()?;
    scene.seal().await?;
    let dead_backup = scene.agent.info().await?.pointer("/backups/1/id").and_then(Value::as_str).map(str::to_owned);
    let dead_backup = dead_backup.context("no second backup")?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.server.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    std::mem::swap(&mut scene.server, &mut standby);
    drop(standby);
    scene.agent.reconfigure(&scene.store.options(&scene.server))?;
    scene.agent.run()?;
    let mut live = shared.clone();
    live.extend(some(&scene.server, 73).await?);
    // Positions on the branch that was left are higher: they say nothing here.
    wait::until("the second timeline is sealed", Duration::from_mins(1), async || {
        Ok((scene.agent.info().await?.pointer("/sealed/timeline") == Some(&Value::from(2))).then_some(()))
    })
    .await?;
    scene.cli().run(["mark", "on the second timeline"]).await?.success()?;
    scene.seal().await?;
    let problems = scene.cli().json(["status"]).await?.get("problems").context("no problems")?.to_string();
    assert!(problems.contains("not in this server's history"), "{problems}");
    assert_eq!(restored_ids(&scene, &["--latest"]).await?, live.acknowledged());
    let (run, ..) = scene.try_restore(&["--latest", "--backup", &dead_backup]).await?;
    run.code(3)?.says(&["timeline 2", "branched off"])?;
    let mut branch = shared;
    branch.extend(dead);
    assert_eq!(restored_ids(&scene, &["--latest", "--timeline", "1"]).await?, branch.acknowledged());
    Ok(())
}

/// Lets a restored server archive, as whoever makes it the primary does.
fn may_archive(data: &Path) -> Result<()> {
    let path = data.join("pitr_restore.json");
    let mut stamp: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    stamp["archive"] = Value::from(true);
    std::fs::write(&path, serde_json::to_vec(&stamp)?)?;
    Account::of_servers()?.own(&path)
}

/// Two copies of one archive, promoted at the same place: one can go on in it, and the other cannot mix itself in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_restores_from_one_archive_do_not_mix() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(18), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let origin = some(&scene.server, 81).await?;
    scene.seal().await?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.server.stop(StopMode::Fast).await?;
    let (one, other) = (scene.restore(&["--latest"]).await?, scene.restore(&["--latest"]).await?);
    let connection = |restored: &pitr_tests::scene::Restored| restored.server.connection_string();
    for (restored, rows) in [(&one, 3), (&other, 2000)] {
        let session = restored.server.connect().await?;
        let hba = session.value("SHOW hba_file").await?;
        std::fs::write(&hba, "local all all trust\nlocal replication all trust\n")?;
        session.value("SELECT pg_reload_conf()").await?;
        session
            .batch_execute(&format!("INSERT INTO ledger SELECT -n, 0, 'x' FROM generate_series(1, {rows}) AS n"))
            .await?;
    }
    // Neither archives as it comes out of a restore.
    let options = scene.store.options(&scene.server);
    scene.agent.reconfigure(&options.clone().connection(&connection(&one)))?;
    scene.agent.run()?;
    let (code, said) = scene.agent.ends(Duration::from_mins(1)).await?;
    assert_eq!(code, 2, "{said}");
    // The first that somebody makes the primary goes on in the archive.
    may_archive(one.server.data_directory())?;
    scene.agent.run()?;
    let end: Lsn = one.server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?;
    scene.agent.wait_sealed(end).await?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    // The second has the same timeline with another content.
    may_archive(other.server.data_directory())?;
    scene.agent.reconfigure(&options.connection(&connection(&other)))?;
    scene.agent.run()?;
    let (code, said) = scene.agent.ends(Duration::from_mins(1)).await?;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("adopt --new-history"), "{said}");
    drop((one, other));
    let found = restored_ids_with_extra(&scene).await?;
    assert_eq!(found, (origin.acknowledged(), 3));
    Ok(())
}

/// The ids of the ledger, and how many rows were added besides.
async fn restored_ids_with_extra(scene: &Scene) -> Result<(BTreeSet<i64>, usize)> {
    let restored = scene.restore(&["--latest"]).await?;
    let rows = restored.server.connect().await?.rows("SELECT id FROM ledger").await?;
    let ids: BTreeSet<i64> = rows.iter().filter_map(|row| row.first()?.parse().ok()).collect();
    let extra = ids.iter().filter(|id| **id < 0).count();
    Ok((ids.into_iter().filter(|id| *id > 0).collect(), extra))
}

/// What `pitr-agent adopt` says, with the configuration of the scene's agent.
fn adopt(scene: &Scene, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut adopt = Account::of_servers()?.command(pitr_tests::executables::product("pitr-agent")?);
    let output = adopt.arg("adopt").args(arguments).arg("--config").arg(scene.agent.config()).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn lineages(scene: &Scene) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(scene.store.directory()?.join("main"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A restored server may be archived once a person says so, in a lineage of its own, and never beside an agent that lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_two_restored_copies_is_adopted_into_a_lineage_of_its_own() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let origin = some(&scene.server, 91).await?;
    scene.seal().await?;
    let (one, other) = (scene.restore(&["--latest"]).await?, scene.restore(&["--latest"]).await?);
    for (restored, rows) in [(&one, 3), (&other, 5)] {
        let session = restored.server.connect().await?;
        let hba = session.value("SHOW hba_file").await?;
        std::fs::write(&hba, "local all all trust\nlocal replication all trust\n")?;
        session.value("SELECT pg_reload_conf()").await?;
        session
            .batch_execute(&format!("INSERT INTO ledger SELECT -n, 0, 'x' FROM generate_series(1, {rows}) AS n"))
            .await?;
    }
    let options = scene.store.options(&scene.server);
    let config =
        |restored: &pitr_tests::scene::Restored| options.clone().connection(&restored.server.connection_string());
    // Beside the agent of the server that lives, a copy is not taken in.
    let beside = scene.agent.write_beside("copy.toml", &config(&one))?;
    let mut command = Account::of_servers()?.command(pitr_tests::executables::product("pitr-agent")?);
    let output = command.args(["adopt", "--new-history", "--config"]).arg(&beside).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("being archived") && said.contains("name of its own"), "{said}");
    assert_eq!(lineages(&scene)?.len(), 1);
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.server.stop(StopMode::Fast).await?;
    for (restored, rows) in [(&one, 3), (&other, 5)] {
        scene.agent.reconfigure(&config(restored))?;
        scene.agent.run()?;
        let (code, said) = scene.agent.ends(Duration::from_mins(1)).await?;
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("adopt --new-history"), "{said}");
        let (code, said) = adopt(&scene, &[])?;
        assert_eq!(code, Some(2), "{said}");
        let (code, said) = adopt(&scene, &["--new-history"])?;
        assert_eq!(code, Some(0), "{said}");
        // It knows its own.
        let before = lineages(&scene)?;
        assert_eq!(adopt(&scene, &[])?.0, Some(0));
        assert_eq!(lineages(&scene)?, before);
        scene.agent.run()?;
        scene.agent.wait_backups(if rows == 3 { 2 } else { 3 }).await?;
        scene.agent.wait_sealed(restored.server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?).await?;
        assert_eq!(restored_ids_with_extra(&scene).await?, (origin.acknowledged(), rows));
        scene.agent.stop(Duration::from_secs(30)).await?;
    }
    // The first copy finds back to its own lineage although a newer one is there, and so does the old server.
    scene.agent.reconfigure(&config(&one))?;
    only_its_own(&mut scene, 1).await?;
    scene.server.run().await?;
    scene.agent.reconfigure(&options)?;
    only_its_own(&mut scene, 0).await
}

/// Lets the agent run, and sees that of three lineages it writes to this one only.
async fn only_its_own(scene: &mut Scene, lineage: usize) -> Result<()> {
    let directory = scene.store.directory()?.join("main");
    let leases = |scene: &Scene| -> Result<Vec<Vec<u8>>> {
        lineages(scene)?.iter().map(|name| Ok(std::fs::read(directory.join(name).join("lease"))?)).collect()
    };
    let before = leases(scene)?;
    assert_eq!(before.len(), 3);
    scene.agent.run()?;
    let mut changed = wait::until("a lease is taken", Duration::from_mins(1), async || {
        let changed: Vec<usize> =
            before.iter().zip(leases(scene)?).enumerate().filter(|(_, (a, b))| *a != b).map(|(n, _)| n).collect();
        Ok((!changed.is_empty()).then_some(changed))
    })
    .await?;
    changed.dedup();
    assert_eq!(changed, [lineage]);
    scene.agent.stop(Duration::from_secs(30)).await?;
    Ok(())
}

/// The agent runs while somebody puts a restored copy where its server was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_in_the_place_of_the_server_is_noticed_by_the_agent_that_runs() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    some(&scene.server, 92).await?;
    scene.seal().await?;
    let data = scene.server.data_directory().to_owned();
    scene.server.stop(StopMode::Fast).await?;
    rustix::fs::rename(&data, data.with_extension("old"))?;
    let path = data.display().to_string();
    scene.cli().run(["restore", "--latest", "--into", &path, "--yes"]).await?.success()?;
    scene.server.run().await?;
    let (code, said) = scene.agent.ends(Duration::from_mins(1)).await?;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("restored copy"), "{said}");
    Ok(())
}
