//! `pitr pin` and `pitr unpin`.

use clap::Args;
use pitr::recovery::MarkerRef;
use pitr::repository::backup::BackupId;

use super::UsageError;
use super::mark::parse_marker;

/// Keep a backup or a marker beyond retention
#[derive(Debug, Args)]
#[command(after_help = "\
A pinned backup stays with the WAL that makes it consistent. A pinned marker stays reachable: with a
backup before it and the WAL up to it. Needs the repository only, with the right to write.

Examples:
  pitr pin 20261122T063100Z --reason \"before the migration\"
  pitr pin release-42
  pitr unpin release-42")]
pub struct PinArgs {
    /// A backup's name, or a marker's; NAME@LSN where several markers share it
    #[arg(value_name = "BACKUP|MARKER")]
    pub subject: String,
    /// Why
    #[arg(long)]
    pub reason: Option<String>,
}

/// Let retention have a backup or marker again
#[derive(Debug, Args)]
#[command(after_help = "\
What no rule keeps then goes with the next run of retention.

Examples:
  pitr unpin 20261122T063100Z
  pitr unpin release-42@0/3000060          # one of several with that name")]
pub struct UnpinArgs {
    /// As it was pinned
    #[arg(value_name = "BACKUP|MARKER")]
    pub subject: String,
}

/// What was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinnedName {
    Backup(BackupId),
    Marker(MarkerRef),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinOrder {
    pub subject: PinnedName,
    pub reason: Option<String>,
}

fn subject(text: &str) -> Result<PinnedName, UsageError> {
    match text.parse() {
        Ok(id) => Ok(PinnedName::Backup(id)),
        Err(_) => parse_marker(text).map(PinnedName::Marker),
    }
}

impl PinArgs {
    /// # Errors
    /// A name that neither a backup nor a marker can have.
    pub fn validate(self) -> Result<PinOrder, UsageError> {
        Ok(PinOrder { subject: subject(&self.subject)?, reason: self.reason })
    }
}

impl UnpinArgs {
    /// # Errors
    /// As [`PinArgs::validate`].
    pub fn validate(self) -> Result<PinOrder, UsageError> {
        Ok(PinOrder { subject: subject(&self.subject)?, reason: None })
    }
}
