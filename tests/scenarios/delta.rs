//! `pitr restore --delta`: an old data directory of the same cluster becomes what a whole restore makes, and little is fetched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::repository::hash::ContentHash;
use pitr_tests::ports::Port;
use pitr_tests::postgres::{Connection, RestoredServer};
use pitr_tests::process::Process;
use pitr_tests::{Postgres, PostgresOptions, Run, Scene, Scratch, StopMode, Store, seed, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

const SETUP: &str = "
CREATE TABLE still AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 40000) AS n;
CREATE TABLE many AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 8000) AS n;
CREATE UNIQUE INDEX ON many (n);
CREATE TABLE cut AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 5000) AS n;
CREATE TABLE gone AS SELECT n FROM generate_series(1, 5000) AS n;
CREATE TABLE apart TABLESPACE elsewhere AS SELECT n, md5(n::text) AS t FROM generate_series(1, 20000) AS n;
CREATE UNLOGGED TABLE volatile AS SELECT n FROM generate_series(1, 1000) AS n;
VACUUM FREEZE ANALYZE;";

/// Behind the backup and before the marker: replay has to do it again.
const BEFORE_MARKER: &[&str] = &[
    "UPDATE many SET t = 'before' WHERE n % 1000 = 0",
    "INSERT INTO cut SELECT n, 'before' FROM generate_series(5001, 5100) AS n",
];

const RELEASE: &[&str] = &[
    "UPDATE many SET t = 'after' WHERE n BETWEEN 100 AND 300",
    "INSERT INTO many SELECT n, repeat('x', 500) FROM generate_series(8001, 9000) AS n",
    "TRUNCATE cut",
    "DROP TABLE gone",
    "CREATE TABLE newer AS SELECT n FROM generate_series(1, 50000) AS n",
    "DELETE FROM apart WHERE n > 10000",
    "VACUUM apart",
    "CREATE DATABASE later",
    "CHECKPOINT",
];

const TABLES: [&str; 5] = ["still", "many", "cut", "gone", "apart"];

async fn content(session: &Connection) -> Result<BTreeMap<&'static str, String>> {
    let mut all = BTreeMap::new();
    for table in TABLES {
        let sums = format!("SELECT count(*) || ' ' || coalesce(sum(hashtext(x::text)::bigint), 0) FROM {table} AS x");
        all.insert(table, session.value(&sums).await?);
    }
    Ok(all)
}

/// A cluster that went on after the moment to which it is to return, and was stopped.
struct Past {
    scene: Scene,
    space: Scratch,
    expected: BTreeMap<&'static str, String>,
}

impl Past {
    async fn make(store: Store) -> Result<Self> {
        let space = Scratch::new()?;
        let server = Postgres::start(PostgresOptions::of(15)).await?;
        let location = space.directory("elsewhere")?;
        server.execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", location.display())).await?;
        let scene = Scene::around(server, store).await?;
        let session = scene.server.connect().await?;
        session.batch_execute("SELECT 1").await?;
        for statement in SETUP.split_inclusive(';') {
            session.batch_execute(statement).await?;
        }
        scene.cli().run(["backup"]).await?.success()?;
        for statement in BEFORE_MARKER {
            session.batch_execute(statement).await?;
        }
        let expected = content(&session).await?;
        scene.cli().run(["mark", "release-42"]).await?.success()?;
        for statement in RELEASE {
            session.batch_execute(statement).await?;
        }
        drop(session);
        scene.seal().await?;
        Ok(Self { scene, space, expected })
    }

    /// Agent and server end, the server in order or not.
    async fn end(&mut self, crash: bool) -> Result<()> {
        self.scene.agent.kill()?;
        if crash { self.scene.server.crash().await } else { self.scene.server.stop(StopMode::Fast).await }
    }

    fn directory(&self) -> PathBuf {
        self.scene.server.data_directory().to_owned()
    }

    async fn delta(&self, more: &[&str]) -> Result<Run> {
        let directory = self.directory().display().to_string();
        let mut arguments =
            vec!["restore", "--before", "release-42", "--into", &directory, "--delta", "--yes", "--json"];
        arguments.extend(more);
        self.scene.cli().run(arguments).await
    }

