use std::fs;

use anyhow::{Context, Result};
use pitr_tests::{Cli, PostgresOptions, Scene, Scratch, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_fail_but_proven_absence_exits_200() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    scene.seal().await?;
    let scratch = Scratch::new()?;
    let path = scratch.path().join("RECOVERYXLOG");
    let into = path.display().to_string();
    let segment = scene.server.value("SELECT pg_walfile_name('0/2000028')").await?;

    scene.cli().run(["wal-fetch", &segment, &into]).await?.code(0)?;
    assert_eq!(fs::metadata(&path)?.len(), 16 << 20);
    fs::remove_file(&path)?;

    // Proven: the repository answered, and it is not there.
    scene.cli().run(["wal-fetch", "00000001000000FF000000FE", &into]).await?.code(1)?;
    scene.cli().run(["wal-fetch", "00000009.history", &into]).await?.code(1)?;

    for arguments in [&["wal-fetch"][..], &["wal-fetch", &segment], &["wal-fetch", "--no-such-option", &segment, &into]]
    {
        scene.cli().run(arguments).await?.code(200)?;
    }
    scene.cli().run(["wal-fetch", "not-a-segment", &into]).await?.code(200)?;
    scene.cli().run(["wal-fetch", &segment, "/nonexistent/directory/file"]).await?.code(200)?;
    Cli::new(&scratch.path().join("missing.toml"), &[])?.run(["wal-fetch", &segment, &into]).await?.code(200)?;
    let nowhere =
        [("PITR_REPOSITORY", "s3://backups/pitr"), ("PITR_ENDPOINT", "http://127.0.0.1:1"), ("PITR_CLUSTER", "main")];
    let nowhere = nowhere.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Cli::bare(&nowhere)?.run(["wal-fetch", &segment, &into]).await?.code(200)?;
    assert!(!path.exists(), "a failed fetch left a file");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_is_never_delivered() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.server.execute("CREATE TABLE kept AS SELECT generate_series(1, 50000) AS n").await?;
    let segment = scene.server.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
    scene.seal().await?;
    let mut find = pitr_tests::Account::of_servers()?.command("find");
    let output = find.arg(scene.store.directory()?).args(["-name", &format!("{segment}.zst")]).output()?;
    let stored = String::from_utf8(output.stdout)?;
    let stored = stored.lines().next().with_context(|| format!("{segment} is not stored"))?;
    let mut content = fs::read(stored)?;
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(stored, content)?;
    let scratch = Scratch::new()?;
    let path = scratch.path().join("RECOVERYXLOG");
    scene.cli().run(["wal-fetch", &segment, &path.display().to_string()]).await?.code(200)?.says(&[&segment])?;
    assert!(!path.exists());
    Ok(())
}
