//! `pitr verify` over what a real server and a real agent left, whole and damaged; and `pitr info` for those who read
//! pgBackRest's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::postgres::Lsn;
use pitr_tests::skip::{left_out, skipped};
use pitr_tests::{Account, Postgres, PostgresOptions, Scene, StopMode, Store};
use serde_json::{Map, Value};

/// Two backups, WAL between and behind, markers, and the agent gone.
async fn protected(major: u32) -> Result<Scene> {
    let mut scene = Scene::start(PostgresOptions::of(major).wal_segment_mb(1), Store::local()?).await?;
    let fill = "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS t FROM generate_series(1, 30000) AS n";
    scene.server.execute(fill).await?;
    scene.server.execute("CREATE INDEX ON bulk (n)").await?;
    scene.cli().run(["mark", "release-1"]).await?.success()?;
    scene.cli().run(["backup"]).await?.success()?;
    scene.server.execute("UPDATE bulk SET t = t || 'x' WHERE n % 100 = 0").await?;
    scene.cli().run(["finish", "release-1", "--ok"]).await?.success()?;
    scene.cli().run(["backup"]).await?.success()?;
    scene.server.execute("VACUUM bulk; ").await?;
    scene.server.execute("SELECT pg_create_restore_point('before the end')").await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    scene.server.execute("INSERT INTO bulk SELECT n, 'y' FROM generate_series(1, 2000) AS n").await?;
    scene.seal().await?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    Ok(scene)
}

/// All files below `directory`, in order.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

fn largest_with(all: &[PathBuf], part: &str, end: &str) -> Result<PathBuf> {
    let size = |path: &&PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let matching = all.iter().filter(|path| {
        let text = path.to_string_lossy();
        text.contains(part) && text.ends_with(end) && !text.contains("/.tmp/") && !text.contains(".tail/")
    });
    matching.max_by_key(size).cloned().with_context(|| format!("nothing with {part} and {end}"))
}

fn flip(path: &Path) -> Result<Vec<u8>> {
    let before = fs::read(path)?;
    let mut after = before.clone();
    let middle = after.len() / 2;
    *after.get_mut(middle).context("it is empty")? ^= 0x10;
    fs::write(path, after)?;
    Ok(before)
}

fn first_lineage(document: &Value) -> Result<&Value> {
    document.pointer("/lineages/0").context("no lineage")
}

fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_left_is_whole_and_damage_to_it_is_told() -> Result<()> {
    for major in [15, 17] {
        if left_out(major) {
            continue;
        }
        let scene = protected(major).await?;
        for arguments in [&["verify"][..], &["verify", "--full"], &["verify", "--sample", "5MiB", "--seed", "7"]] {
            let run = scene.cli().run(arguments.iter().chain(&["--json"])).await?.success()?;
            let document = run.json()?;
            let lineage = first_lineage(&document)?;
            ensure!(array(lineage, "/damaged").is_empty() && array(lineage, "/notes").is_empty(), "{lineage:#}");
            // The first one, and the two that were asked for.
            assert_eq!(array(lineage, "/backups").len(), 3, "{lineage:#}");
        }
        let full = scene.cli().run(["verify", "--full", "--json"]).await?.success()?.json()?;
        let checked = first_lineage(&full)?.pointer("/checked").context("no figures")?;
        let figure = |name: &str| checked.get(name).and_then(Value::as_u64).unwrap_or(0);
        assert_eq!(figure("packs"), figure("packs_read"), "{checked}");
        ensure!(figure("summaries_compared") > 3 && figure("wal_bytes_read") > 3 << 20, "{checked}");
        damaged_pack(&scene).await?;
        damaged_segment(&scene).await?;
    }
    Ok(())
}

