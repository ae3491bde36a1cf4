//! What the repository holds of one lineage, as a value: backups, durable WAL by timeline, markers, the lease.
//!
//! Pure. [`load`](super::catalog_load::load) makes one from a store, complete or not at all: every question that is asked here
//! trusts that an object that is not in the catalog is not in the repository.
//!
//! Whether a moment can be reached follows from the durable WAL itself, byte by byte along the path of timelines that leads
//! to it. Nothing else, neither a note nor a clock, makes a hole disappear.

mod continuity;
mod durable_wal;
mod gaps;
mod stretch;
mod window;

use std::collections::BTreeMap;

use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use crate::repository::backup::{BackupId, BackupManifest};
use crate::repository::gap::GapNote;
use crate::repository::lease::Lease;
use crate::repository::lineage::Lineage;
use crate::repository::marker::FinishedMarker;

pub use continuity::{MissingWal, Reach};
pub use durable_wal::{DurableWal, LsnRange, MisplacedTail};
pub use gaps::Gap;
pub use stretch::{PathStretch, stretches, timeline_of_end};
pub use window::{BackupFault, Moment, Window};

/// One timeline's WAL, and how it came from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTimeline {
    /// By its history file; the first timeline has none and needs none. None where the file is not in the repository.
    pub path: Option<TimelinePath>,
    pub wal: DurableWal,
}

/// Something that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedObject {
    pub key: String,
    pub reason: String,
}

/// What the repository holds of one lineage.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    pub lineage: Lineage,
    /// Complete backups, oldest first.
    pub backups: Vec<BackupManifest>,
    /// Backups without a manifest: under way, or given up.
    pub incomplete: Vec<BackupId>,
    /// Manifests and markers that cannot be read; they hide nothing else.
    pub damaged: Vec<DamagedObject>,
    pub timelines: BTreeMap<TimelineId, CatalogTimeline>,
    /// By position.
    pub markers: Vec<FinishedMarker>,
    /// Explanations of holes, by position.
    pub gap_notes: Vec<GapNote>,
    pub lease: Option<Lease>,
    /// Segments before this position were not looked for; [`Lsn::INVALID`] where all were.
    pub listed_from: Lsn,
}

/// Why there is no way to a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    #[error("the repository holds nothing of timeline {0}")]
    Unknown(TimelineId),
    #[error("the history file of timeline {0} is not in the repository")]
    NoHistory(TimelineId),
}

impl Catalog {
    #[must_use]
    pub fn segment_size(&self) -> WalSegmentSize {
        self.lineage.wal_segment_size
    }

    /// The file name of the segment that holds the byte at `lsn` and is read on `path`.
    #[must_use]
    pub fn segment_name(&self, path: &TimelinePath, segment: SegmentNumber) -> SegmentName {
        segment.name(path.tli_of_segment(segment, self.segment_size()), self.segment_size())
    }

    /// The way to `timeline`.
    ///
    /// # Errors
    /// The timeline is unknown, or how it came to be is.
    pub fn path(&self, timeline: TimelineId) -> Result<&TimelinePath, NoPath> {
        let known = self.timelines.get(&timeline).ok_or(NoPath::Unknown(timeline))?;
        known.path.as_ref().ok_or(NoPath::NoHistory(timeline))
    }

    /// The timeline that the live cluster writes: that of the lease; without one, the newest with WAL, or with a backup.
    #[must_use]
    pub fn default_timeline(&self) -> Option<TimelineId> {
        let sealed = self.lease.as_ref().and_then(|lease| lease.sealed).map(|sealed| sealed.timeline);
        let with_wal = || self.timelines.iter().rev().find(|(_, t)| !t.wal.is_empty()).map(|(timeline, _)| *timeline);
        sealed.or_else(with_wal).or_else(|| self.backups.last().map(|backup| backup.timeline))
    }

    #[must_use]
    pub fn backup(&self, id: &BackupId) -> Option<&BackupManifest> {
        self.backups.iter().find(|backup| backup.id == *id)
    }

    /// Up to where every byte of `timeline` is durable by the lease's word.
    fn sealed_on(&self, timeline: TimelineId) -> Option<Lsn> {
        let sealed = self.lease.as_ref()?.sealed?;
        (sealed.timeline == timeline).then_some(sealed.lsn)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
