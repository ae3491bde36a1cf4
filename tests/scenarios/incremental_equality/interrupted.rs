//! Backups that are interrupted, once or several times in a row: the next one takes over what was stored and did not change
//! since, and is still what the disk is.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pitr::lookup::interrupted_backups;
use pitr::repository::backup::{BackupId, CopyMethod};
use pitr_tests::pages::{self, Shelf, StoredBackup, Tolerance};
use pitr_tests::workload::Workload;
use pitr_tests::{Agent, AgentOptions, Postgres, Scene, Store, seed, wait};
use serde_json::Value;

use super::proof::{Proof, options};

/// Some 140 megabytes that do not compress, most of them in one table.
const FILL: &str = "CREATE TABLE bulk AS SELECT n, decode(string_agg(md5(n || ' ' || m), ''), 'hex') AS b \
     FROM generate_series(1, 90000) n, generate_series(1, 30) m GROUP BY n; \
     INSERT INTO bulk SELECT n + 90000 * k, b FROM bulk, generate_series(1, 2) k; \
     CREATE TABLE cut AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) n; \
     CREATE TABLE dropped AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) n; \
     CREATE TABLE late AS SELECT * FROM bulk WHERE n % 9 = 0";

/// What happens to files between one attempt and the next.
const CHANGES: &[&str] = &[
    "UPDATE bulk SET b = b || '\\x01' WHERE n % 900 = 7",
    "DELETE FROM cut WHERE n > 3000",
    "VACUUM cut",
    "INSERT INTO cut SELECT n, 'again' FROM generate_series(3001, 21000) n",
    "DROP TABLE dropped",
    "CREATE TABLE dropped AS SELECT n, md5(n || 'x') AS t FROM generate_series(1, 15000) n",
    "CREATE DATABASE made_meanwhile",
    "CHECKPOINT",
];

