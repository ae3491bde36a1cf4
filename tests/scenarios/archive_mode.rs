//! `archive_command = 'pitr-agent wal-push %p'`: alone and beside the stream.

mod alone;
mod environment;
mod holes;
mod promotion;
mod pushes;
mod together;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pitr::postgres::Lsn;
use pitr_tests::{Account, Agent, AgentOptions, Postgres, PostgresOptions, Scene, Store, executables, process, wait};

/// Longer than the pause of the server's archiver after three failures.
const PATIENCE: Duration = Duration::from_mins(2);

fn archiving(major: u32) -> PostgresOptions {
    PostgresOptions::of(major).conf("archive_mode = on")
}

/// The server hands its WAL to this agent from now on.
async fn point_at(server: &Postgres, agent: &Agent) -> Result<()> {
    let program = executables::product("pitr-agent")?;
    archive_with(server, &format!("{} wal-push --config {} %p", program.display(), agent.config().display())).await
}

async fn archive_with(server: &Postgres, command: &str) -> Result<()> {
    server.execute(&format!("ALTER SYSTEM SET archive_command = '{command}'")).await?;
    server.execute("SELECT pg_reload_conf()").await
}

/// A server in archive mode, and an agent that has nothing but what it is handed.
async fn alone(server: Postgres, store: Store) -> Result<Scene> {
    let options = store.options(&server).set("wal", "source = \"archive\"");
    with(server, store, &options).await
}

async fn with(server: Postgres, store: Store, options: &AgentOptions) -> Result<Scene> {
    let mut agent = Agent::spawn(options)?;
    point_at(&server, &agent).await?;
    agent.wait_backups(1).await?;
    Scene::of(server, store, agent)
}

/// Ends the open segment and waits until all before is sealed. An archiver that has failed three times sleeps until the next
/// segment: so there is one, now and then.
async fn seal(scene: &Scene) -> Result<Lsn> {
    let lsn: Lsn = scene.server.value("SELECT pg_current_wal_insert_lsn()").await?.parse()?;
    let mut switched: Option<Instant> = None;
    let sealed = wait::until(format!("sealed reaches {lsn}"), PATIENCE, async || {
        if switched.is_none_or(|at| at.elapsed() > Duration::from_secs(8)) {
            scene.server.execute("SELECT pg_current_xact_id(); SELECT pg_switch_wal()").await?;
            switched = Some(Instant::now());
        }
        Ok((scene.agent.sealed().await? >= lsn).then_some(lsn))
    });
    sealed.await.with_context(|| format!("the agent's log:\n{}", scene.agent.log()))
}

struct Push {
    code: i32,
    stdout: String,
    stderr: String,
}

/// What the client answers for a file.
fn push(scene: &Scene, path: &Path) -> Result<Push> {
    let mut command = Account::of_servers()?.command(executables::product("pitr-agent")?);
    command.args(["wal-push", "--timeout", "20s", "--config"]).arg(scene.agent.config()).arg(path);
    let output = command.current_dir(scene.server.data_directory()).output().context("start pitr-agent")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Push { code: process::exit_code(output.status), stdout: text(output.stdout), stderr: text(output.stderr) })
}

impl Push {
    fn archived(self) -> Result<()> {
        anyhow::ensure!(self.code == 0 && self.stderr.is_empty() && self.stdout.is_empty(), "{}", self.stderr);
        Ok(())
    }

    fn refused(self, words: &[&str]) -> Result<()> {
        anyhow::ensure!(self.code == 1 && self.stdout.is_empty(), "{} {}", self.code, self.stderr);
        anyhow::ensure!(self.stderr.lines().count() == 1, "more than a line: {}", self.stderr);
        let missing: Vec<&&str> = words.iter().filter(|word| !self.stderr.contains(**word)).collect();
        anyhow::ensure!(missing.is_empty(), "it does not say {missing:?}: {}", self.stderr);
        Ok(())
    }
}

async fn problems(scene: &Scene) -> Result<String> {
    Ok(scene.cli().json(["status"]).await?.get("problems").map(ToString::to_string).unwrap_or_default())
}

async fn archiver(server: &Postgres, column: &str) -> Result<String> {
    server.value(&format!("SELECT {column} FROM pg_stat_archiver")).await
}
