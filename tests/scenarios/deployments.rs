//! Deployments: what markers, their finishes and restores for real add up to.

use anyhow::{Context, Result};
use chrono::TimeDelta;
use pitr::clock::{Clock, SystemClock};
use pitr_tests::{PostgresOptions, Scene, Scratch, Store};
use serde_json::{Value, json};

fn at<'a>(report: &'a Value, pointer: &str) -> Result<&'a Value> {
    report.pointer(pointer).with_context(|| format!("no {pointer} in {report:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_counts_what_was_finished_and_what_was_undone() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let nothing = scene.cli().json(["report"]).await?;
    assert_eq!(at(&nothing, "/overall/deployments")?, 0);
    let told = scene.cli().run(["report"]).await?.success()?.stdout;
    assert!(told.contains("pitr finish"), "{told}");

    let committed = (SystemClock.now() - TimeDelta::hours(2)).to_rfc3339();
    let meta = format!("commit_time={committed}");
    scene.cli().run(["mark", "release-1", "--meta", &meta]).await?.success()?;
    scene.server.execute("CREATE TABLE orders (n int)").await?;
    scene.cli().run(["finish", "release-1", "--ok"]).await?.success()?;
    scene.cli().run(["mark", "release-2", "--meta", "commit_time=yesterday"]).await?.success()?;
    scene.server.execute("DROP TABLE orders").await?;
    scene.cli().run(["finish", "release-2", "--failed"]).await?.success()?;
    scene.cli().run(["mark", "release-3"]).await?.success()?;
    scene.cli().run(["mark", "only-a-moment"]).await?.success()?;
    scene.seal().await?;
    let before = scene.cli().json(["report"]).await?;
    assert_eq!((at(&before, "/overall/failed")?, at(&before, "/overall/not_recovered")?), (&json!(1), &json!(1)));

    drop(scene.restore(&["--before", "release-2"]).await?);
    drop(scene.restore(&["--before", "release-3"]).await?);
    let scratch = Scratch::new()?;
    let page = scratch.path().join("report.html");
    let run = scene.cli().run(["report", "--json", "--html", &page.display().to_string()]).await?.success()?;
    let report = run.json()?;
    let results: Vec<_> = at(&report, "/deployments")?
        .as_array()
        .context("no list")?
        .iter()
        .map(|one| (one["name"].clone(), one["result"].clone(), one["recovered"]["restore"].is_string()))
        .collect();
    assert_eq!(
        results,
        [
            (json!("release-1"), json!("ok"), false),
            (json!("release-2"), json!("failed"), true),
            (json!("release-3"), json!("undone"), true),
        ],
        "{report:#}"
    );
    assert_eq!(at(&report, "/overall/not_recovered")?, 0);
    assert_eq!(at(&report, "/unfinished_markers")?, 1);
    let lead = at(&report, "/overall/lead_time/median_seconds")?.as_i64().context("no number")?;
    assert!(lead >= 7200, "{lead}");
    assert!(at(&report, "/problems/0")?.as_str().is_some_and(|text| text.contains("yesterday")), "{report:#}");
    let page = std::fs::read_to_string(&page)?;
    assert!(page.contains("release-3") && page.contains("undone by a restore"), "{page}");
    scene.cli().run(["report", "--html", "/nowhere/report.html"]).await?.code(1)?.says(&["/nowhere/report.html"])?;
    scene.cli().run(["report", "--since", "whenever"]).await?.code(2)?;
    Ok(())
}
