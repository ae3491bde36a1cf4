//! `pitr impact` against a workload that knows what it did, and `pitr find` for the mistakes in it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pitr_tests::{PostgresOptions, Scene, Store};
use serde_json::Value;

/// Rows inserted, updated, deleted, and truncations.
type Counts = (u64, u64, u64, u64);

/// What the workload did, by database and table.
#[derive(Debug, Default)]
struct Oracle(BTreeMap<String, Counts>);

impl Oracle {
    fn add(&mut self, table: &str, inserted: u64, updated: u64, deleted: u64) {
        let counts = self.0.entry(table.to_owned()).or_default();
        *counts = (counts.0 + inserted, counts.1 + updated, counts.2 + deleted, counts.3);
    }

    fn truncate(&mut self, table: &str) {
        self.0.entry(table.to_owned()).or_default().3 += 1;
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(u64::MAX)
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value.get(key).and_then(Value::as_array).with_context(|| format!("no {key} in {value}"))
}

fn table<'a>(impact: &'a Value, label: &str) -> Result<&'a Value> {
    let found = list(impact, "tables")?.iter().find(|table| table.get("label").and_then(Value::as_str) == Some(label));
    found.with_context(|| format!("no table {label} in {impact:#}"))
}

/// Tables with any count, by label.
fn counted(impact: &Value) -> Result<BTreeMap<String, Counts>> {
    let mut counted = BTreeMap::new();
    for table in list(impact, "tables")? {
        let label = table.get("label").and_then(Value::as_str).context("a table has no label")?;
        let counts =
            (number(table, "inserted"), number(table, "updated"), number(table, "deleted"), number(table, "truncated"));
        if counts != (0, 0, 0, 0) {
            let before = counted.insert(label.to_owned(), counts);
            ensure!(before.is_none(), "{label} is told twice");
        }
    }
    Ok(counted)
}

const BEFORE: &str = "
CREATE TABLE live (id serial PRIMARY KEY, n int, t text);
CREATE TABLE orders (id int PRIMARY KEY, n int);
CREATE TABLE blobs (id int, t text);
ALTER TABLE blobs ALTER COLUMN t SET STORAGE EXTERNAL;
CREATE TABLE emptied AS SELECT n FROM generate_series(1, 50) AS n;
CREATE TABLE gone (n int);
CREATE TABLE oldname (n int);
CREATE TABLE twice (n int);
CREATE TABLE wide AS SELECT n, n * 2 AS m FROM generate_series(1, 1000) AS n;
CREATE TABLE parts (n int) PARTITION BY LIST (n);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT 1 FROM generate_series(1, 5);
CREATE UNLOGGED TABLE volatile (n int);
CREATE SCHEMA shop;
CREATE TABLE shop.items (n int);
INSERT INTO live (n) SELECT 1 FROM generate_series(1, 100);
INSERT INTO orders SELECT n, 1 FROM generate_series(1, 100) AS n;";

/// What happens after the marker. Statements are committed one by one where there is no BEGIN.
const AFTER: [&str; 26] = [
    "INSERT INTO live (n) SELECT 2 FROM generate_series(1, 10)",
    "UPDATE live SET n = n + 1 WHERE id <= 30",
    "DELETE FROM live WHERE id BETWEEN 40 AND 44",
    "COPY orders (id) FROM PROGRAM 'seq 1001 3000'",
    "BEGIN; INSERT INTO orders VALUES (4001); SAVEPOINT a; INSERT INTO orders SELECT n FROM generate_series(5000, 5099) AS n;
     ROLLBACK TO a; INSERT INTO orders VALUES (4002); SAVEPOINT b; DELETE FROM orders WHERE id = 1; RELEASE b; COMMIT",
    "BEGIN; INSERT INTO orders SELECT n FROM generate_series(6000, 6999) AS n; UPDATE live SET n = 0; ROLLBACK",
    "INSERT INTO orders SELECT n, 0 FROM generate_series(98, 103) AS n ON CONFLICT (id) DO UPDATE SET n = 7",
    "INSERT INTO orders SELECT n, 0 FROM generate_series(98, 104) AS n ON CONFLICT DO NOTHING",
    "INSERT INTO blobs SELECT n, repeat(md5(n::text), 1000) FROM generate_series(1, 20) AS n",
    "CREATE TABLE made AS SELECT n FROM generate_series(1, 300) AS n",
    "CREATE TEMP TABLE scratch AS SELECT n FROM generate_series(1, 300) AS n; DROP TABLE scratch",
    "INSERT INTO volatile VALUES (1), (2)",
    "TRUNCATE emptied",
    "INSERT INTO emptied VALUES (1), (2)",
    "INSERT INTO gone VALUES (1), (2), (3)",
    "DROP TABLE gone",
    "INSERT INTO oldname VALUES (1), (2)",
    "ALTER TABLE oldname RENAME TO newname",
    "INSERT INTO newname VALUES (3), (4), (5)",
    "BEGIN; TRUNCATE twice; INSERT INTO twice VALUES (1); TRUNCATE twice; INSERT INTO twice VALUES (2), (3); COMMIT",
    "ALTER TABLE wide ALTER COLUMN m TYPE bigint",
    "UPDATE wide SET m = 0 WHERE n <= 10",
    "VACUUM FULL live",
    "UPDATE parts SET n = 2 WHERE ctid IN (SELECT ctid FROM parts_1 LIMIT 2)",
    "ALTER SCHEMA shop RENAME TO store",
    "INSERT INTO store.items VALUES (1)",
];

