//! The agent under test, with a configuration of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use pitr::postgres::Lsn;
use serde_json::Value;

use crate::{Account, Cli, Postgres, Process, S3Server, Scratch, executables, process, s3, wait};

/// How long a first backup of a small cluster may take on a loaded machine.
const BACKUP_LIMIT: Duration = Duration::from_mins(3);

/// What is written into the agent's configuration.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    sections: BTreeMap<String, Vec<String>>,
    environment: Vec<(String, String)>,
}

impl AgentOptions {
    /// A server, and a repository in a directory.
    #[must_use]
    pub fn local(server: &Postgres, repository: &Path) -> Self {
        Self::default().server(server).set("repository", format!("url = \"file://{}\"", repository.display()))
    }

    /// A server, and a repository in a bucket behind `endpoint`, which is the server's own or a proxy's.
    #[must_use]
    pub fn s3(server: &Postgres, endpoint: &str) -> Self {
        let mut options = Self::default()
            .server(server)
            .set("repository", format!("url = \"s3://{}/pitr\"", s3::BUCKET))
            .set("repository", format!("endpoint = \"{endpoint}\""))
            .set("repository", "region = \"us-east-1\"")
            .set("repository", "path_style = true");
        options.environment = S3Server::credentials();
        options
    }

    /// Another server.
    #[must_use]
    pub fn server(mut self, server: &Postgres) -> Self {
        let bin = format!("bin_directory = \"{}\"", server.bin().display());
        self.sections.insert("postgres".to_owned(), vec![bin]);
        self.connection(&server.connection_string())
    }

    /// Another connection string.
    #[must_use]
    pub fn connection(mut self, connection: &str) -> Self {
        let lines = self.sections.entry("postgres".to_owned()).or_default();
        lines.retain(|line| !line.starts_with("connection"));
        lines.push(format!("connection = \"{connection}\""));
        self
    }

    /// A line in a section; the section "" is the top of the file.
    #[must_use]
    pub fn set(mut self, section: &str, line: impl Into<String>) -> Self {
        self.sections.entry(section.to_owned()).or_default().push(line.into());
        self
    }

    /// A line in the place of the one with this key.
    #[must_use]
    pub fn replace(mut self, section: &str, key: &str, line: impl Into<String>) -> Self {
        let is_it = |line: &String| line.split_once('=').is_some_and(|(found, _)| found.trim() == key);
        if let Some(lines) = self.sections.get_mut(section) {
            lines.retain(|line| !is_it(line));
        }
        self.set(section, line)
    }

    /// Without a section's lines.
    #[must_use]
    pub fn without(mut self, section: &str) -> Self {
        self.sections.remove(section);
        self
    }

    /// A variable of the agent's and the command's environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.retain(|(found, _)| found != key);
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    fn toml(&self, socket: &Path) -> String {
        let mut text = "cluster = \"main\"\n".to_owned();
        let mut sections = self.sections.clone();
        sections.entry("http".to_owned()).or_default().push(format!("socket = \"{}\"", socket.display()));
        for (section, lines) in &sections {
            if !section.is_empty() {
                // Writing to a String can't fail.
                let _ = writeln!(text, "\n[{section}]");
            }
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

/// A running (or killed) agent and the command that talks to it.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    cli: Cli,
    config: PathBuf,
    environment: Vec<(String, String)>,
    scratch: Scratch,
}

impl Agent {
    /// Writes the configuration and starts the agent; does not wait for anything.
    ///
    /// # Errors
    /// The binary was not built.
    pub fn spawn(options: &AgentOptions) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.path().join("agent.sock");
        let config = scratch.file("agent.toml", &options.toml(&socket))?;
        let mut environment = options.environment.clone();
        // Nobody's ~/.aws or ~/.pgpass counts here.
        environment.push(("HOME".to_owned(), scratch.path().display().to_string()));
        let cli = Cli::new(&config, &environment)?;
        let mut agent = Self { process: None, cli, config, environment, scratch };
        agent.run()?;
        Ok(agent)
    }

    /// Starts the agent and waits for its first backup.
    ///
    /// # Errors
    /// It ends, or there is no backup in time.
    pub async fn start(options: &AgentOptions) -> Result<Self> {
        let mut agent = Self::spawn(options)?;
        agent.wait_backups(1).await?;
        Ok(agent)
    }

    /// Writes another configuration; it counts from the next start.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn reconfigure(&mut self, options: &AgentOptions) -> Result<()> {
        self.scratch.file("agent.toml", &options.toml(&self.scratch.path().join("agent.sock")))?;
        Ok(())
    }

