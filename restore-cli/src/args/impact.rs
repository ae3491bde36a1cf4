//! `pitr impact`.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use pitr::recovery::{RecoveryTarget, parse_moment};

use super::UsageError;
use super::target::{TargetArgs, TargetOrder, refused};

/// Show what a rollback to a moment would undo, table by table
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the repository only. What committed after the target counts, with all that it did: rows by
table, truncations, changes of the schema, sequences. Names are those that the tables had then.
A table is live traffic where it was changed before the target too.

--to takes any moment: before:NAME, after:NAME, time:T, lsn:L, xid:X or latest.

Examples:
  pitr impact --before release-42
  pitr impact --before release-42 --html impact.html
  pitr impact --time \"30 min ago\" --to before:release-43 --json")]
pub struct ImpactArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Up to this moment instead of the newest one
    #[arg(long, value_name = "MOMENT")]
    pub to: Option<String>,
    /// Write a page with a picture of the activity to FILE, besides what is printed
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImpactOrder {
    pub target: TargetOrder,
    pub to: RecoveryTarget,
    pub html: Option<PathBuf>,
}

impl ImpactArgs {
    /// `now` is what relative times count from, `current` what relative paths start from.
    ///
    /// # Errors
    /// A value that cannot be what it should.
    pub fn validate(self, now: DateTime<Utc>, current: &Path) -> Result<ImpactOrder, UsageError> {
        Ok(ImpactOrder {
            target: self.target.validate(now)?,
            to: moment(self.to.as_deref(), now)?,
            html: self.html.map(|path| current.join(path)),
        })
    }
}

/// The newest one where none is given.
pub(super) fn moment(text: Option<&str>, now: DateTime<Utc>) -> Result<RecoveryTarget, UsageError> {
    text.map_or(Ok(RecoveryTarget::Latest), |text| parse_moment(text, now).map_err(|error| refused(&error)))
}
