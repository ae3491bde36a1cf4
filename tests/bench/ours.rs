//! The product: a backup through the running agent, a restore by the command.

use std::path::PathBuf;

use anyhow::{Context, Result};
use pitr_tests::{Agent, AgentOptions};
use serde_json::Value;

use crate::contender::{Place, settle};
use crate::data::Source;
use crate::measure::{self, Sample};
use crate::settings::Settings;

pub struct Ours<'a> {
    agent: Agent,
    source: &'a Source,
    target: PathBuf,
}

impl<'a> Ours<'a> {
    /// Starts an agent on a fresh repository. Its first backup, which it takes by itself, is not the measured one.
    pub async fn prepare(
        settings: &'a Settings,
        source: &'a Source,
        place: &'a Place<'a>,
        compression_level: u32,
    ) -> Result<Self> {
        let options = match place.server {
            None => AgentOptions::local(&source.server, &place.directory.join("repository")),
            Some(server) => {
                let authority = server.authority().context("the S3 server speaks no TLS")?;
                AgentOptions::s3(&source.server, &server.endpoint())
                    .set("repository", format!("ca_file = \"{}\"", authority.display()))
            }
        };
        let slot = format!("bench_{}", place.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let options = options
            .set("wal", format!("slot = \"{slot}\""))
            .set("backup", format!("threads = {}", settings.workers))
            .set("backup", format!("compression_level = {compression_level}"));
        let agent = Agent::start(&options).await?;
        Ok(Self { agent, source, target: place.directory.join("restored") })
    }

    pub const fn agent(&self) -> &Agent {
        &self.agent
    }

    pub async fn backup(&self) -> Result<Sample> {
        self.source.warm()?;
        settle();
        let (mut sample, _) = self.measured(&["backup", "--fresh"]).await?;
        let newest = self.newest().await?;
        sample.repository_bytes = newest.get("stored_bytes").and_then(Value::as_u64).context("no stored_bytes")?;
        Ok(sample)
    }

    /// A backup by this command, with the bytes that it added and what the command says of it.
    pub async fn measured(&self, command: &[&str]) -> Result<(Sample, Value)> {
        let pid = self.agent.pid().context("the agent does not run")?;
        let (mut sample, job) = measure::daemon(pid, self.agent.cli().json(command)).await?;
        let newest = self.newest().await?;
        sample.repository_bytes = newest.get("new_bytes").and_then(Value::as_u64).context("no new_bytes")?;
        Ok((sample, job))
    }

    /// The newest backup, as `pitr info` lists it.
    pub async fn newest(&self) -> Result<Value> {
        let info = self.agent.info().await?;
        let newest = info.get("backups").and_then(Value::as_array).and_then(|backups| backups.last()).cloned();
        newest.with_context(|| format!("no backup in {info}"))
    }

    pub fn restore(&self) -> Result<Sample> {
        settle();
        let mut command = self.agent.cli().command()?;
        command.args(["restore", "--immediate", "--into"]).arg(&self.target).arg("--yes");
        measure::command(command)
    }

    /// A restore of this backup into a directory of this name.
    pub fn restore_of(&self, backup: &str, name: &str) -> Result<Sample> {
        settle();
        let mut command = self.agent.cli().command()?;
        let into = self.target.with_file_name(name.replace(' ', "-"));
        command.args(["restore", "--immediate", "--backup", backup, "--into"]).arg(into).arg("--yes");
        measure::command(command)
    }
}
