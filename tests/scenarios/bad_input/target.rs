use anyhow::Result;
use pitr_tests::{PostgresOptions, Run, Scene, Store};

async fn refused(scene: &Scene, target: &[&str]) -> Result<Run> {
    let directory = scene.next_directory();
    let path = directory.display().to_string();
    let mut arguments = vec!["restore"];
    arguments.extend(target);
    arguments.extend(["--into", &path, "--yes"]);
    let run = scene.cli().run(arguments).await?;
    assert!(!directory.exists(), "something was written for {target:?}");
    Ok(run)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_out_of_reach_exit_3_and_say_what_is_in_reach() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.seal().await?;
    let backup = scene.agent.info().await?;
    let earliest = backup.pointer("/backups/0/stop_lsn").and_then(|lsn| lsn.as_str()).unwrap_or_default().to_owned();
    refused(&scene, &["--time", "2001-01-01 00:00:00+00"])
        .await?
        .code(3)?
        .says(&["before the end of the first backup", "nearest moment"])?;
    refused(&scene, &["--lsn", "0/1000028"]).await?.code(3)?.says(&[&earliest])?;
    refused(&scene, &["--time", "2099-01-01 00:00:00+00"]).await?.code(3)?.says(&["latest"])?;
    refused(&scene, &["--lsn", "FF/0"]).await?.code(3)?.says(&["latest"])?;
    refused(&scene, &["--xid", "4000000"]).await?.code(3)?;
    refused(&scene, &["--before", "no-such-marker"]).await?.says(&["no-such-marker"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_without_zone_is_refused_with_a_hint() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    refused(&scene, &["--time", "2026-11-22 06:31:00"]).await?.code(2)?.says(&["zone", "hint"])?;
    refused(&scene, &["--time", "yesterday-ish"]).await?.code(2)?;
    refused(&scene, &["--lsn", "12345"]).await?.code(2)?.says(&["12345"])?;
    refused(&scene, &["--timeline", "7", "--latest"]).await?.code(3)?.says(&["7"])?;
    Ok(())
}
