//! Markers: a moment with a name, sealed, and the way back to just before it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pitr::postgres::Lsn;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::proxy::Rule;
use pitr_tests::wal_oracle::WalOracle;
use pitr_tests::{
    AgentOptions, Expected, Fault, FaultProxy, Ledger, Moment, Postgres, PostgresOptions, S3Server, Scene, Store, wait,
};
use serde_json::Value;

fn lsn_of(marker: &Value) -> Result<Lsn> {
    let text = marker.get("lsn").and_then(Value::as_str).with_context(|| format!("no lsn in {marker}"))?;
    Ok(text.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_a_marker_set_under_load_is_exact() -> Result<()> {
    let options = PostgresOptions::of(18).conf("wal_keep_size = '4GB'");
    let scene = Scene::start(options, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    let from = scene.server.insert_lsn().await?;
    let mut load = Load::new(6, 41);
    load.pause = Duration::from_millis(1);
    let writers = Writers::start(&scene.server, load).await?;
    let names = ["one", "two", "three"];
    for name in names {
        writers.more(40).await?;
        let marker = scene.cli().json(["mark", name]).await?;
        assert_eq!(marker.get("sealed").and_then(Value::as_bool), Some(true), "{marker}");
        // Sealed means: reachable now, whatever happens to this host.
        let sealed = scene.agent.sealed().await?;
        assert!(sealed >= lsn_of(&marker)?, "sealed {sealed}, marker {marker}");
    }
    writers.more(40).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let oracle = WalOracle::read(&scene.server, from).await?;
    for name in names {
        let start = oracle.restore_point(name).context("the restore point is not in the WAL")?;
        let restored = scene.restore(&["--before", name]).await?;
        let found = Ledger::read(&restored.server.connect().await?).await?;
        Expected::at(&Moment::Lsn(start), &ledger, Some(&oracle)).check(&found).with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_is_found_again_with_all_that_was_said_of_it() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let made = scene.cli().json(["mark", "release-42", "--meta", "sha=1f3a9c2", "--key", "job-7"]).await?;
    let again = scene.cli().json(["mark", "release-42", "--meta", "sha=1f3a9c2", "--key", "job-7"]).await?;
    assert_eq!(lsn_of(&made)?, lsn_of(&again)?);
    let info = scene.agent.info().await?;
    let markers = info.get("markers").and_then(Value::as_array).context("no markers in info")?;
    assert_eq!(markers.len(), 1, "{markers:#?}");
    let marker = &markers[0];
    assert_eq!(marker.get("name").and_then(Value::as_str), Some("release-42"));
    assert_eq!(marker.pointer("/meta/sha").and_then(Value::as_str), Some("1f3a9c2"));
    assert_eq!(marker.get("timeline").and_then(Value::as_u64), Some(1));
    assert_eq!(marker.get("source").and_then(Value::as_str), Some("mark"));
    assert!(marker.get("finish").is_some_and(Value::is_null), "{marker}");
    let text = scene.cli().run(["markers"]).await?.success()?;
    assert!(text.stdout.contains("release-42"), "{text:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_marker_needs_its_finish_and_holds_what_came_before_that() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    scene.server.execute("CREATE TABLE steps (n int)").await?;
    scene.cli().run(["mark", "release-42"]).await?.success()?;
    scene.server.execute("INSERT INTO steps VALUES (1)").await?;
    let (run, _, _port) = scene.try_restore(&["--after", "release-42"]).await?;
    assert!([2, 3].contains(&run.code), "{run:?}");
    run.says(&["finish"])?;
    scene.cli().run(["finish", "release-42", "--ok"]).await?.success()?;
    scene.server.execute("INSERT INTO steps VALUES (2)").await?;
    scene.seal().await?;
    let restored = scene.restore(&["--after", "release-42"]).await?;
    assert_eq!(restored.server.value("SELECT string_agg(n::text, ',') FROM steps").await?, "1");
    drop(restored);
    let restored = scene.restore(&["--before", "release-42"]).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM steps").await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_that_is_not_sealed_in_time_exits_8() -> Result<()> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let options = AgentOptions::s3(&server, &proxy.endpoint());
    let scene = Scene::with(server, Store::S3(Box::new(store)), &options).await?;
    proxy.set(Fault::Stall);
    scene.cli().run(["mark", "stuck", "--timeout", "2s"]).await?.code(8)?;
    proxy.set(Fault::None);
    scene.seal().await?;
    scene.cli().run(["mark", "free", "--timeout", "60s"]).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_does_not_wait_has_the_marker_all_the_same() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let set =
        scene.cli().run(["mark", "release-42", "--key", "job-1", "--no-wait", "--json"]).await?.success()?.json()?;
    assert_eq!((set.get("name"), set.get("sealed")), (Some(&"release-42".into()), Some(&Value::Bool(false))), "{set}");
    let again = scene.cli().json(["mark", "release-42", "--key", "job-1"]).await?;
    assert_eq!(
        (again.get("sealed"), again.get("found")),
        (Some(&Value::Bool(true)), Some(&Value::Bool(true))),
        "{again}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_markers_with_one_name_a_person_has_to_pick() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.server.execute("CREATE TABLE steps (n int)").await?;
    let first = scene.cli().json(["mark", "twice"]).await?;
    scene.server.execute("INSERT INTO steps VALUES (1)").await?;
    let second = scene.cli().json(["mark", "twice"]).await?;
    let directory = scene.next_directory().display().to_string();
    let run = scene.cli().run(["restore", "--before", "twice", "--into", &directory]).await?.code(2)?;
    let (first, second) = (lsn_of(&first)?, lsn_of(&second)?);
    run.says(&[&format!("twice@{first}"), &format!("twice@{second}")])?;
    for (lsn, rows) in [(first, "0"), (second, "1")] {
        let restored = scene.restore(&["--before", &format!("twice@{lsn}")]).await?;
        assert_eq!(restored.server.value("SELECT count(*) FROM steps").await?, rows);
    }
    Ok(())
}

/// Waits until `pitr markers` shows so many of that name; gives them by position.
async fn markers_named(scene: &Scene, name: &str, count: usize) -> Result<Vec<Value>> {
    let found = wait::until(format!("{count} markers named {name:?}"), Duration::from_secs(30), async || {
        let listed = scene.cli().json(["markers"]).await?;
        let all = listed.get("markers").and_then(Value::as_array).context("no markers")?;
        let named = all.iter().filter(|marker| marker.get("name").and_then(Value::as_str) == Some(name));
        let named: Vec<Value> = named.cloned().collect();
        Ok((named.len() >= count).then_some(named))
    });
    let named = found.await.with_context(|| scene.agent.log())?;
    anyhow::ensure!(named.len() == count, "{named:#?}");
    Ok(named)
}

fn source(marker: &Value) -> Option<&str> {
    marker.get("source").and_then(Value::as_str)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_point_of_any_client_is_a_marker() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.server.execute("CREATE TABLE steps (n int)").await?;
    let end: Lsn = scene.server.value("SELECT pg_create_restore_point('release-42')").await?.parse()?;
    let begun = Instant::now();
    scene.server.execute("INSERT INTO steps VALUES (1)").await?;
    let first = markers_named(&scene, "release-42", 1).await?;
    // The flush interval is a second; the rest is for starting commands on a loaded machine.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(source(&first[0]), Some("discovered"));
    assert_eq!(first[0].get("end_lsn").and_then(Value::as_str), Some(end.to_string().as_str()));
    let restored = scene.restore(&["--before", "release-42"]).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM steps").await?, "0");
    drop(restored);

    scene.server.execute("SELECT pg_create_restore_point('release-42')").await?;
    scene.server.execute("SELECT pg_create_restore_point(E'odd/\\n@0/1 \u{e4}')").await?;
    let twice = markers_named(&scene, "release-42", 2).await?;
    markers_named(&scene, "odd/\n@0/1 \u{e4}", 1).await?;
    let second = format!("release-42@{}", lsn_of(&twice[1])?);
    let restored = scene.restore(&["--before", &second]).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM steps").await?, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pitr_mark_said_stays_through_every_restart() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    for round in 0..6 {
        let name = format!("release-{round}");
        scene.cli().run(["mark", &name, "--key", &name, "--meta", "sha=1f3a9c2"]).await?.success()?;
        scene.cli().run(["finish", &name, "--ok"]).await?.success()?;
        if round % 2 == 0 {
            scene.server.execute("SELECT pg_switch_wal()").await?;
        }
        scene.agent.kill()?;
        scene.agent.run()?;
        // Passes all of it again.
        scene.seal().await?;
    }
    let point = "passed by the agent after all others";
    scene.server.execute(&format!("SELECT pg_create_restore_point('{point}')")).await?;
    markers_named(&scene, point, 1).await?;
    let listed = scene.cli().json(["markers"]).await?;
    let all = listed.get("markers").and_then(Value::as_array).context("no markers")?;
    assert_eq!(all.len(), 7, "{all:#?}");
    for marker in &all[..6] {
        assert_eq!(source(marker), Some("mark"), "{marker}");
        assert_eq!(marker.pointer("/meta/sha").and_then(Value::as_str), Some("1f3a9c2"), "{marker}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_was_cut_off_can_be_made_again() -> Result<()> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let options = AgentOptions::s3(&server, &proxy.endpoint());
    let mut scene = Scene::with(server, Store::S3(Box::new(store)), &options).await?;
    // The restore point is made, its marker cannot be.
    proxy.set_rules(vec![Rule::every(Fault::Stall).method("PUT")]);
    scene.cli().run(["mark", "release-42", "--key", "job-7", "--timeout", "2s"]).await?.code(8)?;
    scene.agent.kill()?;
    proxy.set(Fault::None);
    scene.agent.run()?;
    let found = markers_named(&scene, "release-42", 1).await?;
    assert_eq!(source(&found[0]), Some("discovered"));
    let made = scene.cli().json(["mark", "release-42", "--key", "job-7"]).await?;
    let again = scene.cli().json(["mark", "release-42", "--key", "job-7"]).await?;
    assert_eq!(lsn_of(&made)?, lsn_of(&again)?);
    let both = markers_named(&scene, "release-42", 2).await?;
    assert_eq!(both.iter().map(source).collect::<Vec<_>>(), [Some("discovered"), Some("mark")]);
    Ok(())
}
