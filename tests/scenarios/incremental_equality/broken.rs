//! What a backup takes from others is damaged, gone, or of another history: the next one is whole all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::postgres::SystemIdentifier;
use pitr::repository::backup::CopyMethod;
use pitr::repository::summary_object;
use pitr_tests::pages::{self, Tolerance};
use pitr_tests::{Account, Agent, Scene, StopMode, Store, wait};

use super::proof::{Proof, options};

const FILL: &str = "INSERT INTO rows SELECT g, md5(g::text) FROM generate_series(1, 4000) g";
const CHANGE: &str = "UPDATE rows SET t = md5(t) WHERE n % 50 = 0; SELECT pg_switch_wal()";

/// A backup, changes over some segments, and no agent.
async fn stopped_behind_a_change(major: u32, checksums: bool) -> Result<Proof> {
    let tolerance = if checksums { Tolerance::Exact } else { Tolerance::Hints };
    let options = options(major, checksums).wal_segment_mb(1).conf("wal_keep_size = 0");
    let mut proof = Proof::start(options, Store::local()?, 0, tolerance).await?;
    proof.scene.server.execute(&format!("CREATE TABLE rows (n int, t text); {FILL}")).await?;
    proof.prove().await?;
    for _ in 0..5 {
        proof.scene.server.execute(CHANGE).await?;
    }
    proof.scene.seal().await?;
    Ok(proof)
}

