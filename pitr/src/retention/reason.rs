//! Why something stays or goes.

use std::fmt;

use serde::Serialize;

use super::policy::Grid;
use crate::repository::backup::BackupId;

/// Why a backup stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BackupReason {
    /// No rule says that anything goes.
    NoRule,
    /// It ended in the window.
    Window,
    /// The window begins with it.
    BeginsWindow,
    Grid {
        grid: Grid,
        period: String,
    },
    /// A recovery to the marker begins with it.
    Marker {
        name: String,
    },
    Pinned,
    /// One of the newest, of which so many are kept at least.
    Minimum,
    /// A backup that is being taken shares its pages.
    Parent {
        of: BackupId,
    },
    /// Others were named.
    NotNamed,
    /// No backup of the cluster can be restored: nothing is deleted that might help.
    NothingElse,
}

impl fmt::Display for BackupReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule says that anything goes"),
            Self::Window => f.write_str("in the window"),
            Self::BeginsWindow => f.write_str("the window begins with it"),
            Self::Grid { grid: Grid::Daily, period } => write!(f, "daily {period}"),
            Self::Grid { grid: Grid::Weekly, period } => write!(f, "weekly {period}"),
            Self::Grid { grid: Grid::Monthly, period } => write!(f, "monthly {period}"),
            Self::Marker { name } => write!(f, "marker {name}"),
            Self::Pinned => f.write_str("pinned"),
            Self::Minimum => f.write_str("one of the newest"),
            Self::Parent { of } => write!(f, "{of} is being taken and shares its pages"),
            Self::NotNamed => f.write_str("not named"),
            Self::NothingElse => f.write_str("no backup can be restored"),
        }
    }
}

/// Why WAL stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WalReason {
    NoRule,
    Window,
    /// It makes a backup consistent.
    Backup {
        id: BackupId,
    },
    Marker {
        name: String,
    },
}

/// Why an object stays, or goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum ObjectReason {
    // Stays.
    NoRule,
    Window,
    Backup,
    Marker,
    Pinned,
    /// A backup is being taken, or was interrupted and may be taken up again.
    OpenBackup,
    /// Identity of the lineage, lease, certificates, what a newer version may have put there.
    NeverDeleted,
    /// History files tell the way through timelines as long as there is one.
    History,
    /// It was stored a moment ago.
    Young,
    /// Goes once the time of grace is over.
    Grace,
    /// It waits until a backup that is being taken is over.
    WaitsForBackup,
    /// What is damaged may name it.
    MayBeNamed,
    // Goes.
    NoKeptBackup,
    NoKeptMoment,
    /// Nothing names it.
    Unnamed,
    /// Contents of a backup that others took the place of.
    Superseded,
    /// It said something of what is gone.
    Outdated,
    /// Of a backup that never became whole.
    Abandoned,
    /// Nothing of the lineage is kept.
    LineageEnds,
}

impl fmt::Display for ObjectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRule => "no rule says that anything goes",
            Self::Window => "the window needs it",
            Self::Backup => "a kept backup needs it",
            Self::Marker => "a kept marker needs it",
            Self::Pinned => "pinned",
            Self::OpenBackup => "a backup is being taken, or may be taken up again",
            Self::NeverDeleted => "never deleted",
            Self::History => "tells the way through timelines",
            Self::Young => "stored a moment ago",
            Self::Grace => "goes after the time of grace",
            Self::WaitsForBackup => "waits until a backup is over",
            Self::MayBeNamed => "something that is damaged may name it",
            Self::NoKeptBackup => "no rule keeps the backup",
            Self::NoKeptMoment => "no kept moment needs it",
            Self::Unnamed => "nothing names it",
            Self::Superseded => "packs were rewritten since",
            Self::Outdated => "tells of what is gone",
            Self::Abandoned => "of a backup that never became whole",
            Self::LineageEnds => "nothing of the lineage is kept",
        })
    }
}
