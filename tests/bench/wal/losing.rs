//! From a commit to its being durable in the repository: what is lost with a host, and what it costs that nothing is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use pitr::postgres::Lsn;
use pitr::storage::KeyPrefix;
use pitr_tests::{Agent, AgentOptions, Fault, FaultProxy, Postgres, PostgresOptions, S3Server, Store, wait};

use super::figures::{Figures, quantile};
use super::source::pgbench;
use super::status;
use crate::settings::Settings;

/// Between two looks at what is durable.
const LOOK: Duration = Duration::from_millis(4);
const WATCHED: Duration = Duration::from_secs(12);
const PGBENCH_SECONDS: &str = "8";

struct Scene {
    agent: Agent,
    server: Postgres,
    store: Store,
    _proxy: Option<FaultProxy>,
}

impl Scene {
    /// `latency` is added to each request; none is a local repository.
    async fn start(latency: Option<Duration>, synchronous: bool) -> Result<Self> {
        let server = Postgres::start(PostgresOptions::of(15).conf("shared_buffers = 128MB").conf("fsync = on")).await?;
        pgbench(&server, &["--initialize", "--quiet", "--scale", "10"])?;
        server.execute("CREATE TABLE trickle (n bigint)").await?;
        let (store, proxy) = match latency {
            None => (Store::local()?, None),
            Some(latency) => {
                let s3 = S3Server::start().await?;
                let proxy = FaultProxy::start(s3.address()).await?;
                proxy.set(if latency.is_zero() { Fault::None } else { Fault::Delay(latency) });
                (Store::S3(Box::new(s3)), Some(proxy))
            }
        };
        let mut options = match &proxy {
            None => store.options(&server),
            Some(proxy) => AgentOptions::s3(&server, &proxy.endpoint()),
        };
        if synchronous {
            options = options.set("wal", "synchronous = true");
        }
        Ok(Self { agent: Agent::start(&options).await?, server, store, _proxy: proxy })
    }

    async fn tails(&self) -> Result<usize> {
        let place = if matches!(self.store, Store::Local(_)) { "repository" } else { "pitr" };
        let listed: Vec<_> = self.store.open(place, None).await?.list(&KeyPrefix::root()).try_collect().await?;
        Ok(listed.iter().filter(|meta| meta.key.as_str().contains(".tail/")).count())
    }

    /// Seconds from a commit's answer to its being durable, for commits at a trickle.
    async fn delays(&self) -> Result<Vec<f64>> {
        let (socket, session) = (status::socket(&self.agent), self.server.connect().await?);
        let (mut waiting, mut delays) = (VecDeque::<(Lsn, Instant)>::new(), Vec::new());
        let (begun, mut next) = (Instant::now(), Instant::now());
        while begun.elapsed() < WATCHED || !waiting.is_empty() {
            if Instant::now() >= next && begun.elapsed() < WATCHED {
                session.batch_execute("INSERT INTO trickle VALUES (1)").await?;
                let answered = Instant::now();
                let lsn = session.value("SELECT pg_current_wal_insert_lsn()").await?.parse()?;
                waiting.push_back((lsn, answered));
                next = answered + Duration::from_millis(37);
            }
            let sealed = status::sealed(&socket).await?.unwrap_or(Lsn::INVALID);
            while let Some((_, answered)) = waiting.pop_front_if(|(lsn, _)| *lsn <= sealed) {
                delays.push(answered.elapsed().as_secs_f64());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(delays)
    }

    async fn wait_for_the_repository(&self, waits: bool) -> Result<()> {
        let names = if waits { "pitr_main" } else { "" };
        self.server.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await?;
        self.server.execute("SELECT pg_reload_conf()").await?;
        let state = if waits { "sync" } else { "async" };
        let sql =
            format!("SELECT count(*) FROM pg_stat_replication WHERE sync_state = '{state}' AND state = 'streaming'");
        wait::until("the agent's state", Duration::from_mins(1), async || {
            Ok((self.server.value(&sql).await? == "1").then_some(()))
        })
        .await
    }
}

fn throughput(server: &Postgres, clients: &str) -> Result<(f64, f64)> {
    let said = pgbench(server, &["--no-vacuum", "--client", clients, "--jobs", "2", "--time", PGBENCH_SECONDS])?;
    let number = |start: &str| -> Result<f64> {
        let line = said.lines().find(|line| line.starts_with(start)).context("pgbench did not say")?;
        line.split('=').nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok()).context("no number")
    };
    Ok((number("tps")?, number("latency average")?))
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred tails")]
pub async fn measure(settings: &Settings, figures: &mut Figures) -> Result<()> {
    let mut places = vec![("local", None)];
    if settings.stores.iter().any(|store| store == "s3") {
        places.extend([
            ("s3", Some(Duration::ZERO)),
            ("s3+10ms", Some(Duration::from_millis(10))),
            ("s3+50ms", Some(Duration::from_millis(50))),
        ]);
    }
    for (name, latency) in places {
        let scene = Scene::start(latency, false).await?;
        let delays = scene.delays().await?;
        figures.add(
            "commit to durable",
            name,
            "pitr, 1 s",
            &[("p50 s", quantile(&delays, 0.5)), ("p99 s", quantile(&delays, 0.99)), ("max s", quantile(&delays, 1.0))],
        );
        drop(scene);
        let scene = Scene::start(latency, true).await?;
        for (tool, waits) in [("pitr, nobody waits", false), ("pitr, synchronous", true)] {
            scene.wait_for_the_repository(waits).await?;
            for clients in ["1", "16"] {
                let (tps, latency) = throughput(&scene.server, clients)?;
                let tails = scene.tails().await? as f64;
                let job = if clients == "1" { "pgbench, 1 client" } else { "pgbench, 16 clients" };
                figures.add(job, name, tool, &[("tps", tps), ("latency ms", latency), ("tails after", tails)]);
            }
        }
    }
    Ok(())
}
