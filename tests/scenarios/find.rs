//! `pitr find`: the moment of a mistake, and the way back to just before it.

use anyhow::{Context, Result};
use pitr_tests::{PostgresOptions, Scene, Store};
use serde_json::Value;

fn kinds(found: &Value) -> Result<Vec<(String, String)>> {
    let moments = found.get("moments").and_then(Value::as_array).context("no moments")?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(moments
        .iter()
        .map(|moment| {
            let name = moment.pointer("/actions/0/name").or_else(|| moment.pointer("/table/name"));
            (text(moment.get("kind")), text(name))
        })
        .collect())
}

/// The target in the command that was proposed.
fn target(found: &Value, at: usize) -> Result<Vec<String>> {
    let command = found.pointer(&format!("/moments/{at}/restore")).and_then(Value::as_str).context("no command")?;
    let words = command.strip_prefix("pitr restore ").and_then(|rest| rest.strip_suffix(" --into DIR"));
    Ok(words.with_context(|| command.to_owned())?.split(' ').map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_found_and_undone() -> Result<()> {
    let options = PostgresOptions::of(17).conf("autovacuum = off").wal_segment_mb(1);
    let scene = Scene::start(options, Store::local()?).await?;
    let server = &scene.server;
    server.execute("CREATE TABLE orders AS SELECT n FROM generate_series(1, 1000) AS n").await?;
    server.execute("CREATE TABLE items AS SELECT n FROM generate_series(1, 5000) AS n").await?;
    server.execute("CREATE TABLE log (n int); CREATE TABLE log_old (n int); INSERT INTO log VALUES (1)").await?;
    scene.cli().run(["mark", "release-42"]).await?.success()?;
    server.execute("DELETE FROM items WHERE n <= 10").await?;
    // Over several segments, and in parts.
    server
        .execute(
            "BEGIN; DELETE FROM items WHERE n BETWEEN 11 AND 300; CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS t
             FROM generate_series(1, 20000) AS n; SAVEPOINT a; DELETE FROM items WHERE n BETWEEN 301 AND 600; COMMIT",
        )
        .await?;
    server.execute("BEGIN; DELETE FROM items; ROLLBACK").await?;
    server.execute("BEGIN; DROP TABLE orders; ROLLBACK").await?;
    server.execute("TRUNCATE log").await?;
    server.execute("DROP TABLE orders, log_old").await?;
    server.execute("CREATE TABLE orders (n int)").await?;
    scene.seal().await?;
    let cli = scene.cli();
    let found = cli.json(["find", "--dropped", "orders", "--truncated", "--mass-delete", "500"]).await?;
    let expected = [("mass_delete", "items"), ("truncated", "log"), ("dropped", "orders")];
    assert_eq!(kinds(&found)?, expected.map(|(kind, name)| (kind.to_owned(), name.to_owned())), "{found:#}");
    assert_eq!(found.pointer("/moments/0/rows").and_then(Value::as_u64), Some(590), "{found:#}");

    let from = ["--from", "before:release-42", "--to", "latest"];
    let pattern = cli.json(["find", "--dropped", "public.log*"].iter().chain(&from)).await?;
    assert_eq!(kinds(&pattern)?, [("dropped".to_owned(), "log_old".to_owned())]);
    let ddl = cli.json(["find", "--ddl"].iter().chain(&from)).await?;
    assert_eq!(kinds(&ddl)?.len(), 4, "{ddl:#}");
    let nothing = cli.run(["find", "--dropped", "nosuch"]).await?.success()?;
    assert!(nothing.stdout.starts_with("nothing found"), "{nothing:?}");
    cli.run(["find"]).await?.code(2)?;

    let words = target(&found, 2)?;
    let restored = scene.restore(&words.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM orders").await?, "1000");
    assert_eq!(restored.server.value("SELECT count(*) FROM log").await?, "0");
    Ok(())
}