    /// Writes another configuration that is not the agent's own, for commands.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_beside(&self, name: &str, options: &AgentOptions) -> Result<PathBuf> {
        self.scratch.file(name, &options.toml(&self.scratch.path().join("agent.sock")))
    }

    /// Starts it (again).
    ///
    /// # Errors
    /// It can't be started.
    pub fn run(&mut self) -> Result<()> {
        let mut command = Account::of_servers()?.command(executables::product("pitr-agent")?);
        command.args(["run", "--config"]).arg(&self.config);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.current_dir(self.scratch.path());
        self.process = Some(Process::spawn(command, &self.log_path())?);
        Ok(())
    }

    /// Runs another command of the agent's binary, such as `check`, to its end.
    ///
    /// # Errors
    /// It can't be started.
    pub fn other(options: &AgentOptions, arguments: &[&str]) -> Result<(i32, String)> {
        let scratch = Scratch::new()?;
        let config = scratch.file("agent.toml", &options.toml(&scratch.path().join("agent.sock")))?;
        let mut command = Account::of_servers()?.command(executables::product("pitr-agent")?);
        command.args(arguments).arg("--config").arg(&config).env("HOME", scratch.path());
        command.envs(options.environment.iter().map(|(key, value)| (key, value)));
        let output = command.output().context("start pitr-agent")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((process::exit_code(output.status), String::from_utf8_lossy(&text).into_owned()))
    }

    /// SIGKILL, at once.
    ///
    /// # Errors
    /// It can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::kill)
    }

    /// SIGTERM; gives the exit code.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub async fn stop(&mut self, limit: Duration) -> Result<i32> {
        let process = self.process.as_mut().context("the agent does not run")?;
        process.signal(Signal::SIGTERM)?;
        Ok(process::exit_code(process.wait(limit).await?))
    }

    /// Waits for it to end by itself; gives the exit code and what it said.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub async fn ends(&mut self, limit: Duration) -> Result<(i32, String)> {
        let process = self.process.as_mut().context("the agent does not run")?;
        let code = process::exit_code(process.wait(limit).await?);
        Ok((code, process.output()))
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    #[must_use]
    pub const fn cli(&self) -> &Cli {
        &self.cli
    }

    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    #[must_use]
    pub const fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("agent.log")
    }

    /// All that it has logged, over its restarts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Demands that every line it logged as a warning or an error holds one of these fragments.
    ///
    /// # Errors
    /// One does not.
    pub fn no_alarms_but(&self, allowed: &[&str]) -> Result<()> {
        let log = self.log();
        let is_alarm = |line: &&str| {
            [" WARN ", " ERROR ", "\"WARN\"", "\"ERROR\"", "panicked"].iter().any(|mark| line.contains(mark))
        };
        let unlisted: Vec<&str> = log
            .lines()
            .filter(is_alarm)
            .filter(|line| !allowed.iter().any(|fragment| line.contains(fragment)))
            .collect();
        ensure!(unlisted.is_empty(), "the agent logged:\n{}", unlisted.join("\n"));
        Ok(())
    }

    /// What `pitr info --json` says of the one cluster.
    ///
    /// # Errors
    /// The command fails.
    pub async fn info(&self) -> Result<Value> {
        let info = self.cli.json(["info"]).await?;
        info.pointer("/clusters/0").cloned().with_context(|| format!("no cluster in {info}"))
    }

    /// Waits until the repository holds so many backups.
    ///
    /// # Errors
    /// The agent ends, or there are not in time.
    pub async fn wait_backups(&mut self, count: usize) -> Result<Value> {
        let process = self.process.as_mut().context("the agent does not run")?;
        let cli = &self.cli;
        let waited = wait::until(format!("{count} backups"), BACKUP_LIMIT, async || {
            if let Some(status) = process.ended()? {
                bail!("the agent ended with {status}");
            }
            // Before the first backup the repository itself may not exist.
            let run = cli.run(["info", "--json"]).await?;
            let Ok(info) = run.json() else { return Ok(None) };
            let backups = info.pointer("/clusters/0/backups").and_then(Value::as_array).map_or(0, Vec::len);
            Ok((run.code == 0 && backups >= count).then_some(info))
        });
        let waited = waited.await;
        waited.with_context(|| format!("the agent's log:\n{}", self.log()))
    }

    /// Waits until the WAL up to `lsn` is sealed in the repository.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn wait_sealed(&self, lsn: Lsn) -> Result<()> {
        let waited = wait::until(format!("sealed reaches {lsn}"), Duration::from_mins(2), async || {
            Ok((self.sealed().await? >= lsn).then_some(()))
        });
        waited.await.with_context(|| format!("the agent's log:\n{}", self.log()))
    }

    /// Up to where the repository holds everything.
    ///
    /// # Errors
    /// The command fails or does not say.
    pub async fn sealed(&self) -> Result<Lsn> {
        let info = self.info().await?;
        let lsn =
            info.pointer("/sealed/lsn").and_then(Value::as_str).with_context(|| format!("no sealed in {info}"))?;
        Ok(lsn.parse()?)
    }
}
