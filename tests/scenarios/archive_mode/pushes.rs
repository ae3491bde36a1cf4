//! What is taken, and what is refused.

use std::path::PathBuf;

use anyhow::{Context, Result};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Account, Ledger, Postgres, Scene, Store, wait};

use super::{alone, archiver, archiving, problems, push, seal};

/// A scene with at least three archived segments that the server still has, the last of them ended by a switch.
async fn archived() -> Result<(Scene, Vec<PathBuf>)> {
    let scene = alone(Postgres::start(archiving(18).conf("wal_keep_size = '1GB'")).await?, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    for seed in 0..3 {
        let mut load = Load::new(2, seed);
        load.payload = 8000;
        let writers = Writers::start(&scene.server, load).await?;
        writers.more(60).await?;
        writers.stop().await?;
        seal(&scene).await?;
    }
    let sql = "SELECT left(name, 24) FROM pg_ls_archive_statusdir() WHERE name ~ '^[0-9A-F]{24}.done$' ORDER BY name";
    let names = scene.server.connect().await?.rows(sql).await?;
    let pg_wal = scene.server.data_directory().join("pg_wal");
    let paths: Vec<PathBuf> = names.iter().filter_map(|row| Some(pg_wal.join(row.first()?))).collect();
    anyhow::ensure!(paths.len() >= 3, "{paths:?}");
    Ok((scene, paths))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_again_is_success_and_other_content_an_alarm() -> Result<()> {
    let (mut scene, paths) = archived().await?;
    let path = paths.iter().rev().nth(1).context("no segment")?;
    let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
    let good = std::fs::read(path)?;
    for restarted in [false, true] {
        if restarted {
            // What it remembered is gone: now the repository is asked.
            scene.agent.kill()?;
            scene.agent.run()?;
            seal(&scene).await?;
        }
        push(&scene, path)?.archived()?;
        let mut other = good.clone();
        // The end of a segment that was switched: all headers and records stay as they are.
        let last = other.iter().rposition(|byte| *byte != 0).context("an empty segment")?;
        other[last] ^= 1;
        std::fs::write(path, &other)?;
        let refused = push(&scene, path)?;
        std::fs::write(path, &good)?;
        refused.refused(&[name])?;
        anyhow::ensure!(problems(&scene).await?.contains(name), "status is silent: {}", problems(&scene).await?);
        push(&scene, path)?.archived()?;
        let silent = wait::until("status is calm again", std::time::Duration::from_secs(10), async || {
            Ok((!problems(&scene).await?.contains(name)).then_some(()))
        });
        silent.await?;
    }
    scene.restore(&["--latest"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_no_segments_are_refused_and_leave_nothing_behind() -> Result<()> {
    let (scene, paths) = archived().await?;
    let pg_wal = scene.server.data_directory().join("pg_wal");
    let good = std::fs::read(paths.first().context("no segment")?)?;
    let foreign = {
        let other = Postgres::start(pitr_tests::PostgresOptions::of(18)).await?;
        let name = other.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        other.execute("SELECT pg_switch_wal()").await?;
        std::fs::read(other.data_directory().join("pg_wal").join(name))?
    };
    // Names that the server will not come to, so that the stored ones do not answer for them.
    let name = |number: u32| format!("0000000100000000000000{number:02X}");
    let place = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = pg_wal.join(name);
        std::fs::write(&path, content)?;
        Account::of_servers()?.own(&path)?;
        Ok(path)
    };
    // The right place for the content, on a timeline that does not exist.
    let own = paths.first().and_then(|path| path.file_name()?.to_str()).context("no name")?;
    let twin = format!("00000009{}", &own[8..]);
    push(&scene, &place(&twin, &good)?)?.archived()?;
    std::fs::remove_file(pg_wal.join(&twin))?;
    let twin = format!("00000008{}", &own[8..]);
    let mut flipped = good.clone();
    flipped[good.len() / 40] ^= 0x10;
    let mut zeroed = good.clone();
    let half = good.iter().rposition(|byte| *byte != 0).context("empty")? / 2;
    zeroed[half..].fill(0);
    for (what, name, content, words) in [
        ("truncated", twin.clone(), good[..good.len() - 8192].to_vec(), &["bytes"][..]),
        ("empty", twin.clone(), Vec::new(), &["bytes"]),
        ("zeros", twin.clone(), vec![0; good.len()], &["empty"]),
        ("half zeros", twin.clone(), zeroed, &[]),
        ("a bit", twin.clone(), flipped, &[]),
        ("recycled", name(0xF0), good.clone(), &["not written it to its end"]),
        ("foreign", twin.clone(), foreign, &[]),
        ("history", "00000009.history".to_owned(), b"nothing".to_vec(), &["history"]),
        ("backup", format!("{own}.00000028.backup"), b"nothing".to_vec(), &["backup"]),
        ("partial", format!("{own}.partial"), vec![0; good.len()], &[]),
        ("a name", "xlogtemp.77".to_owned(), good.clone(), &["is not the name"]),
        ("lower case", twin.to_lowercase() + "x", good.clone(), &["is not the name"]),
    ] {
        let path = place(&name, &content)?;
        push(&scene, &path)?.refused(words).with_context(|| what.to_owned())?;
        std::fs::remove_file(path)?;
    }
    let stored = std::process::Command::new("find").arg(scene.store.directory()?).output()?;
    let stored = String::from_utf8_lossy(&stored.stdout).into_owned();
    for trace in [&twin[..], "F0.zst", "00000009.history", ".partial"] {
        assert!(!stored.contains(trace), "{trace} was stored:\n{stored}");
    }
    // Right content in another place than the server's own.
    let elsewhere = scene.server.scratch().path().join(own);
    std::fs::copy(paths.first().context("no segment")?, &elsewhere)?;
    Account::of_servers()?.own(&elsewhere)?;
    push(&scene, &elsewhere)?.refused(&["does not stand in"])?;
    push(&scene, &pg_wal.join("00000001000000000000FFFF"))?.refused(&["No such file"])?;
    push(&scene, std::path::Path::new(""))?.refused(&["usage"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_server_with_its_archive_command_is_not_believed() -> Result<()> {
    let scene = alone(Postgres::start(archiving(18)).await?, Store::local()?).await?;
    // The same identity, the same timeline, the same configuration; its own history from now on.
    let twin = scene.server.standby().await?;
    let before = scene.agent.info().await?;
    std::fs::remove_file(twin.data_directory().join("standby.signal")).ok();
    let mut twin = twin;
    twin.stop(pitr_tests::StopMode::Fast).await?;
    twin.run().await?;
    twin.execute("CREATE TABLE of_the_twin (n int); SELECT pg_switch_wal()").await?;
    wait::until("the twin's archiver fails", std::time::Duration::from_mins(1), async || {
        Ok((archiver(&twin, "failed_count").await? != "0").then_some(()))
    })
    .await?;
    assert_eq!(archiver(&twin, "archived_count").await?, "0");
    drop(twin);
    seal(&scene).await?;
    drop(before);
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM pg_class WHERE relname = 'of_the_twin'").await?, "0");
    Ok(())
}
