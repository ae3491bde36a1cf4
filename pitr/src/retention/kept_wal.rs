//! Which segments of which timelines stay, and what for.

use std::collections::BTreeMap;

use super::reason::WalReason;
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};
use crate::repository::catalog::stretches;

/// Consecutive segments, `last` included; without a last one for all that come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRange {
    pub first: SegmentNumber,
    pub last: Option<SegmentNumber>,
    pub why: WalReason,
}

impl KeptRange {
    #[must_use]
    pub fn holds(&self, segment: SegmentNumber) -> bool {
        self.first <= segment && self.last.is_none_or(|last| segment <= last)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptWal {
    ranges: BTreeMap<TimelineId, Vec<KeptRange>>,
}

impl KeptWal {
    /// The files of `path` with the bytes from the segment of `from` on up to `to`; to its end where there is none.
    pub fn keep(&mut self, path: &TimelinePath, size: WalSegmentSize, from: Lsn, to: Option<Lsn>, why: &WalReason) {
        let (begin, end) = (size.segment_of(from), to.map(|to| size.segment_before(to)));
        for stretch in stretches(path, size) {
            let first = stretch.first.max(begin);
            let before_next = stretch.end.map(|end| SegmentNumber::new(end.as_u64().saturating_sub(1)));
            let last = match (before_next, end) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            };
            if last.is_none_or(|last| first <= last) {
                self.keep_files(stretch.timeline, first, last, why.clone());
            }
        }
    }

    pub fn keep_files(&mut self, tli: TimelineId, first: SegmentNumber, last: Option<SegmentNumber>, why: WalReason) {
        self.ranges.entry(tli).or_default().push(KeptRange { first, last, why });
    }

    /// Why a segment stays; none where it goes.
    #[must_use]
    pub fn why(&self, tli: TimelineId, segment: SegmentNumber) -> Option<&WalReason> {
        self.ranges.get(&tli)?.iter().filter(|range| range.holds(segment)).map(|range| &range.why).min()
    }

    /// Whether any file from `first` to `last` stays.
    #[must_use]
    pub fn overlaps(&self, tli: TimelineId, first: SegmentNumber, last: SegmentNumber) -> bool {
        let ranges = self.ranges.get(&tli).map(Vec::as_slice).unwrap_or_default();
        ranges.iter().any(|range| range.first <= last && range.last.is_none_or(|end| first <= end))
    }

    /// The first segment of a timeline that stays.
    #[must_use]
    pub fn first(&self, tli: TimelineId) -> Option<SegmentNumber> {
        self.ranges.get(&tli)?.iter().map(|range| range.first).min()
    }

    /// What stays of a timeline, in order, without overlaps and not touching each other.
    #[must_use]
    pub fn merged(&self, tli: TimelineId) -> Vec<(SegmentNumber, Option<SegmentNumber>)> {
        let mut ranges: Vec<_> =
            self.ranges.get(&tli).into_iter().flatten().map(|range| (range.first, range.last)).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(SegmentNumber, Option<SegmentNumber>)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if end.is_none_or(|end| first <= end.next()) => {
                    *end = match (*end, last) {
                        (Some(end), Some(last)) => Some(end.max(last)),
                        _ => None,
                    };
                }
                _ => merged.push((first, last)),
            }
        }
        merged
    }
}
