//! A server that writes nothing costs nothing, and the bucket alone tells it from a dead one.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use pitr::storage::{KeyPrefix, ObjectStore};
use pitr_tests::skip::skipped;
use pitr_tests::{Cli, Postgres, PostgresOptions, S3Server, Scene, Scratch, Store, s3, wait};
use serde_json::Value;

/// Every object and its version.
async fn objects(store: &dyn ObjectStore) -> Result<BTreeMap<String, String>> {
    let listed: Vec<_> = store.list(&KeyPrefix::root()).try_collect().await?;
    Ok(listed.into_iter().map(|meta| (meta.key.as_str().to_owned(), format!("{:?}", meta.tag))).collect())
}

fn without_lease(objects: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    objects.iter().filter(|(key, _)| !key.ends_with("/lease")).map(|(key, tag)| (key.clone(), tag.clone())).collect()
}

/// Nothing writes by itself, but for what the server logs within 15 seconds of the last activity.
async fn quiet() -> Result<Postgres> {
    let options = PostgresOptions::of(17).conf("autovacuum = off").conf("checkpoint_timeout = '1h'");
    Postgres::start(options.conf("bgwriter_delay = '10s'")).await
}

/// What anybody sees who has the bucket and its credentials, from another home and without the agent's socket.
fn elsewhere(scratch: &Scratch) -> Result<Cli> {
    let mut environment = S3Server::credentials();
    let home = scratch.path().display().to_string();
    let own = [("PITR_PATH_STYLE", "true"), ("PITR_CLUSTER", "main"), ("HOME", home.as_str())];
    environment.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    environment.push(("PITR_REPOSITORY".to_owned(), format!("s3://{}/pitr", s3::BUCKET)));
    Cli::bare(&environment)
}

/// The command on a host of another name: on the agent's own, its silence would be a finding by itself.
fn on_another_host(cli: &Cli) -> Result<Command> {
    let command = cli.command()?;
    let mut elsewhere = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        elsewhere.arg("--map-root-user");
    }
    elsewhere.args(["--uts", "sh", "-c", "hostname elsewhere && exec \"$0\" \"$@\""]);
    elsewhere.arg(command.get_program()).args(command.get_args());
    elsewhere.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    Ok(elsewhere)
}

async fn state(cli: &Cli, endpoint: &str) -> Result<String> {
    let mut command = tokio::process::Command::from(on_another_host(cli)?);
    let output = command.args(["status", "--json", "--endpoint", endpoint]).output().await?;
    let status: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no status: {}", String::from_utf8_lossy(&output.stderr)))?;
    let state = status.pointer("/agent/state").and_then(Value::as_str);
    Ok(state.with_context(|| format!("no state of the agent in {status}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_costs_only_the_heartbeat_and_is_told_from_a_dead_one() -> Result<()> {
    let named = Command::new("unshare").args(["--uts", "hostname", "elsewhere"]).output()?.status.success();
    if !named && skipped("another host's name needs root") {
        return Ok(());
    }
    let mut scene = Scene::around(quiet().await?, Store::s3().await?).await?;
    let store = scene.store.open("pitr", None).await?;
    scene.server.execute("CHECKPOINT").await?;
    scene.seal().await?;

    // Whatever the server still logs of itself ends the attempt, not the test.
    let flushed = "SELECT pg_current_wal_flush_lsn()";
    let idle = wait::until("some seconds without WAL", Duration::from_mins(2), async || {
        scene.agent.wait_sealed(scene.server.value(flushed).await?.parse()?).await?;
        let (lsn, before) = (scene.server.value(flushed).await?, objects(store.as_ref()).await?);
        let beats = wait::until("three beats", Duration::from_mins(1), {
            let (mut last, mut beats) = (before.clone(), 0);
            let store = &store;
            async move || {
                let now = objects(store.as_ref()).await?;
                beats += u32::from(now != last);
                last = now;
                Ok((beats >= 3).then(|| last.clone()))
            }
        });
        let after = beats.await?;
        Ok((scene.server.value(flushed).await? == lsn).then_some((before, after)))
    });
    let (before, after) = idle.await?;
    assert_eq!(without_lease(&before), without_lease(&after));
    assert_ne!(before, after, "the lease did not beat");

    let Store::S3(server) = &scene.store else { unreachable!("it was started on S3") };
    let (scratch, endpoint) = (Scratch::new()?, server.endpoint());
    let cli = elsewhere(&scratch)?;
    assert_eq!(state(&cli, &endpoint).await?, "idle");
    scene.agent.kill()?;
    wait::until("the bucket says that the agent is dead", Duration::from_mins(1), async || {
        Ok((state(&cli, &endpoint).await? == "dead").then_some(()))
    })
    .await
}
