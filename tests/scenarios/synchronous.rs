//! `[wal] synchronous`: a commit that was answered is in the repository, whatever happens to the host.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use pitr::storage::KeyPrefix;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{
    Agent, AgentOptions, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, S3Server, Scene, StopMode, Store,
};
use pitr_tests::{s3, seed, wait};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ROUNDS: u32 = 20;
/// More of them than this would mean that nothing folds them.
const MOST_TAILS: usize = 120;

const WAITS: &str = "ALTER SYSTEM SET synchronous_standby_names = 'pitr_main'";
const IS_SYNCHRONOUS: &str = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pitr_main' AND sync_state = 'sync' AND state = 'streaming'";

/// From now on commits wait.
async fn wait_for_the_repository(server: &Postgres) -> Result<()> {
    server.execute(WAITS).await?;
    server.execute("SELECT pg_reload_conf()").await?;
    wait::until("the agent is a synchronous standby", Duration::from_mins(1), async || {
        Ok((server.value(IS_SYNCHRONOUS).await? == "1").then_some(()))
    })
    .await
}

async fn tails(store: &Store, repository: &str) -> Result<usize> {
    let listed: Vec<_> = store.open(repository, None).await?.list(&KeyPrefix::root()).try_collect().await?;
    Ok(listed.iter().filter(|meta| meta.key.as_str().contains(".tail/")).count())
}

fn synchronous(options: AgentOptions) -> AgentOptions {
    options.set("wal", "synchronous = true")
}

async fn nothing_is_lost(mut store: Store, latency: Duration) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed::of_this_run());
    let options = PostgresOptions::of(15).conf("autovacuum = off").conf("dynamic_shared_memory_type = mmap");
    let mut template = Postgres::start(options).await?;
    Ledger::create(&template).await?;
    template.stop(StopMode::Fast).await?;
    let proxy = match &store {
        Store::Local(_) => None,
        Store::S3(server) => Some(FaultProxy::start(server.address()).await?),
    };
    if let Some(proxy) = &proxy {
        proxy.set(Fault::Delay(latency));
    }
    let mut commits = 0;
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        let server = template.twin().await?;
        let options = match &proxy {
            None => AgentOptions::local(&server, &store.directory()?.join(&name)),
            Some(proxy) => AgentOptions::s3(&server, &proxy.endpoint()).replace(
                "repository",
                "url",
                format!("url = \"s3://{}/{name}\"", s3::BUCKET),
            ),
        };
        let mut scene = Scene::with(server, store, &synchronous(options)).await?;
        wait_for_the_repository(&scene.server).await?;
        let mut load = Load::new(4, rng.random());
        load.pause = Duration::from_millis(5);
        let writers = Writers::start(&scene.server, load).await?;
        writers.more(rng.random_range(20..120)).await?;
        if rng.random_bool(0.2) {
            scene.server.execute("SELECT pg_switch_wal()").await?;
        }
        writers.more(rng.random_range(5..40)).await?;
        scene.lose_host()?;
        let ledger = writers.stop().await?;
        let restored = scene.restore(&["--latest"]).await?;
        let found = Ledger::read(&restored.server.connect().await?).await?;
        let lost: BTreeSet<i64> = ledger.acknowledged().difference(&found).copied().collect();
        ensure!(lost.is_empty(), "round {round}: acknowledged, and lost: {lost:?}");
        commits += ledger.entries().len();
        drop(restored);
        let place = if proxy.is_some() { name } else { format!("repository/{name}") };
        let standing = tails(&scene.store, &place).await?;
        ensure!(standing <= MOST_TAILS, "round {round}: {standing} tails");
        let Scene { store: kept, .. } = scene;
        store = kept;
    }
    ensure!(commits > 500, "only {commits} commits");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_lost_hosts_lose_no_acknowledged_commit_with_a_local_repository() -> Result<()> {
    nothing_is_lost(Store::local()?, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_lost_hosts_lose_no_acknowledged_commit_with_a_distant_s3() -> Result<()> {
    nothing_is_lost(Store::s3().await?, Duration::from_millis(10)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_stops_commits_and_its_end_lets_them_go_on() -> Result<()> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.address()).await?;
    let server = Postgres::start(PostgresOptions::of(17)).await?;
    let options = synchronous(AgentOptions::s3(&server, &proxy.endpoint()));
    let scene = Scene::with(server, Store::S3(Box::new(store)), &options).await?;
    Ledger::create(&scene.server).await?;
    wait_for_the_repository(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(3, 37)).await?;
    writers.more(30).await?;
    proxy.set(Fault::SlowDown);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait::until("all writers wait", Duration::from_mins(1), async || {
        Ok((scene.server.value(waiting).await? == "3").then_some(()))
    })
    .await?;
    proxy.set(Fault::None);
    writers.more(30).await?;
    let ledger = writers.stop().await?;
    let restored = scene.restore(&["--latest"]).await?;
    let found = Ledger::read(&restored.server.connect().await?).await?;
    ensure!(ledger.acknowledged().is_subset(&found), "{:?}", ledger.acknowledged().difference(&found));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_never_wait_for_an_agent_that_is_not_meant_to_be_waited_for() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(17)).await?;
    let store = Store::local()?;
    let (plain, waited_for) = (store.options(&server), synchronous(store.options(&server)));
    for names in ["*", "\"pitr-agent\""] {
        server.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await?;
        server.execute("SELECT pg_reload_conf()").await?;
        wait::until("the setting counts", Duration::from_secs(30), async || {
            Ok((server.value("SHOW synchronous_standby_names").await? == names).then_some(()))
        })
        .await?;
        let (code, said) = Agent::other(&plain, &["check"])?;
        ensure!(code != 0 && said.contains("synchronous_standby_names"), "{names}: {said}");
        let mut agent = Agent::spawn(&plain)?;
        let (code, said) = agent.ends(Duration::from_mins(1)).await?;
        ensure!(code != 0 && said.contains("synchronous_standby_names"), "{names}: {said}");
    }
    let (code, said) = Agent::other(&waited_for, &["check"])?;
    ensure!(code == 0 || said.contains("does not include"), "{said}");
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'pitr_main'").await?;
    server.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'").await?;
    server.execute("SELECT pg_reload_conf()").await?;
    wait::until("the setting counts", Duration::from_secs(30), async || {
        Ok((server.value("SHOW synchronous_commit").await? == "remote_apply").then_some(()))
    })
    .await?;
    let (code, said) = Agent::other(&waited_for, &["check"])?;
    ensure!(code != 0 && said.contains("remote_apply"), "{said}");
    let mut agent = Agent::spawn(&waited_for)?;
    let (code, said) = agent.ends(Duration::from_mins(1)).await.context("it did not refuse")?;
    ensure!(code != 0 && said.contains("remote_apply"), "{said}");
    Ok(())
}