fn expected() -> Oracle {
    let mut oracle = Oracle::default();
    let name = |table: &str| format!("postgres: public.{table}");
    oracle.add(&name("live"), 10, 30, 5);
    oracle.add(&name("orders"), 2000, 0, 0);
    oracle.add(&name("orders"), 2, 0, 1);
    oracle.add(&name("orders"), 3, 3, 0);
    oracle.add(&name("orders"), 1, 0, 0);
    oracle.add(&name("blobs"), 20, 0, 0);
    oracle.add(&name("made"), 300, 0, 0);
    oracle.truncate(&name("emptied"));
    oracle.add(&name("emptied"), 2, 0, 0);
    oracle.add(&name("gone"), 3, 0, 0);
    oracle.add(&name("oldname"), 5, 0, 0);
    oracle.truncate(&name("twice"));
    oracle.truncate(&name("twice"));
    oracle.add(&name("twice"), 3, 0, 0);
    oracle.add(&name("wide"), 0, 10, 0);
    oracle.add(&name("parts_1"), 0, 0, 2);
    oracle.add(&name("parts_2"), 2, 0, 0);
    oracle.add("postgres: shop.items", 1, 0, 0);
    // Begun before the marker and committed after it.
    oracle.add(&name("crossing"), 11, 0, 0);
    oracle.add(&name("prepared"), 4, 0, 0);
    oracle.add("other: public.notes", 2, 0, 0);
    oracle
}

