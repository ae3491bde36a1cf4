use std::fs;

use anyhow::Result;
use pitr_tests::{Account, PostgresOptions, Scene, Scratch, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_in_use_are_never_written_to() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let scratch = Scratch::new()?;
    let full = scratch.directory("full")?;
    scratch.file("full/precious", "content")?;
    let restore = async |into: &str| scene.cli().run(["restore", "--latest", "--into", into, "--yes"]).await;
    restore(&full.display().to_string()).await?.code(6)?.says(&["empty"])?;
    assert_eq!(fs::read_dir(&full)?.count(), 1);
    restore(&scene.server.data_directory().display().to_string()).await?.code(6)?;
    assert_eq!(scene.server.value("SELECT 1").await?, "1");
    // Inside the running server's own directory.
    restore(&scene.server.data_directory().join("base/new").display().to_string()).await?.code(6)?;
    let file = scratch.file("a-file", "content")?;
    restore(&file.display().to_string()).await?.code(6)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_can_not_be_written_is_refused() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let scratch = Scratch::new()?;
    let closed = scratch.directory("closed")?;
    assert!(Account::of_servers()?.command("chmod").arg("500").arg(&closed).status()?.success());
    let into = closed.join("restored").display().to_string();
    scene.cli().run(["restore", "--latest", "--into", &into, "--yes"]).await?.code(6)?.says(&["denied"])?;
    Ok(())
}
