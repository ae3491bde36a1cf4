//! Why a target cannot be reached, and what can be instead.

use std::fmt;

use chrono::{DateTime, Utc};

use super::scan::ScanFault;
use super::time_parse::format_time;
use crate::postgres::{Lsn, SegmentName, TimelineId};
use crate::repository::backup::BackupId;
use crate::repository::catalog::{BackupFault, MissingWal, Moment};
use crate::repository::marker::FinishedMarker;

/// What a refusal means to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalClass {
    /// The request itself must be changed.
    Usage,
    /// The moment cannot be reached; others can.
    NotReachable,
    /// The repository is damaged.
    Corruption,
}

/// The nearest moments that can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nearest {
    pub before: Option<Moment>,
    pub after: Option<Moment>,
}

/// A refusal. `Display` says what is wrong, [`PlanError::hint`] what is possible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    #[error("there is no complete backup")]
    NoBackup { incomplete: usize, damaged: usize },
    #[error("there is no complete backup on the way to timeline {timeline}")]
    NoBackupOnTimeline { timeline: TimelineId, other_timelines: Vec<TimelineId> },
    #[error("there is no backup \"{id}\"")]
    NoSuchBackup { id: BackupId, newest: Option<BackupId> },
    #[error("the backup \"{id}\" cannot be used: {fault}")]
    UnusableBackup { id: BackupId, fault: BackupFault },
    #[error("{target} is before the end of the backup \"{id}\" at {end}")]
    BeforeNamedBackup { target: String, id: BackupId, end: Lsn },
    #[error("{target} is before the end of the first backup that can be used")]
    BeforeFirstBackup { target: String, nearest: Nearest },
    #[error("{target} cannot be reached: WAL is missing from {} to {}, segment {}", missing.from, missing.to, missing.segment)]
    Gap { target: String, missing: MissingWal, nearest: Nearest },
    #[error("{target} is after the end of the WAL in the repository, {end}")]
    BeyondEnd { target: String, end: Lsn },
    #[error("{target} is in the future")]
    InTheFuture { target: String, now: DateTime<Utc> },
    #[error("there is no timeline {timeline} in the repository")]
    UnknownTimeline { timeline: TimelineId, known: Vec<TimelineId> },
    #[error("the history file of timeline {timeline} is not in the repository")]
    NoHistory { timeline: TimelineId },
    #[error("there is no marker \"{name}\"")]
    NoSuchMarker { name: String, similar: Vec<String> },
    #[error("the marker \"{name}\" is not in the history of timeline {timeline}")]
    MarkerElsewhere { name: String, timeline: TimelineId, at: Vec<(TimelineId, Lsn)> },
    #[error("{} markers are named \"{name}\"", markers.len())]
    AmbiguousMarker { name: String, markers: Vec<FinishedMarker> },
    #[error("the marker \"{name}\" is not finished")]
    MarkerNotFinished { name: String },
    #[error("transaction {xid} did not end in the WAL from {from} to {to}")]
    XidNotFound { xid: u64, from: Lsn, to: Lsn, seen: bool, missing: Option<MissingWal> },
    #[error("transaction {xid} is a subtransaction of {parent}")]
    Subtransaction { xid: u64, parent: u32 },
    #[error("no such combination: {0}")]
    Usage(&'static str),
    /// What the repository says of a position is not what stands there.
    #[error("the WAL does not hold {what} at {lsn}, segment {segment}")]
    WrongRecord { what: String, lsn: Lsn, segment: SegmentName },
    #[error("the WAL in segment {segment} cannot be read")]
    Wal {
        segment: SegmentName,
        #[source]
        fault: ScanFault,
        last_good: Option<Moment>,
    },
}

impl PlanError {
    #[must_use]
    pub const fn class(&self) -> RefusalClass {
        match self {
            Self::AmbiguousMarker { .. } | Self::NoSuchBackup { .. } | Self::Usage(_) => RefusalClass::Usage,
            Self::WrongRecord { .. } | Self::Wal { .. } => RefusalClass::Corruption,
            Self::NoBackup { damaged, .. } if *damaged > 0 => RefusalClass::Corruption,
            _ => RefusalClass::NotReachable,
        }
    }