    /// The whole restore by the same plan, and where its tablespace is.
    async fn whole(&self) -> Result<(PathBuf, PathBuf, Value)> {
        let (into, spaces) = (self.scene.next_directory(), self.scene.next_directory());
        let texts = [into.display().to_string(), spaces.display().to_string()];
        let done = self
            .scene
            .cli()
            .json(["restore", "--before", "release-42", "--into", &texts[0], "--tablespaces-into", &texts[1], "--yes"])
            .await?;
        let space = fs::read_dir(&spaces)?.next().context("no tablespace")??.path();
        Ok((into, space, done))
    }

    /// Starts what was restored, and looks.
    async fn check_rows(&self) -> Result<Value> {
        let port = Port::take()?;
        let run = self.delta(&["--start", "--port", &port.number().to_string()]).await?.success()?;
        let server = RestoredServer::find(&self.directory())?;
        let session = server.connect().await?;
        assert_eq!(content(&session).await?, self.expected);
        assert_eq!(session.value("SELECT count(*) FROM pg_class WHERE relname = 'newer'").await?, "0");
        assert_eq!(session.value("SELECT count(*) FROM volatile").await?, "0");
        assert_eq!(session.value("SELECT count(*) FROM pg_database WHERE datname = 'later'").await?, "0");
        session.batch_execute("SET enable_seqscan = off").await?;
        assert_eq!(session.value("SELECT count(*) FROM many WHERE n > 0").await?, "8000");
        run.json()
    }
}

/// Everything below `root` with what it is and holds, but for what names the restore or its place.
fn files(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    const NAMED: [&str; 5] =
        ["pitr_restore.json", "postgresql.auto.conf", "postgresql.conf", "tablespace_map", "elsewhere"];
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let (path, metadata) = (entry.path(), entry.metadata()?);
            let name = entry.file_name().to_string_lossy().into_owned();
            if NAMED.contains(&name.as_str()) || name.starts_with("pg_wal.before-") || metadata.is_symlink() {
                continue;
            }
            let what = if !metadata.is_dir() && !metadata.is_file() {
                continue; // the socket of the origin
            } else if metadata.is_dir() {
                left.push(path.clone());
                format!("directory {:o}", metadata.permissions().mode())
            } else {
                let content = fs::read(&path)?;
                format!("file {:o} {} {}", metadata.permissions().mode(), content.len(), ContentHash::of(&content))
            };
            found.insert(path.strip_prefix(root)?.to_owned(), what);
        }
    }
    Ok(found)
}

fn equal(one: &Path, other: &Path) -> Result<()> {
    let (one, other) = (files(one)?, files(other)?);
    let differing: Vec<_> = one
        .iter()
        .filter(|(path, what)| other.get(*path) != Some(what))
        .map(|(path, what)| (path, Some(what), other.get(path)))
        .chain(other.iter().filter(|(path, _)| !one.contains_key(*path)).map(|(path, what)| (path, None, Some(what))))
        .collect();
    ensure!(differing.is_empty(), "{differing:#?}");
    Ok(())
}

/// The largest file of a relation: that of `still`.
fn largest(directory: &Path) -> Result<PathBuf> {
    let mut largest = (0, PathBuf::new());
    for database in fs::read_dir(directory.join("base"))? {
        for file in fs::read_dir(database?.path())? {
            let file = file?;
            largest = largest.max((file.metadata()?.len(), file.path()));
        }
    }
    Ok(largest.1)
}

fn spoil(directory: &Path) -> Result<()> {
    // Another content, and neither size nor times tell.
    let path = largest(directory)?;
    let file = fs::File::options().write(true).open(&path)?;
    let modified = file.metadata()?.modified()?;
    file.write_all_at(&[0x5a; 100], file.metadata()?.len() / 2)?;
    file.set_modified(modified)?;
    ensure!(file.metadata()?.size() > 1 << 20, "{}", path.display());
    fs::write(directory.join("base/1/987654"), "of no one")?;
    fs::write(directory.join("global/pg_internal.init"), "stale")?;
    fs::write(directory.join("standby.signal"), "")?;
    Ok(())
}

/// `pg_wal` on another disk, as many have it.
fn link_wal(directory: &Path, elsewhere: &Path) -> Result<PathBuf> {
    let wal = elsewhere.join("wal");
    let copied = std::process::Command::new("cp").arg("-a").arg(directory.join("pg_wal")).arg(&wal).status()?;
    ensure!(copied.success());
    fs::remove_dir_all(directory.join("pg_wal"))?;
    symlink(&wal, directory.join("pg_wal"))?;
    Ok(wal)
}

