//! WAL summaries beside the segments: of every one of them, and what a decoder that reads them afresh would say.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::summary_store::ReadSummary;
use pitr::repository::{LineageStore, Repository, SummaryStore, WalStore};
use pitr::storage::LocalStore;
use pitr::summarize::{Built, StoredSummaries, Stretch, Survey};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Ledger, PostgresOptions, Scene, StopMode, Store, seed, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

async fn lineage(scene: &Scene) -> Result<LineageStore> {
    let store = LocalStore::create(&scene.store.directory()?).await?;
    let repository = Repository::open(Arc::new(store)).await?;
    let lineages = repository.lineages(&"main".parse()?).await?;
    lineages.into_iter().next().context("no lineage")
}

/// Compares every summary with one that is built from the stored WAL now. Returns how many there are.
async fn compare(lineage: &LineageStore) -> Result<usize> {
    let wal = WalStore::new(lineage.clone());
    let summaries = SummaryStore::new(lineage.clone());
    let survey = Survey::take(&wal, |_| true).await?;
    let mut compared = 0;
    for timeline in &survey.timelines {
        for listed in &timeline.stored {
            let ReadSummary::Usable(stored) = summaries.read(listed.key).await? else {
                anyhow::bail!("{:?} cannot be used", listed.key)
            };
            let stretch = Stretch { from: listed.key.from, to: listed.key.to };
            let mut afresh = StoredSummaries::new(wal.clone(), timeline.timeline, timeline.begin, vec![stretch])?;
            match afresh.next().await? {
                Some(Built::Summary(built)) => ensure!(built == stored, "{stretch:?}:\n{built:#?}\n{stored:#?}"),
                other => anyhow::bail!("{stretch:?}: {other:?}"),
            }
            compared += 1;
        }
    }
    Ok(compared)
}

