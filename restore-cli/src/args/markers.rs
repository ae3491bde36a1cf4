//! `pitr markers`.

use chrono::{DateTime, Utc};
use clap::Args;
use pitr::recovery::parse_time;

use super::UsageError;

/// List markers
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the repository only. The newest come last.

With --implicit, commits that changed the schema are listed instead: moments to go back to when
nobody set a marker, each with the options that restore to just before it.

Examples:
  pitr markers
  pitr markers release-42 --json
  pitr markers --implicit --since \"2 hours\"")]
pub struct MarkersArgs {
    /// Only markers of this name
    pub name: Option<String>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// List changes of the schema instead
    #[arg(long, conflicts_with = "name")]
    pub implicit: bool,
    /// From this time on, or from so long ago
    #[arg(long, value_name = "T", requires = "implicit", default_value = "1 day")]
    pub since: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkersOrder {
    pub name: Option<String>,
    pub limit: Option<usize>,
    /// Changes of the schema from then on are wanted.
    pub implicit_since: Option<DateTime<Utc>>,
}

impl MarkersArgs {
    /// # Errors
    /// `--since` is no time.
    pub fn validate(self, now: DateTime<Utc>) -> Result<MarkersOrder, UsageError> {
        let implicit_since = if self.implicit { Some(since(&self.since, now)?) } else { None };
        Ok(MarkersOrder { name: self.name, limit: self.limit, implicit_since })
    }
}

/// "1 day" means the same as "1 day ago".
pub(super) fn since(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, UsageError> {
    parse_time(&format!("{text} ago"), now)
        .or_else(|_| parse_time(text, now))
        .map_err(|error| UsageError { message: error.to_string(), hint: Some(error.hint()) })
}