/// All objects of one kind.
fn objects(scene: &Scene, folder: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![scene.store.directory()?.join("main")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.components().any(|part| part.as_os_str() == folder) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn summaries(scene: &Scene) -> Result<Vec<PathBuf>> {
    let found = objects(scene, "summaries")?;
    ensure!(found.len() > 3, "{found:?}");
    Ok(found)
}

/// Puts other bytes where objects may not be written.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    fs::remove_file(path)?;
    fs::write(path, content)?;
    Account::of_servers()?.own(path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn summaries_that_are_gone_are_made_again() -> Result<()> {
    let mut proof = stopped_behind_a_change(15, true).await?;
    proof.scene.agent.kill()?;
    for path in summaries(&proof.scene)? {
        fs::remove_file(path)?;
    }
    proof.scene.agent.run()?;
    proof.prove().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_summaries_count_as_missing() -> Result<()> {
    let mut proof = stopped_behind_a_change(17, true).await?;
    proof.scene.agent.kill()?;
    for (number, path) in summaries(&proof.scene)?.iter().enumerate() {
        let mut content = fs::read(path)?;
        let at = content.len() - 1 - number % 20;
        content[at] ^= 0x10;
        replace(path, if number % 3 == 0 { &content[..at] } else { &content })?;
    }
    proof.scene.agent.run()?;
    proof.prove().await.map(drop)
}

/// Well-formed, and of other WAL: of another range, and of another cluster in which nothing was changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_summaries_count_as_missing() -> Result<()> {
    let mut proof = stopped_behind_a_change(15, false).await?;
    proof.scene.agent.kill()?;
    let found = summaries(&proof.scene)?;
    let first = fs::read(&found[0])?;
    for (number, path) in found.iter().enumerate().skip(1) {
        let (_, mut summary) = summary_object::decode(&fs::read(path)?)?;
        summary.blocks = Default::default();
        let other = SystemIdentifier::new(1);
        let foreign = summary_object::encode(&summary, other)?;
        replace(path, if number % 2 == 0 { &first } else { &foreign })?;
    }
    proof.scene.agent.run()?;
    proof.prove().await.map(drop)
}

/// Waits until the server holds this segment no longer: its slot moves on only some time after the segment is sealed, and
/// checkpoints remove what no slot holds. An agent would store it again from there.
async fn server_forgets(scene: &Scene, segment: &str) -> Result<()> {
    let held = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{segment}'");
    wait::until("the server holds the segment no longer", Duration::from_mins(1), async || {
        scene.server.execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
        scene.seal().await?;
        Ok((scene.server.value(&held).await? == "0").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_compared_where_wal_is_missing() -> Result<()> {
    let mut proof = stopped_behind_a_change(18, true).await?;
    let segments = objects(&proof.scene, "wal")?;
    let whole: Vec<_> = segments.iter().filter(|path| path.extension().is_some_and(|end| end == "zst")).collect();
    let lost = whole[whole.len() - 4];
    let name = lost.file_stem().and_then(|name| name.to_str()).context("no name")?;
    server_forgets(&proof.scene, name).await?;
    proof.scene.agent.kill()?;
    for path in summaries(&proof.scene)? {
        fs::remove_file(path)?;
    }
    fs::remove_file(lost)?;
    let before = proof.scene.server.value("SELECT pg_current_wal_lsn()").await?;
    proof.scene.agent.run()?;
    proof.scene.server.execute(CHANGE).await?;
    // Behind a gap a backup is taken without being asked for, which may be the first one.
    let fresh = proof.prove_whatever().await?;
    ensure!(
        fresh.iter().any(|backup| backup.manifest.sharing.method == CopyMethod::Scan),
        "from {before}: {:#?}",
        fresh.iter().map(|backup| &backup.manifest.sharing).collect::<Vec<_>>()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_parent_is_not_missed() -> Result<()> {
    let mut proof = stopped_behind_a_change(15, true).await?;
    proof.scene.agent.kill()?;
    let manifests: Vec<PathBuf> =
        objects(&proof.scene, "backups")?.into_iter().filter(|path| path.ends_with("manifest.json")).collect();
    ensure!(manifests.len() >= 3, "{manifests:?}");
    // The newest one only: the one before it takes its place.
    fs::remove_file(manifests.last().context("none")?)?;
    proof.scene.agent.run()?;
    proof.prove().await?;

    proof.scene.server.execute(CHANGE).await?;
    proof.scene.agent.kill()?;
    for path in objects(&proof.scene, "backups")?.into_iter().chain(objects(&proof.scene, "packs")?) {
        fs::remove_file(path)?;
    }
    // Within the second another backup can take the name of one that is gone.
    proof.shelf.forget();
    proof.scene.agent.run()?;
    proof.scene.agent.wait_backups(1).await?;
    proof.prove().await.map(drop)
}

/// A pack of the parent is gone: the next backup does without it, or fails; it never names what is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_never_names_a_pack_that_is_gone() -> Result<()> {
    let mut proof = stopped_behind_a_change(15, true).await?;
    proof.quiet().await?;
    let newest = proof.backup(&[]).await?.manifest.id;
    let packs = objects(&proof.scene, "packs")?;
    // Of the fresh backup before, which this one shares.
    let shared = packs.iter().rfind(|path| !path.to_string_lossy().contains(&newest.to_string())).context("no pack")?;
    fs::remove_file(shared)?;
    let run = proof.scene.cli().run(["backup", "--json"]).await?;
    proof.shelf.forget();
    if run.code == 0 {
        let id: pitr::repository::backup::BackupId =
            run.json()?.get("id").and_then(serde_json::Value::as_str).context("no id")?.parse()?;
        let backup = proof.shelf.backup(&id).await.context("a backup that names what is not there")?;
        let data = proof.scene.server.data_directory();
        let found = pages::compare_with_disk(&mut proof.shelf, &backup, data, proof.tolerance)?;
        proof.none(&found, &backup, "a backup and the disk").await?;
    } else {
        run.says(&["pack"])?;
    }
    proof.backup(&["--fresh"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_compared_after_checksums_were_turned_on() -> Result<()> {
    let mut proof = stopped_behind_a_change(15, false).await?;
    proof.scene.agent.kill()?;
    proof.scene.server.stop(StopMode::Fast).await?;
    let program = proof.scene.server.bin().join("pg_checksums");
    for (switch, method) in [("--enable", CopyMethod::Scan), ("--disable", CopyMethod::Scan)] {
        let mut command = Account::of_servers()?.command(&program);
        let output = command.args([switch, "--no-sync", "-D"]).arg(proof.scene.server.data_directory()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        proof.scene.server.run().await?;
        proof.scene.agent.run()?;
        proof.scene.server.execute(CHANGE).await?;
        proof.tolerance = if switch == "--enable" { Tolerance::Exact } else { Tolerance::Hints };
        proof.prove_by(method).await?;
        proof.scene.agent.kill()?;
        proof.scene.server.stop(StopMode::Fast).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_promoted_standby_restores() -> Result<()> {
    let mut proof = stopped_behind_a_change(17, true).await?;
    let standby = proof.scene.server.standby().await?;
    proof.scene.server.execute(CHANGE).await?;
    standby.catch_up_with(&proof.scene.server).await?;
    proof.scene.seal().await?;
    proof.scene.agent.kill()?;
    proof.scene.server.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    standby.execute(CHANGE).await?;
    let agent = proof.scene.store.options(&standby).set("backup", "sample = \"0B\"");
    proof.scene.agent = Agent::start(&agent).await?;
    proof.scene.server = standby;
    proof.quiet().await?;
    let backup = proof.backup(&[]).await?;
    let data = proof.scene.server.data_directory();
    let found = pages::compare_with_disk(&mut proof.shelf, &backup, data, Tolerance::Exact)?;
    proof.none(&found, &backup, "the backup of a promoted standby and its disk").await?;
    proof.restores(&backup).await
}