/// Waits until every whole segment before the one that `end` is in has a summary.
async fn all_summarized(scene: &Scene, end: Lsn) -> Result<()> {
    let wal = WalStore::new(lineage(scene).await?);
    let waited = wait::until("every segment has its summary", Duration::from_mins(2), async || {
        let survey = Survey::take(&wal, |_| true).await?;
        let size = survey.segment_size;
        let begun = size.start_of(size.segment_of(end));
        let missing = survey.timelines.iter().flat_map(|timeline| &timeline.missing);
        // The last one's last record may not be written yet; what ends within a segment was left there.
        let due = |stretch: &&Stretch| stretch.to < begun || size.offset_of(stretch.to) != 0;
        let missing = missing.filter(due).count();
        Ok((missing == 0).then_some(()))
    });
    waited.await.with_context(|| scene.agent.log())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_again_and_again_leaves_no_segment_without_its_summary() -> Result<()> {
    let seed = seed::of_this_run();
    let mut rng = StdRng::seed_from_u64(seed);
    let options = PostgresOptions::of(15).wal_segment_mb(1);
    let mut scene = Scene::start(options, Store::local()?).await?;
    Ledger::create(&scene.server).await?;
    scene.seal().await?;
    scene.server.execute("CREATE TABLE bulk (n int PRIMARY KEY, t text)").await?;
    let mut load = Load::new(3, seed);
    load.pause = Duration::from_millis(2);
    for round in 0..8 {
        let writers = Writers::start(&scene.server, load).await?;
        let from = round * 10_000;
        let bulk = format!(
            "INSERT INTO bulk SELECT n, repeat(md5(n::text), 8) FROM generate_series({from}, {}) AS n",
            from + 9_999
        );
        scene.server.execute(&bulk).await?;
        writers.more(rng.random_range(5..60)).await?;
        if rng.random_bool(0.3) {
            scene.server.execute("SELECT pg_switch_wal()").await?;
        }
        scene.agent.kill()?;
        writers.more(rng.random_range(1..30)).await?;
        writers.stop().await?;
        scene.agent.run()?;
    }
    let end = scene.seal().await?;
    all_summarized(&scene, end).await?;
    let lineage = lineage(&scene).await?;
    let compared = compare(&lineage).await?;
    assert!(compared > 10, "{compared}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_or_damaged_is_told_and_repaired() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17).wal_segment_mb(1), Store::local()?).await?;
    scene
        .server
        .execute("CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS t FROM generate_series(1, 60000) AS n")
        .await?;
    let end = scene.seal().await?;
    all_summarized(&scene, end).await?;
    scene.agent.stop(Duration::from_secs(30)).await?;
    scene.cli().run(["verify"]).await?.success()?;
    let lineage = lineage(&scene).await?;
    let summaries = SummaryStore::new(lineage.clone());
    let listed = summaries.list(TimelineId::FIRST).await?;
    ensure!(listed.len() > 8, "{listed:?}");
    summaries.delete(&[listed[1].key, listed[2].key]).await?;
    let directory = scene.store.directory()?;
    let damaged = directory.join(lineage.layout().summary(listed[4].key).as_str());
    std::fs::write(&damaged, b"no summary")?;
    let run = scene.cli().run(["verify", "--json"]).await?.code(5)?;
    let timeline = run.json()?.pointer("/lineages/0/timelines/0").cloned().context("no timeline")?;
    let count = |key: &str| timeline.get(key).and_then(serde_json::Value::as_array).map_or(0, Vec::len);
    assert_eq!((count("missing"), count("unusable")), (3, 1), "{timeline}");
    scene.cli().run(["verify", "--repair-summaries"]).await?.success()?;
    scene.cli().run(["verify"]).await?.success()?;
    assert_eq!(compare(&lineage).await?, listed.len());

    // WAL that cannot be read has no summary, and that is said.
    let segment = survey_segment(&lineage, listed[5].key.from);
    std::fs::write(directory.join(segment.as_str()), b"no segment")?;
    summaries.delete(&[listed[5].key]).await?;
    let run = scene.cli().run(["verify", "--repair-summaries", "--json"]).await?.code(5)?;
    let reason = run.json()?.pointer("/lineages/0/timelines/0/damaged/0/reason").cloned();
    assert!(reason.is_some(), "{run:?}");
    Ok(())
}

fn survey_segment(lineage: &LineageStore, lsn: Lsn) -> pitr::storage::ObjectKey {
    let size = lineage.lineage().wal_segment_size;
    lineage.layout().segment(size.segment_of(lsn).name(TimelineId::FIRST, size))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn summaries_meet_where_a_timeline_was_left() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    let mut standby = scene.server.standby().await?;
    scene.server.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").await?;
    scene.server.execute("SELECT pg_create_restore_point('before the switch')").await?;
    standby.catch_up_with(&scene.server).await?;
    scene.seal().await?;
    scene.agent.kill()?;
    scene.server.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    std::mem::swap(&mut scene.server, &mut standby);
    drop(standby);
    scene.agent.reconfigure(&scene.store.options(&scene.server))?;
    scene.agent.run()?;
    scene.server.execute("SELECT pg_create_restore_point('after the switch')").await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    let end = scene.seal().await?;
    all_summarized(&scene, end).await?;
    let lineage = lineage(&scene).await?;
    let survey = Survey::take(&WalStore::new(lineage.clone()), |_| true).await?;
    let [first, second] = survey.timelines.as_slice() else { anyhow::bail!("{survey:?}") };
    let last = first.stored.last().context("the first timeline has no summary")?;
    assert_eq!(last.key.to, second.begin);
    assert_eq!(second.stored.first().map(|listed| listed.key.from), Some(second.begin));
    compare(&lineage).await?;
    let listed = scene.cli().json(["markers"]).await?;
    let markers = listed.get("markers").and_then(serde_json::Value::as_array).context("no markers")?;
    let timelines: Vec<_> =
        markers.iter().map(|marker| marker.get("timeline").and_then(serde_json::Value::as_u64)).collect();
    assert_eq!(timelines, [Some(1), Some(2)], "{markers:#?}");
    Ok(())
}
