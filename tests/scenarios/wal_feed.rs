//! The WAL of a recovery comes over a bad network: it comes whole, or the recovery fails. It never ends early.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pitr_tests::ports::Port;
use pitr_tests::postgres::RestoredServer;
use pitr_tests::proxy::Rule;
use pitr_tests::{
    AgentOptions, Cli, Fault, FaultProxy, Ledger, Postgres, PostgresOptions, Run, S3Server, Scene, Store, seed, wait,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::task::AbortOnDropHandle;

const SEGMENTS: u32 = 30;
const ROWS_A_SEGMENT: u32 = 1500;

/// A repository whose WAL behind the only backup has at least [`SEGMENTS`] segments and an end in tails.
struct Stage {
    scene: Scene,
    proxy: Arc<FaultProxy>,
    /// Through the proxy.
    cli: Cli,
    rows: String,
}

const COUNT: &str = "SELECT count(*) || ' ' || sum(n) FROM filled";

impl Stage {
    async fn new() -> Result<Self> {
        let store = S3Server::start().await?;
        let proxy = Arc::new(FaultProxy::start(store.address()).await?);
        let options = PostgresOptions::of(17).wal_segment_mb(1).conf("autovacuum = off").conf("max_wal_size = '1GB'");
        let server = Postgres::start(options).await?;
        let scene = Scene::around(server, Store::S3(Box::new(store))).await?;
        Ledger::create(&scene.server).await?;
        scene.server.execute("CREATE TABLE filled (n bigint, t text)").await?;
        let session = scene.server.connect().await?;
        let segment = async || session.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await;
        let (first, mut n) = (u64::from_str_radix(&segment().await?[16..], 16)?, 0_u32);
        while u64::from_str_radix(&segment().await?[16..], 16)? < first + u64::from(SEGMENTS) {
            let insert = format!(
                "INSERT INTO filled SELECT g, repeat(md5(g::text), 15) FROM generate_series({n}, {}) AS g",
                n + ROWS_A_SEGMENT / 10 - 1
            );
            session.batch_execute(&insert).await?;
            n += ROWS_A_SEGMENT / 10;
        }
        drop(session);
        scene.seal().await?;
        let rows = scene.server.value(COUNT).await?;
        // A configuration of its own: what the restored server's restore_command uses, too.
        let options = AgentOptions::s3(&scene.server, &proxy.endpoint()).set("repository", "retry_deadline = \"15s\"");
        let config = scene.agent.write_beside("restore.toml", &options)?;
        let cli = Cli::new(&config, scene.agent.environment())?;
        Ok(Self { scene, proxy, cli, rows })
    }

    /// Restores everything with the server's start, and leaves it to the caller whether that should work.
    async fn restore_into(&self, directory: &Path) -> Result<(Run, Port)> {
        let port = Port::take()?;
        let (path, number) = (directory.display().to_string(), port.number().to_string());
        let arguments = ["restore", "--latest", "--into", &path, "--start", "--port", &number, "--yes", "--json"];
        Ok((self.cli.run(arguments).await?, port))
    }

    async fn restores_everything(&self) -> Result<()> {
        let directory = self.scene.next_directory();
        let (run, _port) = self.restore_into(&directory).await?;
        run.success()?;
        let server = RestoredServer::find(&directory)?;
        assert_eq!(server.value(COUNT).await?, self.rows);
        Ok(())
    }
}

/// Every fault there is, one after the other and none for long, for what is read of the WAL.
fn bad_weather(proxy: Arc<FaultProxy>) -> AbortOnDropHandle<()> {
    let mut rng = StdRng::seed_from_u64(seed::of_this_run());
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let fault = match rng.random_range(0..7) {
                0 => Fault::SlowDown,
                1 => Fault::ResetAfterEffect,
                2 => Fault::Stall,
                3 => Fault::TruncateBody { bytes: rng.random_range(1..100_000) },
                4 => Fault::ErrorAfterEffect,
                5 => Fault::Throttle { bytes_per_second: 200_000 },
                _ => Fault::Delay(Duration::from_millis(100)),
            };
            let worst = rng.random_range(1..6);
            proxy.set_rules(vec![Rule::every(fault).method("GET").path("/wal/").times(worst)]);
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
            proxy.set(Fault::None);
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_never_ends_a_recovery_early() -> Result<()> {
    let stage = Stage::new().await?;
    let before = stage.proxy.faults();
    let weather = bad_weather(Arc::clone(&stage.proxy));
    stage.restores_everything().await?;
    drop(weather);
    let met = stage.proxy.faults() - before;
    ensure!(met >= 5, "only {met} requests met a fault");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_in_the_middle_ends_the_recovery_in_an_error() -> Result<()> {
    let stage = Stage::new().await?;
    // The first segments come, as did whatever was planned and copied before.
    let proxy = Arc::clone(&stage.proxy);
    let directory = stage.scene.next_directory();
    let started = directory.join("postmaster.pid");
    let dying = async move {
        wait::until("the server recovers", Duration::from_mins(2), async || Ok(started.exists().then_some(()))).await?;
        let first = Rule::every(Fault::None).path("/wal/").times(4);
        proxy.set_rules(vec![first, Rule::every(Fault::SlowDown)]);
        anyhow::Ok(())
    };
    let (restored, died) = tokio::join!(stage.restore_into(&directory), dying);
    died?;
    let (run, _port) = restored?;
    let run = run.code(4)?.says(&["did not reach the target", "exit code 200"])?;
    ensure!(!run.stdout.contains("\"verdict\": \"reached\""), "{run:?}");
    let recovering = directory.join("recovery.signal").exists();
    ensure!(recovering && !directory.join("postmaster.pid").exists(), "the server was promoted, or runs");
    stage.proxy.set(Fault::None);
    stage.restores_everything().await
}

/// The resident fetchers of one restore, by the recovery configuration that they were started with.
fn fetchers(directory: &Path) -> Vec<Pid> {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let text = String::from_utf8_lossy(&line).into_owned();
        words.get(1).is_some_and(|word| *word == b"wal-feeder") && text.contains(&name)
    };
    pids.filter(is_one).map(Pid::from_raw).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fetcher_is_replaced() -> Result<()> {
    let stage = Stage::new().await?;
    // Slow enough for it to be met at work.
    stage.proxy.set_rules(vec![Rule::every(Fault::Delay(Duration::from_millis(100))).method("GET").path("/wal/")]);
    let directory = stage.scene.next_directory();
    let restore = stage.restore_into(&directory);
    let killing = async {
        let mut killed = 0;
        while killed < 3 {
            let found = wait::until("a fetcher is at work", Duration::from_mins(1), async || {
                Ok(fetchers(&directory).into_iter().next())
            });
            kill(found.await?, Signal::SIGKILL).context("kill the fetcher")?;
            killed += 1;
        }
        anyhow::Ok(killed)
    };
    let (restored, killed) = tokio::join!(restore, killing);
    assert_eq!(killed?, 3);
    let (run, _port) = restored?;
    run.success()?;
    let server = RestoredServer::find(&directory)?;
    assert_eq!(server.value(COUNT).await?, stage.rows);
    Ok(())
}
