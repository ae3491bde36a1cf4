//! `pitr find`.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{ArgGroup, Args};
use pitr::impact::Find;
use pitr::recovery::{RecoveryTarget, TargetTimeline, parse_moment};

use super::UsageError;
use super::impact::moment;
use super::target::refused;

/// Find the moment of a mistake, to go back to just before it
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).multiple(true).args(["dropped", "truncated", "mass_delete", "ddl"]),
    after_help = "\
Needs the repository only. Each moment comes with the command that restores to just before it.
NAME is that of a table, with or without its schema; * stands for anything.

--from and --to take any moment: before:NAME, after:NAME, time:T, lsn:L, xid:X or latest.

Examples:
  pitr find --dropped orders
  pitr find --dropped --truncated --mass-delete 10000
  pitr find --ddl --from before:release-42 --to before:release-43 --json")]
pub struct FindArgs {
    /// Tables, views, indexes and sequences that were dropped
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "*")]
    pub dropped: Option<String>,
    /// Tables that were truncated
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "*")]
    pub truncated: Option<String>,
    /// Transactions that deleted at least N rows from a table
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub mass_delete: Option<u64>,
    /// All changes of the schema
    #[arg(long)]
    pub ddl: bool,
    /// From this moment on; by default the last 24 hours, as far as they can be restored
    #[arg(long, value_name = "MOMENT")]
    pub from: Option<String>,
    /// Up to this moment instead of the newest one
    #[arg(long, value_name = "MOMENT")]
    pub to: Option<String>,
    /// latest, current or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest")]
    pub timeline: String,
}

/// What to look for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindOrder {
    pub find: Find,
    pub from: RecoveryTarget,
    /// Nobody said from where on: the oldest moment will do where that one cannot be reached.
    pub from_anywhere: bool,
    pub to: RecoveryTarget,
    pub timeline: TargetTimeline,
}

impl FindArgs {
    /// `now` is what relative times count from.
    ///
    /// # Errors
    /// A value that cannot be what it should.
    pub fn validate(self, now: DateTime<Utc>) -> Result<FindOrder, UsageError> {
        let from = match &self.from {
            Some(text) => parse_moment(text, now).map_err(|error| refused(&error))?,
            None => RecoveryTarget::Time { time: now - TimeDelta::hours(24) },
        };
        Ok(FindOrder {
            find: Find {
                dropped: self.dropped,
                truncated: self.truncated,
                mass_delete: self.mass_delete,
                ddl: self.ddl,
            },
            from,
            from_anywhere: self.from.is_none(),
            to: moment(self.to.as_deref(), now)?,
            timeline: self.timeline.parse().map_err(|error| refused(&error))?,
        })
    }
}
