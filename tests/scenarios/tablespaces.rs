//! Tablespaces are put elsewhere, never where the origin has them.

use std::fs;

use anyhow::Result;
use pitr_tests::{Postgres, PostgresOptions, Scene, Scratch, Store};

async fn with_tablespaces(scratch: &Scratch) -> Result<Scene> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    for name in ["first", "second one"] {
        let path = scratch.directory(name)?;
        let (space, table) = (name.replace(' ', "_"), name.replace(' ', "_"));
        server.execute(&format!("CREATE TABLESPACE {space} LOCATION '{}'", path.display())).await?;
        server
            .execute(&format!("CREATE TABLE in_{table} TABLESPACE {space} AS SELECT generate_series(1, 5000) AS n"))
            .await?;
    }
    Scene::around(server, Store::local()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tablespace_goes_where_it_is_told() -> Result<()> {
    let (old, new) = (Scratch::new()?, Scratch::new()?);
    let scene = with_tablespaces(&old).await?;
    let map = |name: &str| format!("{}={}", old.path().join(name).display(), new.path().join(name).display());
    let (first, second) = (map("first"), map("second one"));
    let restored = scene.restore(&["--latest", "--tablespace", &first, "--tablespace", &second]).await?;
    let session = restored.server.connect().await?;
    for (space, name) in [("first", "first"), ("second_one", "second one")] {
        assert_eq!(session.value(&format!("SELECT sum(n) FROM in_{space}")).await?, "12502500");
        let location = format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{space}'");
        assert_eq!(session.value(&location).await?, new.path().join(name).display().to_string());
    }
    session.batch_execute("INSERT INTO in_first VALUES (0); CHECKPOINT").await?;
    assert_eq!(scene.server.value("SELECT count(*) FROM in_first").await?, "5000", "the origin is untouched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tablespaces_go_into_one_place() -> Result<()> {
    let (old, new) = (Scratch::new()?, Scratch::new()?);
    let scene = with_tablespaces(&old).await?;
    let into = new.path().join("all").display().to_string();
    let restored = scene.restore(&["--latest", "--tablespaces-into", &into]).await?;
    let session = restored.server.connect().await?;
    assert_eq!(session.value("SELECT sum(n) FROM in_second_one").await?, "12502500");
    let elsewhere = format!("SELECT count(*) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '{into}/%'");
    assert_eq!(session.value(&elsewhere).await?, "2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablespace_that_would_land_on_its_origin_is_refused() -> Result<()> {
    let old = Scratch::new()?;
    let scene = with_tablespaces(&old).await?;
    let listing = || -> Result<usize> { Ok(fs::read_dir(old.path().join("first"))?.count()) };
    let before = listing()?;
    let (run, directory, _port) = scene.try_restore(&["--latest"]).await?;
    run.code(6)?.says(&["tablespace"])?;
    assert!(!directory.join("PG_VERSION").exists());
    assert_eq!(listing()?, before);
    Ok(())
}
