//! `pitr expire`.

use clap::Args;
use pitr::repository::backup::BackupId;

/// Apply retention, or show what it would do
#[derive(Debug, Args)]
#[command(after_help = "\
What [retention] in the configuration does not keep is deleted by the agent, after every backup and
by its schedule; this command asks for it now. Without [retention] window nothing is ever deleted.
It shows what goes and asks before anything does.

Examples:
  pitr expire --dry-run                     # what would go and stay, why, and what is lost with it
  pitr expire --yes
  pitr expire --backup 20261122T063100Z     # deletes one backup, whatever the rules say")]
pub struct ExpireArgs {
    /// Show what would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete this backup, and nothing else; may be repeated
    #[arg(long, value_name = "ID")]
    pub backup: Vec<BackupId>,
    /// With --backup: also one that is pinned, or the last one
    #[arg(long, requires = "backup")]
    pub force: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireOrder {
    pub dry_run: bool,
    pub backups: Vec<BackupId>,
    pub force: bool,
    pub yes: bool,
}

impl ExpireArgs {
    #[must_use]
    pub fn validate(self) -> ExpireOrder {
        ExpireOrder { dry_run: self.dry_run, backups: self.backup, force: self.force, yes: self.yes }
    }
}
