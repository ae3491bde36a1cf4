//! Backups that share pages with the one before: what they read, what they store, and that they restore like any other.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::postgres::TimelineId;
use pitr::repository::summary_store::ReadSummary;
use pitr::repository::{Repository, SummaryStore};
use pitr::storage::LocalStore;
use pitr_tests::{PostgresOptions, Scene, StopMode, Store, wait};
use serde_json::Value;

/// The newest backup, as `pitr info` tells of it.
async fn back_up(scene: &Scene, arguments: &[&str]) -> Result<Value> {
    let mut all = vec!["backup"];
    all.extend(arguments);
    scene.cli().run(all).await?.success().with_context(|| scene.agent.log())?;
    newest(scene).await
}

async fn newest(scene: &Scene) -> Result<Value> {
    let info = scene.cli().json(["info"]).await?;
    let backups = info.pointer("/clusters/0/backups").and_then(Value::as_array).context("no backups")?;
    backups.last().cloned().context("no backup")
}

fn number(backup: &Value, key: &str) -> u64 {
    backup.get(key).and_then(Value::as_u64).unwrap_or(u64::MAX)
}

fn method(backup: &Value) -> &str {
    backup.get("method").and_then(Value::as_str).unwrap_or("none")
}

/// The content of all tables of a database, whichever way it is read.
const TABLES: &str =
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1";

async fn content(session: &pitr_tests::postgres::Connection) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for row in session.rows(TABLES).await? {
        let table = row.first().context("no name")?;
        let sums =
            format!("SELECT count(*) || ' ' || coalesce(sum(hashtext(x::text)::bigint), 0) FROM \"{table}\" AS x");
        all.insert(table.clone(), session.value(&sums).await?);
    }
    Ok(all)
}

/// Restores, and compares all tables with those of the server.
async fn restores_equal(scene: &Scene) -> Result<()> {
    let expected = content(&scene.server.connect().await?).await?;
    scene.seal().await?;
    let restored = scene.restore(&["--latest"]).await?;
    let session = restored.server.connect().await?;
    let found = content(&session).await?;
    ensure!(expected == found, "expected {expected:#?}, found {found:#?}");
    // Indexes agree with their tables.
    session.rows("SET enable_seqscan = off").await?;
    session.rows("SET enable_bitmapscan = off").await?;
    let by_index = session.value("SELECT count(n) FROM many WHERE n >= 0").await?;
    let by_table = session.value("SELECT count(t) FROM many").await?;
    ensure!(by_index == by_table, "{by_index} by index, {by_table} in the table");
    Ok(())
}

/// Two tables of some thousand pages, one of which nobody touches.
const SETUP: &str = "
CREATE TABLE still AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 40000) AS n;
CREATE TABLE many AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 20000) AS n;
CREATE UNIQUE INDEX ON many (n);
CREATE TABLE cut AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 5000) AS n;
VACUUM FREEZE ANALYZE;";

