//! Targets as a person asks for them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::postgres::{Lsn, TimelineId};

/// Which moment the recovery is to reach.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RecoveryTarget {
    /// The last record that is durable in the repository.
    Latest,
    /// As soon as the newest backup is consistent.
    Immediate,
    /// All transactions that ended up to this time, by the server's clock.
    Time { time: DateTime<Utc> },
    /// All records that end at or before this position.
    Lsn { lsn: Lsn },
    /// Up to and including the end of this transaction (32 bits as in the WAL, or 64 with the epoch).
    Xid { xid: u64 },
    /// Just before a marker was set, or after it was finished.
    Marker { side: MarkerSide, marker: MarkerRef },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkerSide {
    Before,
    After,
}

/// A marker by name, and by LSN where several share the name: `release-42` or `release-42@0/3000060`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MarkerRef {
    pub name: String,
    pub lsn: Option<Lsn>,
}

/// Which timeline the target is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetTimeline {
    /// The one the live cluster writes: the timeline of the lease, else the newest with WAL.
    #[default]
    Latest,
    /// That of the backup.
    Current,
    Id(TimelineId),
}

impl fmt::Display for MarkerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lsn {
            Some(lsn) => write!(f, "{}@{lsn}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Immediate => f.write_str("immediate"),
            Self::Time { time } => write!(f, "time {}", time.format("%Y-%m-%d %H:%M:%S%.6f+00")),
            Self::Lsn { lsn } => write!(f, "LSN {lsn}"),
            Self::Xid { xid } => write!(f, "transaction {xid}"),
            Self::Marker { side: MarkerSide::Before, marker } => write!(f, "before {marker}"),
            Self::Marker { side: MarkerSide::After, marker } => write!(f, "after {marker}"),
        }
    }
}