async fn damaged_pack(scene: &Scene) -> Result<()> {
    let directory = scene.store.directory()?;
    let pack = largest_with(&files(&directory)?, "/packs/", "")?;
    let before = flip(&pack)?;
    scene.cli().run(["verify"]).await?.success()?;
    let run = scene.cli().run(["verify", "--full", "--json"]).await?.code(5)?;
    let document = run.json()?;
    let lineage = first_lineage(&document)?;
    let key = pack.strip_prefix(&directory)?.to_string_lossy().into_owned();
    let named = |damaged: &&Value| damaged.get("key").and_then(Value::as_str) == Some(&key);
    let damage = array(lineage, "/damaged").iter().find(named).with_context(|| format!("{lineage:#}"))?;
    ensure!(damage.get("offset").is_some_and(Value::is_u64), "{damage}");
    let harmed = array(lineage, "/lost/backups").to_vec();
    ensure!(!harmed.is_empty(), "{lineage:#}");
    // Every backup that is told to be harmed cannot be restored, and every other one can.
    for backup in array(lineage, "/backups") {
        let id = backup.get("id").and_then(Value::as_str).context("no id")?;
        let into = scene.next_directory().display().to_string();
        let run = scene.cli().run(["restore", "--immediate", "--backup", id, "--into", &into, "--yes"]).await?;
        if harmed.iter().any(|harmed| harmed.as_str() == Some(id)) {
            run.code(5)?.says(&[&key])?;
        } else {
            run.success()?;
        }
    }
    fs::write(&pack, before)?;
    scene.cli().run(["verify", "--full"]).await?.success()?;
    Ok(())
}