fn segments(wal: &Path) -> Result<usize> {
    let names = fs::read_dir(wal)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).count())
}

fn number(document: &Value, pointer: &str) -> Result<u64> {
    document.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer} in {document:#}"))
}

async fn becomes_the_target(store: Store, linked_wal: bool) -> Result<()> {
    let mut past = Past::make(store).await?;
    let directory = past.directory();
    past.delta(&[]).await?.code(6)?.says(&["running"])?;
    past.end(false).await?;
    spoil(&directory)?;
    let wal = if linked_wal { Some(link_wal(&directory, past.space.path())?) } else { None };

    let plan = past.delta(&["--dry-run"]).await?.success()?.json()?;
    ensure!(number(&plan, "/delta/compare_bytes")? > 20 << 20, "{plan:#}");
    ensure!(directory.join("global/pg_control").exists(), "a dry run touches nothing");
    let done = past.delta(&[]).await?.success()?.json()?;
    let (whole_directory, whole_space, whole) = past.whole().await?;
    equal(&directory, &whole_directory)?;
    equal(&past.space.path().join("elsewhere"), &whole_space)?;
    let (fetched, all) = (number(&done, "/fetched_bytes")?, number(&whole, "/fetched_bytes")?);
    ensure!(fetched * 2 < all, "{fetched} of {all}: {done:#}");
    ensure!(number(&done, "/delta/reused_bytes")? > number(&done, "/bytes")? * 3 / 4, "{done:#}");

    match wal {
        Some(wal) => ensure!(segments(&wal)? > 0, "what a link leads to stays"),
        None => {
            let notes = done.get("notes").map(ToString::to_string).unwrap_or_default();
            ensure!(notes.contains("pg_wal.before-"), "{notes}");
            let moved = fs::read_dir(&directory)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.to_string_lossy().contains("pg_wal.before-"))
                .context("no old pg_wal")?;
            ensure!(segments(&moved)? > 0);
        }
    }
    // Once more, and started.
    let again = past.check_rows().await?;
    ensure!(number(&again, "/fetched_bytes")? < fetched + (1 << 20), "{again:#}");
    ensure!(again.pointer("/certificate/verdict").and_then(Value::as_str) == Some("reached"), "{again:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_directory_becomes_the_target_local() -> Result<()> {
    becomes_the_target(Store::local()?, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_directory_becomes_the_target_s3() -> Result<()> {
    becomes_the_target(Store::s3().await?, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_is_finished_by_the_next() -> Result<()> {
    let seed = seed::of_this_run();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut past = Past::make(Store::local()?).await?;
    let directory = past.directory();
    past.end(true).await?;
    spoil(&directory)?;
    let before = segments(&directory.join("pg_wal"))?;
    let logs = Scratch::new()?;
    let path = directory.display().to_string();
    for round in 0..8 {
        let mut command = past.scene.cli().command()?;
        command.args(["restore", "--before", "release-42", "--into", &path, "--delta", "--yes"]);
        let mut process = Process::spawn(command, &logs.path().join(format!("round{round}")))?;
        // From the first write on, which the stamp is.
        let started = || fs::metadata(directory.join("pitr_restore.json")).is_ok();
        wait::until("the restore begins", Duration::from_mins(1), async || Ok(started().then_some(()))).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300 * (round + 1)))).await;
        process.kill()?;
        if directory.join("global/pg_control").exists() {
            continue; // not begun, or done
        }
        let whole = past.scene.cli().run(["restore", "--latest", "--into", &path, "--yes"]).await?;
        whole.code(6)?.says(&["--delta"])?;
    }
    past.check_rows().await.with_context(|| format!("seed {seed}"))?;
    let kept: usize = fs::read_dir(&directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().contains("pg_wal.before-"))
        .map(|path| segments(&path).unwrap_or(0))
        .sum();
    ensure!(before > 0 && kept == before, "{kept} of {before} segments are kept, seed {seed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let other = Postgres::init(PostgresOptions::of(15))?;
    let directory = other.data_directory();
    let before = files(directory)?;
    let path = directory.display().to_string();
    let run = scene.cli().run(["restore", "--latest", "--into", &path, "--delta", "--yes"]).await?;
    run.code(6)?.says(&["system identifier", "nothing was changed"])?;
    assert_eq!(files(directory)?, before);
    Ok(())
}
