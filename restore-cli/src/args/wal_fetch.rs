//! `pitr wal-fetch`.

use std::path::PathBuf;

use clap::Args;

use super::UsageError;

/// Fetch a WAL segment or history file, as restore_command
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 delivered, 1 proven not to be in the repository, 200 anything else, a usage error
included: PostgreSQL takes 1 to 125 as the end of the archive and would end the recovery with
data missing.

Example:
  restore_command = 'pitr --config /etc/pitr/main.toml wal-fetch %f \"%p\"'")]
pub struct WalFetchArgs {
    /// Recovery configuration of the restore that this belongs to
    #[arg(long, value_name = "ID")]
    pub restore: Option<String>,
    /// File name, %f
    pub name: String,
    /// Where to put it, %p
    pub path: PathBuf,
}

/// The subcommand of [`WalFeederArgs`]. Another word than `wal-fetch`, whose exit codes it does not have.
pub const FEEDER_COMMAND: &str = "wal-feeder";

/// Fetch WAL ahead for one recovery, as long as it lasts
#[derive(Debug, Args)]
pub struct WalFeederArgs {
    /// Recovery configuration
    #[arg(long, value_name = "FILE")]
    pub restore: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFetchOrder {
    pub restore: Option<String>,
    pub name: String,
    pub path: PathBuf,
}

impl WalFetchArgs {
    /// # Errors
    /// A name that holds a path.
    pub fn validate(self) -> Result<WalFetchOrder, UsageError> {
        if self.name.is_empty() || self.name.contains('/') {
            return Err(UsageError::new(format!("invalid WAL file name \"{}\"", self.name)));
        }
        Ok(WalFetchOrder { restore: self.restore, name: self.name, path: self.path })
    }
}
