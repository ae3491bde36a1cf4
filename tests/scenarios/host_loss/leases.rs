//! Two agents on one cluster: one archives, the other one does not, and never both.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pitr::postgres::Lsn;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Agent, Ledger, Postgres, PostgresOptions, Scene, Store, wait};

const RESTART_LSN: &str = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_type = 'physical'";

async fn confirmed(server: &Postgres) -> Result<Lsn> {
    Ok(server.value(RESTART_LSN).await?.parse()?)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_is_refused_while_the_first_one_lives() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(17), Store::local()?).await?;
    let mut second = Agent::spawn(&scene.store.options(&scene.server))?;
    let (code, said) = second.ends(Duration::from_mins(2)).await?;
    let first = scene.agent.pid().context("the agent ended")?;
    assert_ne!(code, 0);
    assert!(said.contains(&first.to_string()) && said.contains("lease"), "{said}");
    scene.server.execute("SELECT pg_switch_wal()").await?;
    scene.seal().await?;
    assert_eq!(scene.agent.stop(Duration::from_mins(1)).await?, 0);
    Ok(())
}

/// Frozen for longer than its lease runs, an agent must find out that another one has taken its place before it confirms
/// anything, and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_frozen_confirms_nothing_more() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(17).conf("wal_sender_timeout = '5s'")).await?;
    let options = Store::local()?;
    let mut scene = Scene::around(server, options).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(2, 23)).await?;
    writers.more(50).await?;
    scene.seal().await?;
    let frozen = scene.agent.pid().context("the agent ended")?;
    signal(frozen, Signal::SIGSTOP)?;
    let frozen_at = confirmed(&scene.server).await?;

    let second = Agent::spawn(&scene.store.options(&scene.server))?;
    let taken = wait::until("the second one confirms WAL", Duration::from_mins(2), async || {
        writers.more(1).await?;
        Ok((confirmed(&scene.server).await? > frozen_at.advance(64 * 1024)).then_some(()))
    });
    let taken = taken.await.with_context(|| format!("the second one's log:\n{}", second.log()));
    signal(frozen, Signal::SIGCONT)?;
    taken?;
    let (code, said) = scene.agent.ends(Duration::from_mins(1)).await?;
    assert_ne!(code, 0);
    assert!(said.contains("another agent has taken over"), "{said}");

    writers.more(50).await?;
    let ledger = writers.stop().await?;
    scene.server.execute("SELECT pg_switch_wal()").await?;
    second.wait_sealed(scene.server.value("SELECT pg_current_wal_flush_lsn()").await?.parse()?).await?;
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}