async fn counts_are_exact(options: PostgresOptions) -> Result<()> {
    let options = options.conf("max_prepared_transactions = 5").conf("autovacuum = off").wal_segment_mb(1);
    let scene = Scene::start(options, Store::local()?).await?;
    let server = &scene.server;
    server.execute(BEFORE).await?;
    server.execute("CREATE TABLE crossing (n int); CREATE TABLE prepared (n int); CREATE TABLE stuck (n int)").await?;
    let crossing = server.connect().await?;
    crossing.batch_execute("BEGIN; INSERT INTO crossing SELECT generate_series(1, 6)").await?;
    server.execute("BEGIN; INSERT INTO prepared SELECT generate_series(1, 4); PREPARE TRANSACTION 'later'").await?;
    server.execute("BEGIN; INSERT INTO stuck VALUES (1); PREPARE TRANSACTION 'never'").await?;
    // Some segments between the transactions' begin and the marker.
    server.execute("INSERT INTO blobs SELECT n, repeat(md5(n::text), 1000) FROM generate_series(1, 100) AS n").await?;
    server.execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
    server.execute("UPDATE live SET n = 5 WHERE id = 1").await?;
    scene.cli().run(["mark", "release-42"]).await?.success()?;
    let session = server.connect().await?;
    for statement in AFTER {
        session.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    crossing.batch_execute("INSERT INTO crossing SELECT generate_series(1, 5); COMMIT").await?;
    server.execute("COMMIT PREPARED 'later'").await?;
    server.execute("CREATE DATABASE other").await?;
    let other = server.connect_to("other").await?;
    other.batch_execute("CREATE TABLE notes (n int)").await?;
    other.batch_execute("INSERT INTO notes VALUES (1), (2)").await?;
    scene.seal().await?;
    let impact = scene.cli().json(["impact", "--before", "release-42"]).await?;
    assert_eq!(counted(&impact)?, expected().0, "{impact:#}");

    assert_eq!(table(&impact, "postgres: public.gone")?.get("exists"), Some(&Value::Bool(false)));
    let renamed = table(&impact, "postgres: public.oldname")?;
    assert_eq!(renamed.pointer("/renamed_to/name").and_then(Value::as_str), Some("newname"));
    assert_eq!(number(table(&impact, "postgres: public.wide")?, "rewritten"), 1000, "{impact:#}");
    let traffic = |label: &str| Ok::<_, anyhow::Error>(table(&impact, label)?.get("traffic").cloned());
    assert_eq!(traffic("postgres: public.live")?, Some("live".into()));
    assert_eq!(traffic("postgres: public.orders")?, Some("live".into()));
    assert_eq!(traffic("postgres: public.made")?, Some("only".into()));
    let sequences: Vec<_> = list(&impact, "sequences")?.iter().filter_map(|s| s.get("name")?.as_str()).collect();
    assert_eq!(sequences, ["live_id_seq"]);
    // No temporary table is told of.
    let ddl = format!("{:?}", list(&impact, "ddl")?);
    for word in ["scratch", "pg_temp"] {
        assert!(!ddl.contains(word), "{word}: {ddl}");
    }

    // Up to a moment within it, and from a moment that is the end.
    let end = scene.cli().json(["impact", "--latest"]).await?;
    assert_eq!((number(&end["transactions"], "commits"), counted(&end)?.len()), (0, 0), "{end:#}");
    let text = scene.cli().run(["impact", "--before", "release-42"]).await?.success()?;
    for word in ["public.gone", "now public.newname", "truncated 2 times", "dropped table public.gone"] {
        assert!(text.stdout.contains(word), "{word} is not in\n{}", text.stdout);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impact_counts_exactly_on_13() -> Result<()> {
    counts_are_exact(PostgresOptions::of(13).conf("wal_compression = on")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impact_counts_exactly_on_15() -> Result<()> {
    counts_are_exact(PostgresOptions::of(15).conf("wal_compression = lz4")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impact_counts_exactly_on_17() -> Result<()> {
    counts_are_exact(PostgresOptions::of(17).conf("wal_level = logical")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impact_counts_exactly_on_18() -> Result<()> {
    counts_are_exact(PostgresOptions::of(18)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_needs_nothing_else_and_activity_adds_up() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15).conf("autovacuum = off"), Store::local()?).await?;
    scene.server.execute("CREATE TABLE \"<script>\" (n int)").await?;
    scene.cli().run(["mark", "one"]).await?.success()?;
    for n in 0..20 {
        scene.server.execute(&format!("INSERT INTO \"<script>\" VALUES ({n})")).await?;
    }
    scene.cli().run(["mark", "two"]).await?.success()?;
    scene.server.execute("DROP TABLE \"<script>\"").await?;
    scene.seal().await?;
    let file = scene.next_directory().with_extension("html").display().to_string();
    let impact = scene.cli().json(["impact", "--before", "one", "--to", "before:two", "--html", &file]).await?;
    assert_eq!(number(&impact["transactions"], "commits"), 20, "{impact:#}");
    let buckets = list(&impact["activity"], "buckets")?;
    assert_eq!(buckets.iter().map(|bucket| number(bucket, "commits")).sum::<u64>(), 20);
    assert_eq!(number(table(&impact, "postgres: public.<script>")?, "inserted"), 20);
    let page = std::fs::read_to_string(&file)?;
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && page.contains("prefers-color-scheme"));
    for word in ["<script", "http:", "https:", "src=", "url(", "@import"] {
        assert!(!page.contains(word), "{word}");
    }
    // The other way round there is nothing to tell.
    scene.cli().run(["impact", "--before", "two", "--to", "before:one"]).await?.code(2)?.says(&["comes before"])?;
    scene.cli().run(["impact", "--before", "three"]).await?.code(3)?;
    Ok(())
}