async fn change(server: &Postgres) -> Result<()> {
    for statement in CHANGES {
        server.execute(statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

/// So slow that it can be seen how far it is. Pages are not sampled: what WAL does not tell must not be found by chance.
fn slow(options: AgentOptions) -> AgentOptions {
    let options = options.set("backup", "sample = \"0B\"").set("backup", "threads = 1");
    options.set("backup", "bandwidth_limit = \"6MiB\"").set("wal", "flush_interval = \"1s\"")
}

fn fast(options: AgentOptions) -> AgentOptions {
    options.set("backup", "sample = \"0B\"").set("wal", "flush_interval = \"1s\"")
}

/// What the newest record of the backup that runs says is stored, by its file bytes.
async fn recorded(shelf: &Shelf, id: &BackupId) -> Result<u64> {
    let all = interrupted_backups(shelf.lineage(), None).await?;
    let Some(backup) = all.into_iter().find(|backup| backup.id == *id) else { return Ok(0) };
    Ok(backup.newest_record(shelf.lineage()).await?.map_or(0, |header| header.file_bytes))
}

/// Waits until the backup that runs has copied so many percent, and has recorded about as much as that.
async fn reaches(scene: &Scene, shelf: &Shelf, percent: u64) -> Result<BackupId> {
    let reached = wait::until(format!("a backup gets to {percent} %"), Duration::from_mins(3), async || {
        let status = scene.cli().run(["status", "--json"]).await?;
        let Ok(status) = status.json() else { return Ok(None) };
        let number = |key: &str| status.pointer(&format!("/running_backup/{key}")).and_then(Value::as_u64);
        let (Some(done), Some(total)) = (number("bytes_done"), number("bytes_total")) else { return Ok(None) };
        let id = status.pointer("/running_backup/id").and_then(Value::as_str).context("no id")?.parse()?;
        let far = total > 0 && done * 100 >= total * percent;
        Ok((far && recorded(shelf, &id).await? * 100 >= total * percent.saturating_sub(30)).then_some(id))
    });
    reached.await.with_context(|| scene.agent.log())
}

/// A server with the load and the bulk, and a slow agent that just begins the first backup.
async fn first_backup(major: u32, checksums: bool) -> Result<Proof> {
    let server = Postgres::start(options(major, checksums)).await?;
    let load = Workload::prepare(&server, seed::of_this_run()).await?;
    for statement in FILL.split(';') {
        server.execute(statement).await?;
    }
    server.execute("CHECKPOINT").await?;
    let store = Store::local()?;
    let agent = Agent::spawn(&slow(store.options(&server)))?;
    let scene = Scene::of(server, store, agent)?;
    let shelf = wait::until("there is a lineage", Duration::from_mins(2), async || {
        let Ok(store) = scene.store.open("repository", None).await else { return Ok(None) };
        Ok(Shelf::open(store).await.ok())
    });
    let shelf = shelf.await.with_context(|| scene.agent.log())?;
    let tolerance = if checksums { Tolerance::Exact } else { Tolerance::Hints };
    Ok(Proof { scene, load, shelf, tolerance })
}

/// Starts the agent again, without a brake; it takes the backup that is due.
async fn complete(proof: &mut Proof) -> Result<StoredBackup> {
    let options = fast(proof.scene.store.options(&proof.scene.server));
    proof.scene.agent.reconfigure(&options)?;
    proof.hint().await?;
    proof.scene.agent.run()?;
    let info = proof.scene.agent.wait_backups(1).await?;
    let id = info.pointer("/clusters/0/backups/0/id").and_then(Value::as_str).context("no id")?.parse()?;
    let backup = proof.shelf.backup(&id).await?;
    let data = proof.scene.server.data_directory();
    let found = pages::compare_with_disk(&mut proof.shelf, &backup, data, proof.tolerance)?;
    proof.none(&found, &backup, "the backup and the disk").await?;
    Ok(backup)
}

async fn is_taken_up(major: u32, checksums: bool) -> Result<()> {
    let mut proof = first_backup(major, checksums).await?;
    let killed = reaches(&proof.scene, &proof.shelf, 90).await?;
    proof.scene.agent.kill()?;
    change(&proof.scene.server).await?;
    for _ in 0..6 {
        proof.load.step(&proof.scene.server).await?;
    }
    let taken = complete(&mut proof).await;
    let backup = proof.told(taken)?;
    let sharing = &backup.manifest.sharing;
    let resumed = sharing.resumed.as_ref().with_context(|| proof.scene.agent.log())?;
    assert_eq!((&resumed.id, sharing.method, &backup.manifest.parent), (&killed, CopyMethod::Summaries, &None));
    ensure!(resumed.bytes > backup.manifest.new_bytes, "{sharing:?}, {} bytes new", backup.manifest.new_bytes);
    ensure!(backup.shared_bytes() * 10 > backup.manifest.size_bytes * 4, "{} bytes shared", backup.shared_bytes());
    let text = proof.scene.cli().json(["status"]).await?.to_string();
    ensure!(text.contains(&killed.to_string()), "{text}");
    // Its records are of no use any more; those of the one that was killed are no damage.
    assert_eq!(interrupted_backups(proof.shelf.lineage(), Some(&killed)).await?, []);
    proof.scene.cli().run(["verify", "--full"]).await?.success()?;
    proof.restores(&backup).await?;
    // And it is a parent like any other.
    proof.scene.server.execute("UPDATE bulk SET b = b || '\\x02' WHERE n % 900 = 8").await?;
    proof.prove().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_backup_that_is_killed_near_its_end_is_taken_up_on_15() -> Result<()> {
    is_taken_up(15, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_backup_that_is_killed_near_its_end_is_taken_up_on_18_without_checksums() -> Result<()> {
    is_taken_up(18, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_several_interrupted_attempts_gets_further() -> Result<()> {
    let server_options = options(15, true);
    let mut proof = Proof::start(server_options, Store::local()?, seed::of_this_run(), Tolerance::Exact).await?;
    let parent = proof.scene.agent.info().await?.pointer("/backups/0/id").and_then(Value::as_str).map(str::to_owned);
    for statement in FILL.split(';') {
        proof.scene.server.execute(statement).await?;
    }
    let keep = |options: AgentOptions| {
        let lines = ["window = \"1d\"", "minimum = 1", "grace = \"0s\"", "schedule = \"\""];
        lines.into_iter().fold(options, |options, line| options.set("retention", line))
    };
    let store_options = proof.scene.store.options(&proof.scene.server);
    proof.scene.agent.reconfigure(&keep(slow(store_options.clone())))?;
    proof.kill_agent()?;
    let mut attempts: Vec<(BackupId, u64)> = Vec::new();
    for (attempt, percent) in [(0, 35), (1, 60), (2, 85)] {
        proof.scene.seal().await?;
        proof.scene.cli().run(["backup", "--no-wait"]).await?.success()?;
        let id = reaches(&proof.scene, &proof.shelf, percent).await?;
        if attempt == 1 {
            proof.scene.agent.stop(Duration::from_mins(1)).await?;
        } else {
            proof.scene.agent.kill()?;
        }
        let got_to = recorded(&proof.shelf, &id).await?;
        if let Some((_, before)) = attempts.last() {
            ensure!(got_to > *before, "{got_to} bytes behind {attempts:?}");
        }
        attempts.push((id, got_to));
        let n = attempt + 1;
        proof.scene.server.execute(&format!("UPDATE bulk SET b = b || '\\x01' WHERE n % 900 = {n}")).await?;
        proof.scene.server.execute(&format!("DELETE FROM cut WHERE n % 7 = {n}; TRUNCATE dropped")).await?;
        proof.scene.server.execute("INSERT INTO dropped SELECT n, 'x' FROM generate_series(1, 9000) n").await?;
        proof.scene.agent.run()?;
        proof.scene.seal().await?;
        // Nothing goes that the next one is to take over.
        proof.scene.cli().run(["expire"]).await?.success()?;
    }
    proof.scene.agent.kill()?;
    proof.scene.agent.reconfigure(&keep(fast(store_options)))?;
    proof.scene.agent.run()?;
    let proven = proof.prove().await;
    let backup = proof.told(proven)?;
    let (last, _) = attempts.last().context("no attempt")?;
    let manifest = &backup.manifest;
    let resumed = manifest.sharing.resumed.as_ref().with_context(|| proof.scene.agent.log())?;
    assert_eq!((&resumed.id, manifest.parent.as_ref().map(ToString::to_string)), (last, parent));
    ensure!(resumed.bytes > manifest.new_bytes, "{:?}, {} bytes new", manifest.sharing, manifest.new_bytes);
    proof.restores(&backup).await?;
    proof.scene.cli().run(["verify", "--full"]).await?.success().map(drop)
}

/// All packs of a backup.
fn packs(scene: &Scene, id: &BackupId) -> Result<Vec<std::path::PathBuf>> {
    let main = scene.store.directory()?.join("main");
    let lineage = std::fs::read_dir(main)?.next().context("no lineage")??.path();
    let entries = std::fs::read_dir(lineage.join("packs").join(id.to_string()))?;
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_lost_a_pack_or_is_to_share_nothing_is_not_taken_up() -> Result<()> {
    let mut proof = first_backup(15, true).await?;
    let killed = reaches(&proof.scene, &proof.shelf, 60).await?;
    proof.scene.agent.kill()?;
    let Some(first) = packs(&proof.scene, &killed)?.into_iter().next() else { bail!("no pack of {killed}") };
    std::fs::remove_file(first)?;
    let taken = complete(&mut proof).await;
    let backup = proof.told(taken)?;
    assert_eq!((&backup.manifest.sharing.resumed, backup.shared_bytes()), (&None, 0));
    ensure!(proof.scene.agent.log().contains("an interrupted backup cannot be taken up"), "nothing was told");

    let (server, store) = (&proof.scene.server, &proof.scene.store);
    proof.scene.agent.reconfigure(&slow(store.options(server)))?;
    proof.kill_agent()?;
    proof.scene.server.execute("CREATE TABLE more AS SELECT * FROM bulk; CHECKPOINT").await?;
    proof.scene.seal().await?;
    proof.scene.cli().run(["backup", "--fresh", "--no-wait"]).await?.success()?;
    let killed = reaches(&proof.scene, &proof.shelf, 40).await?;
    proof.scene.agent.kill()?;
    proof.scene.agent.reconfigure(&fast(proof.scene.store.options(&proof.scene.server)))?;
    proof.scene.agent.run()?;
    // What was begun as a fresh one serves an ordinary one; the fresh one that follows shares nothing.
    let proven = proof.prove().await;
    let ordinary = proof.told(proven)?;
    assert_eq!(ordinary.manifest.sharing.resumed.as_ref().map(|resumed| &resumed.id), Some(&killed));
    Ok(())
}