async fn costs_what_changed(options: PostgresOptions) -> Result<()> {
    let scene = Scene::start(options, Store::local()?).await?;
    let session = scene.server.connect().await?;
    for statement in SETUP.split(';').filter(|statement| !statement.trim().is_empty()) {
        session.rows(statement).await?;
    }
    let whole = back_up(&scene, &["--fresh"]).await?;
    assert_eq!(method(&whole), "whole", "{whole}");

    let idle = back_up(&scene, &[]).await?;
    assert_eq!(method(&idle), "summaries", "{idle}");
    assert_eq!(idle.get("parent"), whole.get("id"));
    ensure!(number(&idle, "new_bytes") < 200_000, "{idle}");
    assert_eq!(number(&idle, "files"), number(&whole, "files"));

    session.rows("UPDATE many SET t = 'changed' || t WHERE n % 1000 = 7").await?;
    session.rows("DELETE FROM cut WHERE n > 2000").await?;
    session.rows("VACUUM cut").await?;
    session.rows("INSERT INTO cut SELECT n, 'again' FROM generate_series(6000, 9000) AS n").await?;
    session.rows("CREATE TABLE born AS SELECT n FROM generate_series(1, 1000) AS n").await?;
    let changed = back_up(&scene, &[]).await?;
    assert_eq!(method(&changed), "summaries", "{changed}");
    let read = number(&changed, "pages_read") - number(&changed, "sampled_pages");
    ensure!(read < number(&whole, "pages_read") / 3, "{changed}");
    ensure!(number(&changed, "new_bytes") < number(&whole, "new_bytes") / 3, "{changed} after {whole}");
    restores_equal(&scene).await?;

    let fresh = back_up(&scene, &["--fresh"]).await?;
    assert_eq!((method(&fresh), fresh.get("parent")), ("whole", Some(&Value::Null)), "{fresh}");
    scene.agent.no_alarms_but(&["fsync is off", "max_slot_wal_keep_size"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_costs_what_changed_on_13() -> Result<()> {
    costs_what_changed(PostgresOptions::of(13)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_costs_what_changed_on_18() -> Result<()> {
    costs_what_changed(PostgresOptions::of(18)).await
}

/// Where neither checksums nor `wal_log_hints` make it do so, VACUUM sets the flag of a page without giving it another LSN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_vacuum_marks_are_those_of_the_visibility_map() -> Result<()> {
    for major in [15, 17] {
        let scene = Scene::start(PostgresOptions::of(major), Store::local()?).await?;
        let session = scene.server.connect().await?;
        session.rows("CREATE TABLE v (n int, t text) WITH (autovacuum_enabled = off)").await?;
        session.rows("INSERT INTO v SELECT n, repeat('x', 300) FROM generate_series(1, 2000) AS n").await?;
        session.rows("CREATE INDEX ON v (n)").await?;
        session.rows("CHECKPOINT").await?;
        back_up(&scene, &[]).await?;
        session.rows("VACUUM v").await?;
        let second = back_up(&scene, &[]).await?;
        assert_eq!(method(&second), "summaries", "{second}");
        // A clear of the map's bits, and another backup.
        session.rows("DELETE FROM v WHERE n % 100 = 0").await?;
        let third = back_up(&scene, &[]).await?;
        assert_eq!(method(&third), "summaries", "{third}");
        scene.seal().await?;
        let restored = scene.restore(&["--latest"]).await?;
        let session = restored.server.connect().await?;
        session.rows("DELETE FROM v WHERE n % 50 = 0").await?;
        session.rows("SET enable_seqscan = off").await?;
        session.rows("SET enable_bitmapscan = off").await?;
        let by_index = session.value("SELECT count(n) FROM v WHERE n > 0").await?;
        session.rows("SET enable_indexscan = off").await?;
        session.rows("SET enable_indexonlyscan = off").await?;
        session.rows("SET enable_seqscan = on").await?;
        assert_eq!(by_index, session.value("SELECT count(t) FROM v WHERE n > 0").await?);
        assert_eq!(by_index, "1960");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_chain_of_backups_shares_outlives_files_that_come_and_go() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let session = scene.server.connect().await?;
    for statement in SETUP.split(';').filter(|statement| !statement.trim().is_empty()) {
        session.rows(statement).await?;
    }
    session.rows("CREATE DATABASE copied STRATEGY file_copy").await?;
    back_up(&scene, &[]).await?;
    let rounds: [&[&str]; 5] = [
        &["TRUNCATE cut", "INSERT INTO cut SELECT n, 'x' FROM generate_series(1, 3000) AS n", "VACUUM FULL many"],
        &[
            "CREATE DATABASE logged STRATEGY wal_log",
            "CREATE DATABASE files STRATEGY file_copy",
            "DROP DATABASE copied",
        ],
        &[
            "DROP TABLE cut",
            "CREATE TABLE cut AS SELECT n, 'y'::text AS t FROM generate_series(1, 4000) AS n",
            "CHECKPOINT",
        ],
        &[
            "ALTER TABLE cut SET UNLOGGED",
            "ALTER TABLE cut SET LOGGED",
            "CLUSTER many USING many_n_idx",
            "REINDEX TABLE many",
        ],
        &["UPDATE many SET t = upper(t) WHERE n % 3 = 0", "DELETE FROM still WHERE n > 30000", "VACUUM still"],
    ];
    for statements in rounds {
        for statement in statements {
            session.rows(statement).await.with_context(|| (*statement).to_owned())?;
        }
        let backup = back_up(&scene, &[]).await?;
        assert_eq!(method(&backup), "summaries", "{backup}");
    }
    drop(session);
    // A crash in between, with what was not flushed.
    scene.server.execute("UPDATE many SET t = lower(t) WHERE n % 5 = 0").await?;
    scene.server.stop(StopMode::Immediate).await?;
    scene.server.run().await?;
    scene.server.execute("UPDATE many SET t = t || 'z' WHERE n % 7 = 0").await?;
    let backup = back_up(&scene, &[]).await?;
    assert_eq!(method(&backup), "summaries", "{backup}");
    restores_equal(&scene).await
}

async fn summaries(scene: &Scene) -> Result<SummaryStore> {
    let store = LocalStore::create(&scene.store.directory()?).await?;
    let repository = Repository::open(Arc::new(store)).await?;
    let lineages = repository.lineages(&"main".parse()?).await?;
    Ok(SummaryStore::new(lineages.into_iter().next().context("no lineage")?))
}

/// Makes every stored summary deny that a block was written, as if a decoder had overlooked it.
async fn make_summaries_lie(scene: &Scene) -> Result<()> {
    scene.server.execute("SELECT pg_switch_wal()").await?;
    let end = scene.seal().await?;
    let store = summaries(scene).await?;
    let size = store.lineage().lineage().wal_segment_size;
    let start = size.start_of(size.segment_of(end));
    let listed = wait::until("the segments have summaries", Duration::from_mins(1), async || {
        let listed = store.list(TimelineId::FIRST).await?;
        Ok(listed.iter().any(|summary| summary.key.to == start).then_some(listed))
    });
    for summary in listed.await? {
        let ReadSummary::Usable(mut told) = store.read(summary.key).await? else { anyhow::bail!("unusable") };
        told.blocks.relations.clear();
        store.delete(&[summary.key]).await?;
        store.put(&store.prepare(*told).await?).await?;
        // The agent runs as another user.
        let object = scene.store.directory()?.join(store.lineage().layout().summary(summary.key).as_str());
        std::fs::set_permissions(object, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn summaries_that_lie_are_found_out_by_the_sample() -> Result<()> {
    for options in [PostgresOptions::of(15), PostgresOptions::of(18)] {
        let scene = Scene::start(options, Store::local()?).await?;
        let session = scene.server.connect().await?;
        for statement in SETUP.split(';').filter(|statement| !statement.trim().is_empty()) {
            session.rows(statement).await?;
        }
        let whole = back_up(&scene, &["--fresh"]).await?;
        // Hints alone are no lie.
        session.rows("SELECT count(*) FROM many WHERE t <> ''").await?;
        let second = back_up(&scene, &[]).await?;
        assert_eq!(method(&second), "summaries", "{second}");
        ensure!(number(&second, "sampled_pages") > 1000, "{second}");

        session.rows("UPDATE many SET t = 'changed' || t WHERE n % 100 = 7").await?;
        make_summaries_lie(&scene).await?;
        let found_out = back_up(&scene, &[]).await?;
        assert_eq!(method(&found_out), "scan", "{found_out}");
        let reason = found_out.get("reason").and_then(Value::as_str).unwrap_or_default();
        ensure!(reason.contains("without a word in the WAL"), "{found_out}");
        ensure!(number(&found_out, "new_bytes") < number(&whole, "new_bytes") / 2, "{found_out} after {whole}");
        ensure!(scene.agent.log().contains("the WAL summaries call unchanged"), "no alarm");
        let status = scene.cli().json(["status"]).await?;
        ensure!(status.to_string().contains("without a word in the WAL"), "{status}");
        restores_equal(&scene).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_compared_where_wal_says_too_little() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    let session = scene.server.connect().await?;
    for statement in SETUP.split(';').filter(|statement| !statement.trim().is_empty()) {
        session.rows(statement).await?;
    }
    let whole = back_up(&scene, &["--fresh"]).await?;
    session.rows("ALTER SYSTEM SET full_page_writes = off").await?;
    session.rows("SELECT pg_reload_conf()").await?;
    session.rows("UPDATE many SET t = 'changed' || t WHERE n % 1000 = 7").await?;
    session.rows("ALTER SYSTEM SET full_page_writes = on").await?;
    session.rows("SELECT pg_reload_conf()").await?;
    session.rows("CHECKPOINT").await?;
    let scan = back_up(&scene, &[]).await?;
    assert_eq!(method(&scan), "scan", "{scan}");
    ensure!(number(&scan, "pages_read") >= number(&whole, "pages_read"), "{scan}");
    ensure!(number(&scan, "new_bytes") < number(&whole, "new_bytes") / 4, "{scan} after {whole}");
    let after = back_up(&scene, &[]).await?;
    assert_eq!(method(&after), "summaries", "{after}");

    // A summary that is gone is made again, of the WAL.
    session.rows("UPDATE many SET t = 'again' || t WHERE n % 500 = 3").await?;
    session.rows("SELECT pg_switch_wal()").await?;
    scene.seal().await?;
    let store = summaries(&scene).await?;
    let keys: Vec<_> = store.list(TimelineId::FIRST).await?.into_iter().map(|summary| summary.key).collect();
    store.delete(&keys).await?;
    let made = back_up(&scene, &[]).await?;
    assert_eq!(method(&made), "summaries", "{made}");
    restores_equal(&scene).await
}
