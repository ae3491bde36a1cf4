//! Runs the `pitr` command as the servers' account and looks at what it gives.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Account, executables, process};

/// Longer than anything a test asks for on a loaded machine.
const LIMIT: Duration = Duration::from_mins(5);

/// The command with a configuration file and an environment.
#[derive(Debug, Clone)]
pub struct Cli {
    program: PathBuf,
    config: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Cli {
    /// # Errors
    /// The binary was not built.
    pub fn new(config: &Path, environment: &[(String, String)]) -> Result<Self> {
        Ok(Self {
            program: executables::product("pitr")?,
            config: Some(config.to_owned()),
            environment: environment.to_vec(),
        })
    }

    /// Without `--config`.
    ///
    /// # Errors
    /// The binary was not built.
    pub fn bare(environment: &[(String, String)]) -> Result<Self> {
        Ok(Self { program: executables::product("pitr")?, config: None, environment: environment.to_vec() })
    }

    /// The command line up to the subcommand, not yet started, for tests that send it signals.
    ///
    /// # Errors
    /// There is no account to run it as.
    pub fn command(&self) -> Result<std::process::Command> {
        let mut command = Account::of_servers()?.command(&self.program);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It can't be started, or does not end in time.
    pub async fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Run> {
        let mut command = self.command()?;
        command.args(arguments).stdin(std::process::Stdio::null());
        let line = format!("{command:?}");
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let start = Instant::now();
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output = output.with_context(|| format!("still running after {LIMIT:?}: {line}"))??;
        Ok(Run::of(line, &output, start.elapsed()))
    }

    /// Runs it with `--json` and demands that it succeeds.
    ///
    /// # Errors
    /// It fails, or what it prints is not JSON.
    pub async fn json(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Value> {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.run(arguments.chain(["--json".into()])).await?.success()?.json()
    }
}

/// How a run of the command ended.
#[derive(Debug, Clone)]
pub struct Run {
    pub line: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    fn of(line: String, output: &Output, took: Duration) -> Self {
        Self {
            line,
            code: process::exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took,
        }
    }

    /// # Errors
    /// The exit code is another one than 0.
    pub fn success(self) -> Result<Self> {
        self.code(0)
    }

    /// # Errors
    /// The exit code is another one.
    pub fn code(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "exit code {} where {code} was expected\n{self:#?}", self.code);
        Ok(self)
    }

    /// Demands that a message on stderr holds all these words, in any case of letters.
    ///
    /// # Errors
    /// One is missing.
    pub fn says(self, words: &[&str]) -> Result<Self> {
        let said = self.stderr.to_lowercase();
        let missing: Vec<&&str> = words.iter().filter(|word| !said.contains(&word.to_lowercase())).collect();
        ensure!(missing.is_empty(), "stderr does not say {missing:?}:\n{}", self.stderr);
        Ok(self)
    }

    /// # Errors
    /// Stdout is not JSON: it is data, whatever else is said goes to stderr.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("stdout is not JSON: {self:#?}"))
    }
}