async fn damaged_segment(scene: &Scene) -> Result<()> {
    let directory = scene.store.directory()?;
    let all = files(&directory)?;
    let segments: Vec<&PathBuf> = all
        .iter()
        .filter(|path| path.to_string_lossy().contains("/wal/") && !path.to_string_lossy().contains(".tail/"))
        .collect();
    // Behind the last backup, and not the end.
    let segment = segments.iter().rev().nth(1).context("no segments")?;
    let before = flip(segment)?;
    let run = scene.cli().run(["verify", "--full", "--json"]).await?.code(5)?;
    let document = run.json()?;
    let lineage = first_lineage(&document)?;
    let ranges = array(lineage, "/lost/ranges");
    ensure!(!ranges.is_empty(), "{lineage:#}");
    let from = ranges.first().and_then(|range| range.pointer("/from/lsn")?.as_str()).context("no start")?;
    // Up to there everything can be reached, and nothing behind. From 15 on a server reads ahead as far as
    // `wal_decode_buffer_size` (512 kB) goes, and ends where it cannot.
    let before_it = Lsn::new(from.parse::<Lsn>()?.as_u64() - 0xF_0000).to_string();
    scene.try_restore(&["--lsn", &before_it]).await?.0.success()?;
    scene.try_restore(&["--latest"]).await?.0.code(5)?;
    fs::write(segment, before)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_no_damage_and_a_store_that_is_away_is_no_damage() -> Result<()> {
    let scene = protected(15).await?;
    let directory = scene.store.directory()?;
    let pack = largest_with(&files(&directory)?, "/packs/", "")?;
    let stray = pack.with_file_name("0000ffff");
    fs::copy(&pack, &stray)?;
    let run = scene.cli().run(["verify", "--full", "--json"]).await?.success()?;
    let document = run.json()?;
    assert_eq!(first_lineage(&document)?.pointer("/garbage/objects"), Some(&Value::from(1)));
    fs::remove_file(&pack)?;
    let run = scene.cli().run(["verify", "--json"]).await?.code(5)?;
    let document = run.json()?;
    ensure!(!array(first_lineage(&document)?, "/lost/backups").is_empty());
    let away = directory.with_file_name("away");
    rustix::fs::rename(&directory, &away)?;
    scene.cli().run(["verify", "--full"]).await?.code(4)?;
    rustix::fs::rename(&away, &directory)?;
    scene.cli().run(["verify", "--backup", "20200101T000000Z"]).await?.code(2)?;
    Ok(())
}

/// What `pgbackrest info` says of a full and an incremental backup of a server.
fn pgbackrest_info(server: &Postgres) -> Result<Value> {
    let account = Account::of_servers()?;
    let directory = server.scratch().directory("pgbackrest")?;
    for name in ["repository", "log", "lock"] {
        fs::create_dir(directory.join(name))?;
        account.own(&directory.join(name))?;
    }
    let config = directory.join("pgbackrest.conf");
    let place = directory.display();
    fs::write(
        &config,
        format!(
            "[global]\nrepo1-path={place}/repository\nrepo1-retention-full=2\nlog-path={place}/log\nlock-path={place}/lock\n\
             start-fast=y\narchive-check=n\n[main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            server.data_directory().display(),
            server.port(),
            server.socket_directory().display()
        ),
    )?;
    account.own(&config)?;
    let run = |arguments: &[&str]| -> Result<Vec<u8>> {
        let mut command: Command = account.command("pgbackrest");
        let output = command.arg(format!("--config={}", config.display())).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "pgbackrest {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    };
    run(&["--stanza=main", "stanza-create"])?;
    run(&["--stanza=main", "--type=full", "backup"])?;
    run(&["--stanza=main", "--type=incr", "backup"])?;
    Ok(serde_json::from_slice(&run(&["--output=json", "info"])?)?)
}

/// Where `theirs` and `ours` differ in keys or in types; `extra` are keys that newer versions of theirs have.
fn differences(path: &str, theirs: &Value, ours: &Value, extra: &[&str], found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let missing = |from: &Map<String, Value>, of: &Map<String, Value>| -> Vec<String> {
                of.keys().filter(|key| !from.contains_key(*key) && !extra.contains(&key.as_str())).cloned().collect()
            };
            found.extend(missing(ours, theirs).iter().map(|key| format!("{path}/{key} is missing")));
            found.extend(missing(theirs, ours).iter().map(|key| format!("{path}/{key} is not known")));
            for (key, value) in theirs {
                if let Some(own) = ours.get(key) {
                    differences(&format!("{path}/{key}"), value, own, extra, found);
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            if theirs.len() != ours.len() {
                found.push(format!("{path} has {} entries instead of {}", ours.len(), theirs.len()));
            }
            for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                differences(&format!("{path}/{index}"), theirs, ours, extra, found);
            }
        }
        (theirs, ours) => {
            let same =
                std::mem::discriminant(theirs) == std::mem::discriminant(ours) && theirs.is_i64() == ours.is_i64();
            if !same {
                found.push(format!("{path} is {ours} where {theirs} would be"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn info_has_the_shape_of_pgbackrests() -> Result<()> {
    if Command::new("pgbackrest").arg("version").output().is_err() && skipped("pgbackrest is not installed") {
        return Ok(());
    }
    // `archive_mode` for pgBackRest alone; nothing is archived, and it is told not to look.
    let options = PostgresOptions::of(15).conf("archive_mode = on").conf("archive_command = 'true'");
    let mut scene = Scene::start(options, Store::local()?).await?;
    scene.server.execute("CREATE TABLE bulk AS SELECT n FROM generate_series(1, 10000) AS n").await?;
    scene.cli().run(["backup"]).await?.success()?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    scene.seal().await?;
    let theirs = pgbackrest_info(&scene.server)?;
    let ours = scene.cli().json(["info", "--compat", "pgbackrest"]).await?;
    let mut found = Vec::new();
    // The segments of an archive that nobody fills are null there.
    let mut theirs = theirs;
    for name in ["min", "max"] {
        let segment = theirs.pointer_mut(&format!("/0/archive/0/{name}")).context("no archive")?;
        if segment.is_null() {
            *segment = Value::from("000000010000000000000001");
        }
    }
    differences("", &theirs, &ours, &["annotation"], &mut found);
    assert!(found.is_empty(), "{found:#?}\n{theirs:#}\n{ours:#}");
    assert_eq!(theirs.pointer("/0/db"), ours.pointer("/0/db"), "the cluster is the same");
    assert_eq!(ours.pointer("/0/backup/1/type"), Some(&Value::from("incr")), "{ours:#}");
    let first = ours.pointer("/0/backup/0/label").and_then(Value::as_str).context("no label")?;
    assert_eq!(ours.pointer("/0/backup/1/prior").and_then(Value::as_str), Some(first));

    let nobody = scene.cli().json(["info", "--compat", "pgbackrest", "--cluster", "nobody"]).await?;
    assert_eq!(nobody.pointer("/0/status/code"), Some(&Value::from(1)), "{nobody}");
    scene.server.stop(StopMode::Fast).await?;
    Ok(())
}
