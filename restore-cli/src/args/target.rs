//! Which moment is meant, as every command that goes to one takes it.

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};
use pitr::recovery::{MarkerSide, ParseTargetError, RecoveryTarget, TargetTimeline, parse_time, parse_xid};

use super::UsageError;
use super::mark::parse_marker;

pub(super) const TARGET: &str = "Target";

/// A target, exactly one.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["latest", "immediate", "time", "lsn", "xid", "before", "after"]))]
pub struct TargetArgs {
    /// The end of what is durable in the repository
    #[arg(long, help_heading = TARGET)]
    pub latest: bool,
    /// As soon as the newest backup is consistent
    #[arg(long, help_heading = TARGET)]
    pub immediate: bool,
    /// All that ended up to this time, by the server's clock
    #[arg(long, visible_alias = "target-time", value_name = "T", help_heading = TARGET)]
    pub time: Option<String>,
    /// All records that end at or before this position
    #[arg(long, visible_alias = "target-lsn", value_name = "L", help_heading = TARGET)]
    pub lsn: Option<String>,
    /// Up to the end of this transaction
    #[arg(long, visible_alias = "target-xid", value_name = "X", help_heading = TARGET)]
    pub xid: Option<String>,
    /// Just before this marker was set; NAME@LSN where several share the name
    #[arg(long, visible_alias = "target-name", value_name = "MARKER", help_heading = TARGET)]
    pub before: Option<String>,
    /// All that was committed before this marker was finished
    #[arg(long, value_name = "MARKER", help_heading = TARGET)]
    pub after: Option<String>,
    /// latest, current or a number
    #[arg(long, visible_alias = "target-timeline", value_name = "TIMELINE", default_value = "latest", help_heading = TARGET)]
    pub timeline: String,
    /// Leave out what --time, --lsn or --xid names
    #[arg(long, help_heading = TARGET)]
    pub exclusive: bool,
}

/// A target, and how it is to be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetOrder {
    pub target: RecoveryTarget,
    pub timeline: TargetTimeline,
    pub exclusive: bool,
}

impl TargetArgs {
    /// `now` is what relative times count from.
    ///
    /// # Errors
    /// A value that cannot be what it should, options that contradict each other.
    pub fn validate(self, now: DateTime<Utc>) -> Result<TargetOrder, UsageError> {
        let target = self.target(now)?;
        let may_exclude =
            matches!(target, RecoveryTarget::Time { .. } | RecoveryTarget::Lsn { .. } | RecoveryTarget::Xid { .. });
        if self.exclusive && !may_exclude {
            return Err(UsageError::new("--exclusive goes with --time, --lsn and --xid only"));
        }
        let timeline = self.timeline.parse().map_err(|error| refused(&error))?;
        Ok(TargetOrder { target, timeline, exclusive: self.exclusive })
    }

    /// clap has seen to it that there is exactly one.
    fn target(&self, now: DateTime<Utc>) -> Result<RecoveryTarget, UsageError> {
        let marker = |side, text: &str| Ok(RecoveryTarget::Marker { side, marker: parse_marker(text)? });
        if let Some(time) = &self.time {
            let time = parse_time(time, now).map_err(|error| refused(&error.into()))?;
            Ok(RecoveryTarget::Time { time })
        } else if let Some(lsn) = &self.lsn {
            let lsn = lsn.parse().map_err(|error: pitr::postgres::lsn::ParseLsnError| refused(&error.into()))?;
            Ok(RecoveryTarget::Lsn { lsn })
        } else if let Some(xid) = &self.xid {
            Ok(RecoveryTarget::Xid { xid: parse_xid(xid).map_err(|error| refused(&error))? })
        } else if let Some(name) = &self.before {
            marker(MarkerSide::Before, name)
        } else if let Some(name) = &self.after {
            marker(MarkerSide::After, name)
        } else if self.immediate {
            Ok(RecoveryTarget::Immediate)
        } else {
            Ok(RecoveryTarget::Latest)
        }
    }
}

pub(super) fn refused(error: &ParseTargetError) -> UsageError {
    UsageError { message: error.to_string(), hint: error.hint() }
}
