//! Retention: what the rules keep is restored for real, and all the rest is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr_tests::skip::skipped;
use pitr_tests::{AgentOptions, Disk, Postgres, PostgresOptions, Scene, Store, seed, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// Windows of seconds, so that backups age while a test looks on.
fn short_window(options: AgentOptions, window: &str) -> AgentOptions {
    let lines =
        [&format!("window = \"{window}\""), "markers = \"1d\"", "minimum = 1", "grace = \"0s\"", "schedule = \"\""];
    lines.into_iter().fold(options, |options, line| options.set("retention", line))
}

async fn scene(store: Store, window: &str) -> Result<Scene> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let options = short_window(store.options(&server), window);
    let scene = Scene::with(server, store, &options).await?;
    scene.server.execute("CREATE TABLE steps (n int)").await?;
    Ok(scene)
}

async fn step(scene: &Scene, n: u32) -> Result<()> {
    scene.server.execute(&format!("INSERT INTO steps VALUES ({n}); SELECT pg_switch_wal()")).await
}

/// Takes a backup, behind the one that may still run.
async fn back_up(scene: &Scene) -> Result<String> {
    back_up_with(scene, &[]).await
}

async fn back_up_with(scene: &Scene, options: &[&str]) -> Result<String> {
    wait::until("no other backup runs", Duration::from_mins(1), async || {
        let run = scene.cli().run([&["backup", "--json"], options].concat()).await?;
        // One that the agent took by itself may follow at once: then ours is no longer told of.
        let another = ["is running", "no longer tells of"].iter().any(|words| run.stderr.contains(words));
        if run.code != 0 && another {
            return Ok(None);
        }
        Ok(Some(run.success()?.json()?.get("id").and_then(Value::as_str).context("no id")?.to_owned()))
    })
    .await
}

async fn backups(scene: &Scene) -> Result<BTreeSet<String>> {
    let info = scene.agent.info().await?;
    let backups = info.get("backups").and_then(Value::as_array).context("no backups")?;
    Ok(backups.iter().filter_map(|backup| backup.get("id").and_then(Value::as_str)).map(str::to_owned).collect())
}

/// The backups that the rules would let stay now.
async fn staying(scene: &Scene) -> Result<BTreeSet<String>> {
    let plan = scene.cli().json(["expire", "--dry-run"]).await?;
    let backups = plan.pointer("/lineages/0/backups").and_then(Value::as_array).context("no backups")?;
    let stays = backups.iter().filter(|backup| backup.get("stays").and_then(Value::as_bool) == Some(true));
    Ok(stays.filter_map(|backup| backup.get("id").and_then(Value::as_str)).map(str::to_owned).collect())
}

async fn steps(scene: &Scene, target: &[&str]) -> Result<String> {
    let restored = scene.restore(target).await?;
    restored.server.value("SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM steps").await
}

