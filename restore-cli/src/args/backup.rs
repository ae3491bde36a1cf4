//! `pitr backup`.

use clap::Args;

/// Ask the agent for a backup now
#[derive(Debug, Args)]
#[command(after_help = "\
Follows the backup until it is complete. Interrupting this command does not stop the backup.

Examples:
  pitr backup
  pitr backup --fresh
  pitr backup --no-wait --json")]
pub struct BackupArgs {
    /// Return as soon as the backup has begun
    #[arg(long)]
    pub no_wait: bool,

    /// Read and store everything again, and share nothing with earlier backups
    #[arg(long)]
    pub fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupOrder {
    pub wait: bool,
    pub fresh: bool,
}

impl BackupArgs {
    #[must_use]
    pub fn validate(self) -> BackupOrder {
        BackupOrder { wait: !self.no_wait, fresh: self.fresh }
    }
}
