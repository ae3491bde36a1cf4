//! `pitr report`.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Args;

use super::UsageError;
use super::markers::since;

/// How often, how fast and how safely was deployed
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the repository only. A marker counts as a deployment once \"pitr finish\" closed it, or a
restore went back to just before it. What failed is over with a restore to before it, or with the
next deployment that ended well.

The lead time needs to know when the change was committed:
  pitr mark release-42 --meta commit_time=$(git log -1 --format=%cI)

Examples:
  pitr report
  pitr report --since \"1 year\" --json
  pitr report --html deployments.html")]
pub struct ReportArgs {
    /// Deployments that ended from this time on, or from so long ago
    #[arg(long, value_name = "T", default_value = "90 days")]
    pub since: String,
    /// Write a page with pictures as well; it needs nothing from elsewhere
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportOrder {
    pub since: DateTime<Utc>,
    pub html: Option<PathBuf>,
}

impl ReportArgs {
    /// # Errors
    /// `--since` is no time.
    pub fn validate(self, now: DateTime<Utc>) -> Result<ReportOrder, UsageError> {
        Ok(ReportOrder { since: since(&self.since, now)?, html: self.html })
    }
}
