//! Which timeline's files the segments of a path are read from.

use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};

/// Consecutive segments of a path that are read from one timeline's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStretch {
    pub timeline: TimelineId,
    pub first: SegmentNumber,
    /// Excluded; none for the last stretch.
    pub end: Option<SegmentNumber>,
}

/// The stretches of `path`, in order, together all segments.
///
/// A segment in which a timeline begins is read from that timeline's file, which holds a copy of what came before; of several
/// that begin in it, from the newest: [`TimelinePath::tli_of_segment`] for runs of segments.
#[must_use]
pub fn stretches(path: &TimelinePath, size: WalSegmentSize) -> Vec<PathStretch> {
    let mut stretches: Vec<PathStretch> = Vec::with_capacity(path.steps().len());
    for step in path.steps() {
        let first = size.segment_of(step.begin);
        if let Some(before) = stretches.last_mut() {
            before.end = Some(first);
        }
        stretches.push(PathStretch { timeline: step.tli, first, end: None });
    }
    stretches.retain(|stretch| stretch.end.is_none_or(|end| stretch.first < end));
    stretches
}

/// The timeline that what ends at `lsn` was written on.
#[must_use]
pub fn timeline_of_end(path: &TimelinePath, lsn: Lsn) -> TimelineId {
    path.tli_at(Lsn::new(lsn.as_u64().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::repository::catalog::testing::{MIB, lsn, path, size, tli};

    #[test]
    fn timeline_that_begins_and_ends_in_one_segment_is_not_read() {
        let path = path(3, &[(1, 2 * MIB + 500), (2, 2 * MIB + 900)]);
        let stretches = stretches(&path, size());
        assert_eq!(stretches.iter().map(|s| s.timeline.as_u32()).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn what_ends_at_a_switch_was_written_before_it() {
        let path = path(3, &[(1, 1_000), (2, 2_000)]);
        let table = [(0, 1), (1_000, 1), (1_001, 2), (2_000, 2), (2_001, 3), (9_000, 3)];
        for (end, expected) in table {
            assert_eq!(timeline_of_end(&path, lsn(end)), tli(expected), "{end}");
        }
    }

    proptest! {
        #[test]
        fn stretches_agree_with_the_source_of_each_segment(
            mut ends in prop::collection::vec(1_u64..10 * MIB, 0..5), segment in 0_u64..12,
        ) {
            ends.sort_unstable();
            let ancestors: Vec<_> = (1..).zip(ends.iter().copied()).collect();
            let path = path(6, &ancestors);
            let segment = SegmentNumber::new(segment);
            let stretches = stretches(&path, size());
            let of: Vec<_> = stretches
                .iter()
                .filter(|s| s.first <= segment && s.end.is_none_or(|end| segment < end))
                .map(|s| s.timeline)
                .collect();
            prop_assert_eq!(of, vec![path.tli_of_segment(segment, size())]);
        }
    }
}