    /// What can be reached, or what to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoBackup { incomplete, damaged } => no_backup(*incomplete, *damaged),
            Self::NoBackupOnTimeline { other_timelines, .. } => {
                format!("there are backups on {}", Timelines(other_timelines))
            }
            Self::NoSuchBackup { newest, .. } => {
                newest.as_ref().map(|id| format!("the newest backup is \"{id}\"; see \"pitr info\" for all"))?
            }
            Self::UnusableBackup { .. } => "\"pitr info\" lists the other backups and what is missing".to_owned(),
            Self::BeforeNamedBackup { .. } => "leave out the backup's name, and a fitting one is chosen".to_owned(),
            Self::BeforeFirstBackup { nearest, .. } | Self::Gap { nearest, .. } => nearest.to_string(),
            Self::BeyondEnd { end, .. } => {
                format!("the end is {end}; take --latest for everything that is in the repository")
            }
            Self::InTheFuture { now, .. } => {
                format!("it is {} now; take --latest for everything that is in the repository", format_time(*now))
            }
            Self::UnknownTimeline { known, .. } => format!("the repository holds {}", Timelines(known)),
            Self::NoHistory { timeline } => {
                format!(
                    "a server needs \"{}.history\"; the agent stores it once it streams that timeline",
                    timeline.to_hex()
                )
            }
            Self::NoSuchMarker { similar, .. } => match similar.first() {
                Some(name) => format!("did you mean \"{name}\"? \"pitr markers\" lists all"),
                None => "\"pitr markers\" lists all".to_owned(),
            },
            Self::MarkerElsewhere { at, .. } => elsewhere(at),
            Self::AmbiguousMarker { markers, .. } => ambiguous(markers),
            Self::MarkerNotFinished { name } => {
                format!("finish it with \"pitr finish {name} --ok\" or \"--failed\", or take --before {name}")
            }
            Self::XidNotFound { seen, missing, .. } => not_found(*seen, missing.as_ref()),
            Self::Subtransaction { parent, .. } => {
                format!("take --xid {parent}: subtransactions end with their parent")
            }
            Self::Usage(_) => return None,
            Self::WrongRecord { .. } => "an earlier target can be reached; nothing was written".to_owned(),
            Self::Wal { last_good: Some(moment), .. } => {
                format!("up to {} the WAL can be read: an earlier target can be reached", Told(moment))
            }
            Self::Wal { .. } => "an earlier target can be reached; nothing was written".to_owned(),
        })
    }
}

fn no_backup(incomplete: usize, damaged: usize) -> String {
    match (incomplete, damaged) {
        (0, 0) => "take one with \"pitr backup\"".to_owned(),
        (n, 0) => format!("{n} under way or given up; see \"pitr status\""),
        (_, n) => format!("{n} cannot be read; \"pitr info\" lists them"),
    }
}

fn elsewhere(at: &[(TimelineId, Lsn)]) -> String {
    let places: Vec<_> = at.iter().map(|(timeline, lsn)| format!("at {lsn} on timeline {timeline}")).collect();
    let timeline = at.last().map_or_else(String::new, |(timeline, _)| format!("; take --timeline {timeline}"));
    format!("it is {}{timeline}", places.join(", "))
}

fn ambiguous(markers: &[FinishedMarker]) -> String {
    let each = markers.iter().map(|finished| {
        let marker = &finished.marker;
        format!("{}@{} of {}", marker.name, marker.lsn, format_time(marker.time))
    });
    format!("name one of {}", each.collect::<Vec<_>>().join(", "))
}

fn not_found(seen: bool, missing: Option<&MissingWal>) -> String {
    if seen {
        return "it was running, and had not ended".to_owned();
    }
    match missing {
        Some(missing) => {
            format!("it may have ended in the WAL that is missing from {} to {}", missing.from, missing.to)
        }
        None => "transactions that wrote nothing leave nothing in the WAL".to_owned(),
    }
}

struct Timelines<'a>(&'a [TimelineId]);

impl fmt::Display for Timelines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        match ids.as_slice() {
            [] => f.write_str("no timeline"),
            [id] => write!(f, "timeline {id}"),
            ids => write!(f, "timelines {}", ids.join(", ")),
        }
    }
}

struct Told<'a>(&'a Moment);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.time {
            Some(time) => write!(f, "{} ({})", self.0.lsn, format_time(time)),
            None => write!(f, "{}", self.0.lsn),
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                write!(
                    f,
                    "the nearest moments that can be reached are {} before and {} after",
                    Told(before),
                    Told(after)
                )
            }
            (Some(before), None) => write!(f, "the nearest moment that can be reached is {} before", Told(before)),
            (None, Some(after)) => write!(f, "the nearest moment that can be reached is {} after", Told(after)),
            (None, None) => f.write_str("no moment can be reached on this timeline"),
        }
    }
}
