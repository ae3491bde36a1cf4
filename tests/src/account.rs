//! The account that servers run as: PostgreSQL refuses root, and the agent has no business with it.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User};

/// Whom commands run as: an unprivileged account under root, else whoever runs the tests.
#[derive(Debug, Clone)]
pub struct Account {
    name: String,
    /// Set where the harness has to drop to it.
    drop_to: Option<(Uid, Gid)>,
}

impl Account {
    /// The account of this run: under root the one that `PITR_TEST_USER` names, `postgres` by default.
    ///
    /// # Errors
    /// The account does not exist.
    pub fn of_servers() -> Result<&'static Self> {
        static ACCOUNT: OnceLock<Result<Account, String>> = OnceLock::new();
        ACCOUNT.get_or_init(|| Self::find().map_err(|error| format!("{error:#}"))).as_ref().map_err(anyhow::Error::msg)
    }

    fn find() -> Result<Self> {
        if !Uid::effective().is_root() {
            let user = User::from_uid(Uid::effective())?.context("this user has no name")?;
            return Ok(Self { name: user.name, drop_to: None });
        }
        let name = std::env::var("PITR_TEST_USER").unwrap_or_else(|_| "postgres".to_owned());
        let user = User::from_name(&name)?
            .with_context(|| format!("user \"{name}\" does not exist; tests/tools/setup.sh makes it"))?;
        anyhow::ensure!(!user.uid.is_root(), "the servers' user must not be root");
        Ok(Self { name, drop_to: Some((user.uid, user.gid)) })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command as this account, with nothing of the caller's environment that could steer PostgreSQL, the AWS
    /// credential chain or the product: what a test wants of these, it sets.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        for key in ["PATH", "TZ", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command.env("LC_ALL", "C").env("AWS_EC2_METADATA_DISABLED", "true").current_dir("/");
        if let Some((uid, gid)) = self.drop_to {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Gives a path to the account.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.drop_to else { return Ok(()) };
        chown(path, Some(uid.as_raw()), Some(gid.as_raw())).with_context(|| format!("chown {}", path.display()))
    }

    /// The numeric user, for mount options.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.drop_to.map_or_else(Uid::effective, |(uid, _)| uid)
    }

    /// Whether the account can run what stands at `path`: its home may lie in a directory that only root enters.
    #[must_use]
    pub fn can_run(&self, path: &Path) -> bool {
        self.drop_to.is_none() || self.command("test").arg("-x").arg(path).status().is_ok_and(|status| status.success())
    }
}
