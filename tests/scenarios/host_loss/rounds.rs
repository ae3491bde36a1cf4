//! Agent and server are killed under load, the data directory is gone: twenty times.
//!
//! A commit counts as old when it was acknowledged longer ago than the product promises it takes to become durable. The promise
//! is for a machine that lets the product run, so the time in which this one did not, by the kernel's account and by an object
//! that the test puts into the same store, is added to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use pitr::clock::{Clock, SystemClock};
use pitr_tests::ledger::{Entry, Load, Writers};
use pitr_tests::yardstick::Yardstick;
use pitr_tests::{
    AgentOptions, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, S3Server, Scene, StopMode, Store, seed,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ROUNDS: u32 = 20;
/// Beyond the flush interval.
const UPLOAD: Duration = Duration::from_millis(500);
const FLUSH_INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(200)];
/// However starved: a round must have an end.
const LONGEST_LOAD: Duration = Duration::from_secs(30);

/// What is asserted of the lost end, over all rounds.
#[derive(Debug, Default)]
struct Tally {
    old: usize,
    old_and_lost: usize,
    /// By how many seconds the newest commit that is there precedes the loss, by round.
    behind: Vec<f64>,
    starved: Vec<f64>,
}

/// Demands that `found` is the ledger up to some moment.
fn is_a_prefix(ledger: &Ledger, found: &BTreeSet<i64>) -> Result<()> {
    let invented = found.iter().find(|id| !ledger.acknowledged().contains(id) && !ledger.unanswered().contains(id));
    ensure!(invented.is_none(), "never committed, and there: {invented:?}");
    // Whatever certainly ended before something that is there began to commit must be there.
    let last = ledger.entries().iter().filter(|entry| found.contains(&entry.id)).map(|entry| entry.before).max();
    let lost = |entry: &&Entry| !found.contains(&entry.id);
    if let Some(last) = last {
        let hole = ledger.entries().iter().filter(lost).find(|entry| entry.after <= last);
        ensure!(hole.is_none(), "a commit that began at {last} is there, and not {hole:?}");
    }
    let mut first_lost: BTreeMap<u32, i64> = BTreeMap::new();
    for entry in ledger.entries().iter().filter(lost) {
        first_lost.entry(entry.writer).or_insert(entry.id);
    }
    let behind = |entry: &&Entry| first_lost.get(&entry.writer).is_some_and(|first| entry.id > *first);
    let hole = ledger.entries().iter().filter(|entry| found.contains(&entry.id)).find(behind);
    ensure!(hole.is_none(), "its writer lost an earlier commit: {hole:?}");
    Ok(())
}

/// What all rounds share.
struct Stage {
    /// Stopped, with the ledger's tables, to be copied.
    template: Postgres,
    latency: Duration,
    proxy: Option<FaultProxy>,
}

impl Stage {
    async fn new(store: &Store, latency: Duration) -> Result<Self> {
        let options = PostgresOptions::of(15)
            .conf("autovacuum = off")
            // Goes with the data directory.
            .conf("dynamic_shared_memory_type = mmap");
        let mut template = Postgres::start(options).await?;
        Ledger::create(&template).await?;
        template.stop(StopMode::Fast).await?;
        let proxy = match store {
            Store::Local(_) => None,
            Store::S3(server) => Some(FaultProxy::start(server.address()).await?),
        };
        if let Some(proxy) = &proxy {
            proxy.set(if latency.is_zero() { Fault::None } else { Fault::Delay(latency) });
        }
        Ok(Self { template, latency, proxy })
    }

    fn endpoint(&self) -> Option<String> {
        self.proxy.as_ref().map(FaultProxy::endpoint)
    }

    /// With a repository of the round's own.
    fn options(&self, server: &Postgres, store: &Store, round: u32, flush_interval: Duration) -> Result<AgentOptions> {
        let options = match store {
            Store::Local(_) => AgentOptions::local(server, &store.directory()?.join(format!("round-{round}"))),
            Store::S3(_) => AgentOptions::s3(server, &self.endpoint().context("no proxy")?).replace(
                "repository",
                "url",
                format!("url = \"s3://{}/round-{round}\"", pitr_tests::s3::BUCKET),
            ),
        };
        Ok(options.set("wal", format!("flush_interval = \"{}ms\"", flush_interval.as_millis())))
    }

    fn watch(&self, scene: &Scene, store: std::sync::Arc<dyn pitr::storage::ObjectStore>, walsender: u32) -> Yardstick {
        // The store, and the proxy, which runs in the test itself, are met by the yardstick's own objects.
        let mut processes = vec![walsender];
        processes.extend(scene.agent.pid());
        Yardstick::start(processes, store, self.latency)
    }

