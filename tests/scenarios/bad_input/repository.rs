use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use pitr_tests::{AgentOptions, Cli, Postgres, PostgresOptions, S3Server, Scene, Scratch, Store, s3};

/// The command on a repository alone.
fn cli(endpoint: &str, bucket: &str, secret: &str) -> Result<Cli> {
    let mut environment = S3Server::credentials();
    environment.extend(
        [
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("PITR_REPOSITORY", &format!("s3://{bucket}/pitr")),
            ("PITR_ENDPOINT", endpoint),
            ("PITR_PATH_STYLE", "true"),
            ("PITR_CLUSTER", "main"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    Cli::bare(&environment)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_a_missing_bucket_and_a_dead_store_exit_4() -> Result<()> {
    let mut store = S3Server::start().await?;
    let endpoint = store.endpoint();
    cli(&endpoint, s3::BUCKET, "wrong")?.run(["info"]).await?.code(4)?.says(&["credential"])?;
    cli(&endpoint, "no-such-bucket", s3::SECRET_KEY)?.run(["info"]).await?.code(4)?.says(&["no-such-bucket"])?;
    store.kill()?;
    cli(&endpoint, s3::BUCKET, s3::SECRET_KEY)?.run(["info"]).await?.code(4)?.says(&["does not answer yet"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_check_finds_a_missing_bucket() -> Result<()> {
    let store = S3Server::start().await?;
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let options = AgentOptions::s3(&server, &store.endpoint());
    let (code, said) = pitr_tests::Agent::other(&options, &["check"])?;
    assert_eq!(code, 0, "{said}");
    let options = options.without("repository").set("repository", "url = \"s3://no-such-bucket/pitr\"");
    let options = options
        .set("repository", format!("endpoint = \"{}\"", store.endpoint()))
        .set("repository", "path_style = true");
    let (code, said) = pitr_tests::Agent::other(&options, &["check"])?;
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("no-such-bucket"), "{said}");
    Ok(())
}

fn files(directory: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.display().to_string().contains(part) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A copy of the scene's repository, and the command on it.
fn copy_of(scene: &Scene, scratch: &Scratch, name: &str) -> Result<(PathBuf, Cli)> {
    let copy = scratch.path().join(name);
    let mut cp = pitr_tests::Account::of_servers()?.command("cp");
    assert!(cp.arg("-a").arg(scene.store.directory()?).arg(&copy).status()?.success());
    let url = format!("file://{}", copy.display());
    let environment = [("PITR_REPOSITORY", url.as_str()), ("PITR_CLUSTER", "main")];
    Ok((copy, Cli::bare(&environment.map(|(key, value)| (key.to_owned(), value.to_owned())))?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_missing_objects_are_found_and_named() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.server.execute("CREATE TABLE kept AS SELECT generate_series(1, 50000) AS n").await?;
    scene.cli().run(["backup"]).await?.success()?;
    scene.seal().await?;
    let scratch = Scratch::new()?;
    let restore = async |cli: &Cli, name: &str| {
        let into = scratch.path().join(format!("{name}-restored"));
        let run = cli.run(["restore", "--latest", "--into", &into.display().to_string(), "--yes"]).await?;
        anyhow::ensure!(!into.join("global/pg_control").exists() || run.code == 0, "{name}: could be started");
        anyhow::Ok(run)
    };
    let (_, cli) = copy_of(&scene, &scratch, "whole")?;
    restore(&cli, "whole").await?.success()?;

    let (copy, cli) = copy_of(&scene, &scratch, "flipped")?;
    for pack in files(&copy, "/packs/")? {
        let mut content = fs::read(&pack)?;
        let middle = content.len() / 2;
        content[middle] ^= 0x10;
        fs::write(pack, content)?;
    }
    restore(&cli, "flipped").await?.code(5)?.says(&["pack"])?;

    let (copy, cli) = copy_of(&scene, &scratch, "missing")?;
    for pack in files(&copy, "/packs/")? {
        fs::remove_file(pack)?;
    }
    restore(&cli, "missing").await?.code(5)?.says(&["pack"])?;

    let (copy, cli) = copy_of(&scene, &scratch, "no-wal")?;
    for segment in files(&copy, "/wal/")? {
        fs::remove_file(segment)?;
    }
    restore(&cli, "no-wal").await?.code(3)?;
    Ok(())
}