async fn keeps_what_it_should(store: Store) -> Result<()> {
    let scene = scene(store, "12s").await?;
    let first = backups(&scene).await?.into_iter().next().context("no first backup")?;
    step(&scene, 1).await?;
    scene.cli().run(["mark", "release-1"]).await?.success()?;
    step(&scene, 2).await?;
    let pinned = back_up(&scene).await?;
    scene.cli().run(["pin", &pinned, "--reason", "before the migration"]).await?.success()?;
    step(&scene, 3).await?;
    let unwanted = back_up(&scene).await?;
    step(&scene, 4).await?;
    let last = back_up(&scene).await?;
    step(&scene, 5).await?;
    scene.seal().await?;
    let expected: BTreeSet<String> = [first, pinned.clone(), last].into_iter().collect();
    wait::until("the backup that no rule wants is old enough", Duration::from_mins(2), async || {
        Ok((staying(&scene).await? == expected).then_some(()))
    })
    .await?;
    scene.cli().run(["expire"]).await?.code(2)?.says(&["--yes"])?;
    scene.cli().run(["expire", "--yes"]).await?.success()?;
    ensure!(backups(&scene).await? == expected, "{:?}", backups(&scene).await?);
    assert_eq!(steps(&scene, &["--before", "release-1"]).await?, "1");
    assert_eq!(steps(&scene, &["--immediate", "--backup", &pinned]).await?, "1,2");
    assert_eq!(steps(&scene, &["--latest"]).await?, "1,2,3,4,5");
    let status = scene.cli().json(["status"]).await?;
    let problems = status.get("problems").and_then(Value::as_array).context("no problems")?;
    ensure!(problems.is_empty(), "{problems:?}");
    let run = scene.cli().run(["restore", "--immediate", "--backup", &unwanted, "--into", "/nowhere"]).await?;
    assert_ne!(run.code, 0);
    // What was pinned goes once nobody holds it.
    scene.cli().run(["expire", "--backup", &pinned, "--yes"]).await?.code(2)?.says(&["pinned"])?;
    scene.cli().run(["unpin", &pinned]).await?.success()?;
    scene.cli().run(["expire", "--yes"]).await?.success()?;
    ensure!(!backups(&scene).await?.contains(&pinned));
    assert_eq!(steps(&scene, &["--before", "release-1"]).await?, "1");
    assert_eq!(steps(&scene, &["--latest"]).await?, "1,2,3,4,5");
    scene.agent.no_alarms_but(&["fsync is off", "max_slot_wal_keep_size is not set"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_keeps_what_it_should_in_a_directory() -> Result<()> {
    keeps_what_it_should(Store::local()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_keeps_what_it_should_on_s3() -> Result<()> {
    keeps_what_it_should(Store::s3().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_beside_a_running_backup_and_killed_in_the_middle_harms_nothing() -> Result<()> {
    let seed = seed::of_this_run();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scene = scene(Store::local()?, "2s").await?;
    step(&scene, 1).await?;
    scene.cli().run(["mark", "release-1"]).await?.success()?;
    for round in 2..7 {
        step(&scene, round).await?;
        back_up(&scene).await?;
        scene.cli().run(["backup", "--no-wait"]).await?.success()?;
        let mut expire = scene.cli().command()?;
        expire.args(["expire", "--yes"]).stdin(std::process::Stdio::null());
        let mut expire = tokio::process::Command::from(expire);
        let mut child = expire.kill_on_drop(true).stdout(std::process::Stdio::null()).spawn()?;
        if round % 2 == 0 {
            // Wherever it is now.
            let patience = Duration::from_millis(rng.random_range(1..1500));
            let _ = tokio::time::timeout(patience, child.wait()).await;
            scene.agent.kill()?;
            scene.agent.run()?;
        } else {
            tokio::time::timeout(Duration::from_mins(1), child.wait()).await??;
        }
        scene.seal().await?;
    }
    back_up(&scene).await?;
    scene.cli().run(["expire", "--yes"]).await?.success()?;
    assert_eq!(steps(&scene, &["--before", "release-1"]).await?, "1");
    assert_eq!(steps(&scene, &["--latest"]).await?, "1,2,3,4,5,6");
    let gaps = scene.agent.info().await?;
    let gaps = gaps.get("gaps").and_then(Value::as_array).context("no gaps")?;
    let unexplained: Vec<_> = gaps.iter().filter(|gap| gap.get("expired") != Some(&Value::Bool(true))).collect();
    ensure!(unexplained.is_empty(), "seed {seed}: {unexplained:?}");
    for backup in backups(&scene).await? {
        // The first one knows of no table yet.
        scene.restore(&["--immediate", "--backup", &backup]).await.with_context(|| backup.clone())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_does_not_stop_a_deletion() -> Result<()> {
    if !Disk::available() && skipped("mounting a tmpfs needs root") {
        return Ok(());
    }
    let disk = Disk::of_megabytes(400)?;
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let options = AgentOptions::local(&server, &disk.path().join("repository"));
    let mut scene = Scene::with(server, Store::local()?, &options).await?;
    scene.server.execute("CREATE TABLE steps (n int)").await?;
    let first = backups(&scene).await?.into_iter().next().context("no first backup")?;
    step(&scene, 1).await?;
    let second = back_up(&scene).await?;
    scene.seal().await?;
    let filler = disk.path().join("filler");
    let mut content = vec![1_u8; 1 << 20];
    while std::fs::write(&filler, &content).is_ok() {
        content.resize(content.len() + (1 << 20), 1);
    }
    scene.cli().run(["expire", "--backup", &first, "--yes"]).await?.success()?;
    ensure!(backups(&scene).await? == BTreeSet::from([second]));
    std::fs::remove_file(&filler)?;
    scene.seal().await?;
    assert_eq!(steps(&scene, &["--latest"]).await?, "1");
    scene.agent.kill()
}

/// Names of all packs with their sizes.
fn packs(repository: &Path) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for lineage in fs::read_dir(repository.join("main"))? {
        for writer in fs::read_dir(lineage?.path().join("packs"))? {
            let writer = writer?;
            for pack in fs::read_dir(writer.path())? {
                let pack = pack?;
                // Each writer counts from zero.
                let name = format!("{}/{}", writer.file_name().display(), pack.file_name().display());
                found.insert(name, pack.metadata()?.len());
            }
        }
    }
    Ok(found)
}

/// Retention writes packs with high numbers.
fn is_rewritten(pack: &str) -> bool {
    let number = pack.rsplit('/').next().unwrap_or(pack);
    u32::from_str_radix(number, 16).is_ok_and(|number| number >= 1 << 31)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_of_which_little_is_needed_are_rewritten() -> Result<()> {
    let scene = scene(Store::local()?, "2s").await?;
    let repository = scene.store.directory()?;
    step(&scene, 1).await?;
    // Most of it is gone a moment later; the catalog, in the same packs, stays, and the last one shares it.
    let ballast = "CREATE TABLE ballast AS SELECT string_agg(sha512((g * 1000 + n)::text::bytea), '') AS noise \
                   FROM generate_series(1, 3000) g, generate_series(1, 150) n GROUP BY g";
    scene.server.execute(ballast).await?;
    let heavy = back_up_with(&scene, &["--fresh"]).await?;
    let before: u64 = packs(&repository)?.values().sum();
    scene.server.execute("TRUNCATE ballast").await?;
    step(&scene, 2).await?;
    let light = back_up(&scene).await?;
    step(&scene, 3).await?;
    wait::until("what is left of the packs is in new ones", Duration::from_mins(2), async || {
        let plan = scene.cli().json(["expire", "--dry-run"]).await?;
        ensure!(plan.pointer("/lineages/0/rewrite/packs").is_some(), "the plan says nothing of packs: {plan}");
        scene.cli().run(["expire", "--yes"]).await?.success()?;
        let packs = packs(&repository)?;
        let (new, bytes) = (packs.keys().any(|pack| is_rewritten(pack)), packs.values().sum::<u64>());
        Ok((new && bytes < before / 2).then_some(()))
    })
    .await?;
    let left = backups(&scene).await?;
    ensure!(!left.contains(&heavy) && left.contains(&light), "{left:?}");
    scene.cli().run(["verify", "--full"]).await?.success()?;
    assert_eq!(steps(&scene, &["--immediate", "--backup", &light]).await?, "1,2");
    assert_eq!(steps(&scene, &["--latest"]).await?, "1,2,3");
    // The next one shares from the new packs.
    let last = back_up(&scene).await?;
    let info = scene.agent.info().await?;
    let all = info.get("backups").and_then(Value::as_array).context("no backups")?;
    let last =
        all.iter().find(|backup| backup.get("id").and_then(Value::as_str) == Some(&last)).context("not there")?;
    let (new, size) = (last.get("new_bytes").and_then(Value::as_u64), last.get("size_bytes").and_then(Value::as_u64));
    ensure!(new.zip(size).is_some_and(|(new, size)| new * 4 < size), "it shares nothing: {last}");
    scene.cli().run(["expire", "--yes"]).await?.success()?;
    assert_eq!(steps(&scene, &["--latest"]).await?, "1,2,3");
    scene.cli().run(["verify", "--full"]).await?.success()?;
    scene.agent.no_alarms_but(&["fsync is off", "max_slot_wal_keep_size is not set"])
}