    /// Gives the store back.
    async fn round(&self, store: Store, round: u32, rng: &mut StdRng, tally: &mut Tally) -> Result<Store> {
        let flush_interval = FLUSH_INTERVALS[usize::from(rng.random_bool(0.5))];
        let server = self.template.twin().await?;
        let options = self.options(&server, &store, round, flush_interval)?;
        let mut scene = Scene::with(server, store, &options).await?;
        if let Store::Local(scratch) = &scene.store {
            scratch.directory(&format!("yardstick-{round}"))?;
        }
        let yard = scene.store.open(&format!("yardstick-{round}"), self.endpoint().as_deref()).await;
        let walsender = "SELECT pid FROM pg_stat_replication WHERE application_name LIKE 'pitr%' LIMIT 1";
        let walsender: u32 = scene.server.value(walsender).await?.parse()?;
        let yardstick = self.watch(&scene, yard?, walsender);

        let mut load = Load::new(3, rng.random());
        load.pause = Duration::from_millis(rng.random_range(1..20));
        let writers = Writers::start(&scene.server, load).await?;
        let bound = flush_interval + UPLOAD;
        let begun = std::time::Instant::now();
        let beyond = Duration::from_millis(rng.random_range(100..900));
        loop {
            writers.more(rng.random_range(1..20)).await?;
            if rng.random_bool(0.02) {
                scene.server.execute("SELECT pg_switch_wal()").await?;
            }
            if begun.elapsed() >= bound + yardstick.taken(bound) + beyond || begun.elapsed() >= LONGEST_LOAD {
                break;
            }
        }
        let starved = yardstick.taken(bound);
        let lost_at = scene.lose_host()?;
        drop(yardstick);
        let ledger = writers.stop().await?;

        let restored = scene.restore(&["--latest"]).await.with_context(|| format!("round {round}"))?;
        let found = Ledger::read(&restored.server.connect().await?).await?;
        is_a_prefix(&ledger, &found).with_context(|| format!("round {round}"))?;
        tally.count(&ledger, &found, lost_at, bound, starved)?;
        drop(restored);
        let Scene { store, .. } = scene;
        Ok(store)
    }
}

impl Tally {
    #[expect(clippy::print_stdout, reason = "figures of a test")]
    fn count(
        &mut self,
        ledger: &Ledger,
        found: &BTreeSet<i64>,
        lost_at: DateTime<Utc>,
        bound: Duration,
        starved: Duration,
    ) -> Result<()> {
        let since = lost_at - TimeDelta::from_std(bound + starved)?;
        let old = || ledger.entries().iter().filter(|entry| entry.answered <= since);
        let lost = old().filter(|entry| !found.contains(&entry.id)).count();
        let newest =
            ledger.entries().iter().filter(|entry| found.contains(&entry.id)).map(|entry| entry.answered).max();
        let behind = newest.map_or(f64::NAN, |newest| (lost_at - newest).as_seconds_f64());
        println!(
            "{} commits, {} old, {lost} of them lost; newest {behind:.3} s before the loss, bound {bound:?} and {starved:?}",
            ledger.entries().len(),
            old().count(),
        );
        self.old += old().count();
        self.old_and_lost += lost;
        self.behind.push(behind);
        self.starved.push(starved.as_secs_f64());
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "figures of a test")]
async fn only_the_end_is_lost(mut store: Store, latency: Duration) -> Result<()> {
    let seed = seed::of_this_run();
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = SystemClock.now();
    let stage = Stage::new(&store, latency).await?;
    let mut tally = Tally::default();
    for round in 0..ROUNDS {
        store = stage.round(store, round, &mut rng, &mut tally).await?;
    }
    println!("{tally:?} in {} s", (SystemClock.now() - begun).num_seconds());
    ensure!(tally.old > 100, "only {} commits were old enough to be counted", tally.old);
    let Tally { old, old_and_lost, .. } = tally;
    ensure!(old_and_lost * 100 <= old, "{old_and_lost} of {old} old commits are lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_lost_hosts_lose_only_the_end_with_a_local_repository() -> Result<()> {
    only_the_end_is_lost(Store::local()?, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_lost_hosts_lose_only_the_end_with_s3() -> Result<()> {
    only_the_end_is_lost(Store::S3(Box::new(S3Server::start().await?)), Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_lost_hosts_lose_only_the_end_with_a_distant_s3() -> Result<()> {
    only_the_end_is_lost(Store::s3().await?, Duration::from_millis(50)).await
}

mod oracle {
    use pitr::postgres::Lsn;

    use super::*;

    fn ledger(commits: &[(i64, u32, u64, u64)]) -> Ledger {
        let entry = |&(id, writer, before, after)| Entry {
            id,
            writer,
            xid: 0,
            before: Lsn::new(before),
            after: Lsn::new(after),
            answered: DateTime::UNIX_EPOCH,
            commit_time: None,
        };
        Ledger::of(commits.iter().map(entry).collect())
    }

    #[test]
    fn a_lost_commit_in_the_middle_is_found() {
        let ledger = ledger(&[(1, 0, 10, 20), (2, 1, 15, 30), (3, 0, 40, 50), (4, 1, 45, 60)]);
        for whole in [&[][..], &[1], &[1, 2], &[2], &[1, 2, 4], &[1, 2, 3, 4]] {
            let found = whole.iter().copied().collect();
            assert!(is_a_prefix(&ledger, &found).is_ok(), "{whole:?}");
        }
        for torn in [&[1, 3][..], &[2, 3], &[3], &[1, 4], &[9]] {
            let found = torn.iter().copied().collect();
            assert!(is_a_prefix(&ledger, &found).is_err(), "{torn:?}");
        }
    }
}
