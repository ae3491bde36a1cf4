//! Which WAL of one timeline is durable in the repository, told from the names of its objects alone.
//!
//! A segment is whole, or it is open and there are tails of it. Whatever is missing is missing: nothing here guesses that a
//! hole does not matter. Memory grows with the number of holes and of open segments, not with the length of the archive.

use std::collections::BTreeMap;

use crate::postgres::{Lsn, SegmentNumber, WalSegmentSize};

/// Bytes of WAL from `from` (included) to `to` (excluded).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LsnRange {
    pub from: Lsn,
    pub to: Lsn,
}

/// Consecutive whole segments, `last` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SegmentRun {
    first: SegmentNumber,
    last: SegmentNumber,
}

/// Whole segments and tails of one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableWal {
    size: WalSegmentSize,
    /// In order, with at least one missing segment between two runs.
    whole: Vec<SegmentRun>,
    /// Tails by segment and start; of segments that are whole as well they do not matter.
    tails: BTreeMap<SegmentNumber, Vec<LsnRange>>,
}

impl DurableWal {
    #[must_use]
    pub const fn new(size: WalSegmentSize) -> Self {
        Self { size, whole: Vec::new(), tails: BTreeMap::new() }
    }

    /// Takes a whole segment, in any order; cheap in ascending order, as listings are.
    pub fn add_segment(&mut self, segment: SegmentNumber) {
        let at = self.whole.partition_point(|run| run.last < segment);
        if self.whole.get(at).is_some_and(|run| run.first <= segment) {
            return;
        }
        let joins_before = at.checked_sub(1).filter(|i| self.whole.get(*i).is_some_and(|r| r.last.next() == segment));
        let joins_after = self.whole.get(at).is_some_and(|run| segment.next() == run.first);
        match (joins_before.and_then(|before| self.whole.get_mut(before)), joins_after) {
            (Some(before), false) => before.last = segment,
            (None, true) => {
                if let Some(after) = self.whole.get_mut(at) {
                    after.first = segment;
                }
            }
            (None, false) => self.whole.insert(at, SegmentRun { first: segment, last: segment }),
            (Some(_), true) => {
                let after = self.whole.remove(at);
                if let Some(before) = at.checked_sub(1).and_then(|before| self.whole.get_mut(before)) {
                    before.last = after.last;
                }
            }
        }
    }

    /// Takes a tail.
    ///
    /// # Errors
    /// The range is empty or is not in the segment.
    pub fn add_tail(&mut self, segment: SegmentNumber, range: LsnRange) -> Result<(), MisplacedTail> {
        if range.from >= range.to || range.from < self.size.start_of(segment) || range.to > self.size.end_of(segment) {
            return Err(MisplacedTail { segment, range });
        }
        let tails = self.tails.entry(segment).or_default();
        let at = tails.partition_point(|tail| *tail < range);
        tails.insert(at, range);
        Ok(())
    }

    /// Takes whole segments, `last` included.
    pub fn add_segments(&mut self, first: SegmentNumber, last: SegmentNumber) {
        if last < first {
            return;
        }
        let start = self.whole.partition_point(|run| run.last.next() < first);
        let end = self.whole.partition_point(|run| run.first <= last.next());
        let joined = self.whole.get(start..end).unwrap_or_default();
        let first = joined.first().map_or(first, |run| run.first.min(first));
        let last = joined.last().map_or(last, |run| run.last.max(last));
        self.whole.splice(start..end, [SegmentRun { first, last }]);
    }

    /// Takes a whole segment away, and leaves its tails.
    pub fn remove_segment(&mut self, segment: SegmentNumber) {
        let at = self.whole.partition_point(|run| run.last < segment);
        let Some(run) = self.whole.get(at).copied().filter(|run| run.first <= segment) else { return };
        self.whole.remove(at);
        if segment < run.last {
            self.whole.insert(at, SegmentRun { first: segment.next(), last: run.last });
        }
        if let Some(before) = segment.as_u64().checked_sub(1).map(SegmentNumber::new).filter(|_| run.first < segment) {
            self.whole.insert(at, SegmentRun { first: run.first, last: before });
        }
    }

    /// Takes a tail away.
    pub fn remove_tail(&mut self, segment: SegmentNumber, range: LsnRange) {
        if let Some(tails) = self.tails.get_mut(&segment) {
            tails.retain(|tail| *tail != range);
            if tails.is_empty() {
                self.tails.remove(&segment);
            }
        }
    }

    /// Whole segments in order, in runs of which the last is included.
    pub fn whole_runs(&self) -> impl Iterator<Item = (SegmentNumber, SegmentNumber)> {
        self.whole.iter().map(|run| (run.first, run.last))
    }

    /// Segments of which there are tails, in order, with their ranges.
    pub fn tails(&self) -> impl Iterator<Item = (SegmentNumber, &[LsnRange])> {
        self.tails.iter().map(|(segment, tails)| (*segment, tails.as_slice()))
    }

    /// Everything of `other` as well: a timeline is listed in parts.
    pub fn merge(&mut self, other: Self) {
        for run in other.whole {
            let mut segment = run.first;
            while segment <= run.last {
                self.add_segment(segment);
                segment = segment.next();
            }
        }
        for (segment, tails) in other.tails {
            let mine = self.tails.entry(segment).or_default();
            mine.extend(tails);
            mine.sort_unstable();
            mine.dedup();
        }
    }

    /// What is in these segments, which are in order and do not overlap; a range without an end has none.
    #[must_use]
    pub fn within(&self, ranges: &[(SegmentNumber, Option<SegmentNumber>)]) -> Self {
        let mut kept = Self::new(self.size);
        for (first, last) in ranges {
            let overlaps = |run: &&SegmentRun| run.last >= *first && last.is_none_or(|last| run.first <= last);
            for run in self.whole.iter().filter(overlaps) {
                let last = last.map_or(run.last, |last| run.last.min(last));
                kept.whole.push(SegmentRun { first: run.first.max(*first), last });
            }
            let tails = self.tails.range(first..).take_while(|(segment, _)| last.is_none_or(|last| **segment <= last));
            kept.tails.extend(tails.map(|(segment, tails)| (*segment, tails.clone())));
        }
        kept
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.tails.is_empty()
    }

    #[must_use]
    pub fn is_whole(&self, segment: SegmentNumber) -> bool {
        self.run_of(segment).is_some()
    }

    /// Whole segments, each counted once.
    #[must_use]
    pub fn whole_segments(&self) -> u64 {
        self.whole.iter().map(|run| run.last.as_u64() - run.first.as_u64() + 1).sum()
    }

    /// Up to where `segment` is durable without a hole, from its first byte on; its start where nothing is.
    #[must_use]
    pub fn covered_to(&self, segment: SegmentNumber) -> Lsn {
        if self.is_whole(segment) {
            return self.size.end_of(segment);
        }
        let tails = self.tails.get(&segment).map(Vec::as_slice).unwrap_or_default();
        tails.iter().fold(self.size.start_of(segment), |covered, tail| {
            if tail.from <= covered { covered.max(tail.to) } else { covered }
        })
    }

    /// Up to where there is no hole, from the start of the segment of `from` on, and at most up to `limit`.
    #[must_use]
    pub fn contiguous_to(&self, from: Lsn, limit: Lsn) -> Lsn {
        let mut segment = self.size.segment_of(from);
        loop {
            if let Some(run) = self.run_of(segment) {
                segment = run.last.next();
            }
            let start = self.size.start_of(segment);
            if start >= limit {
                return limit;
            }
            let covered = self.covered_to(segment);
            if covered < self.size.end_of(segment) || covered >= limit {
                return covered.min(limit);
            }
            // Tails that reach the end of the segment are as good as the whole one.
            segment = segment.next();
        }
    }

    /// Start of the first segment from `segment` on of which the first byte is durable.
    #[must_use]
    pub fn next_covered(&self, segment: SegmentNumber) -> Option<SegmentNumber> {
        let at = self.whole.partition_point(|run| run.last < segment);
        let whole = self.whole.get(at).map(|run| run.first.max(segment));
        let open = self.tails.range(segment..).map(|(open, _)| *open);
        let open = open.filter(|open| self.covered_to(*open) > self.size.start_of(*open)).min();
        [whole, open].into_iter().flatten().min()
    }

    /// The end of the last durable byte, whatever is missing before it.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        let whole = self.whole.last().map(|run| self.size.end_of(run.last));
        let tails = self.tails.last_key_value().and_then(|(_, tails)| tails.iter().map(|tail| tail.to).max());
        whole.max(tails)
    }

    fn run_of(&self, segment: SegmentNumber) -> Option<&SegmentRun> {
        let at = self.whole.partition_point(|run| run.last < segment);
        self.whole.get(at).filter(|run| run.first <= segment)
    }
}

/// A tail that is not within the segment that its name states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tail {}-{} is not within segment {}", range.from, range.to, segment.as_u64())]
pub struct MisplacedTail {
    pub segment: SegmentNumber,
    pub range: LsnRange,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    #[test]
    fn runs_are_added_and_segments_taken_away() {
        let mut own = wal(&[1, 2, 5, 9], &[]);
        own.add_segments(SegmentNumber::new(3), SegmentNumber::new(6));
        assert_eq!(own, wal(&[1, 2, 3, 4, 5, 6, 9], &[]));
        own.remove_segment(SegmentNumber::new(4));
        own.remove_segment(SegmentNumber::new(1));
        own.remove_segment(SegmentNumber::new(6));
        own.remove_segment(SegmentNumber::new(8));
        assert_eq!(own, wal(&[2, 3, 5, 9], &[]));
        own.add_segments(SegmentNumber::new(4), SegmentNumber::new(8));
        assert_eq!(own, wal(&[2, 3, 4, 5, 6, 7, 8, 9], &[]));
    }

    fn wal(segments: &[u64], tails: &[(u64, u64, u64)]) -> DurableWal {
        let mut wal = DurableWal::new(size());
        for segment in segments {
            wal.add_segment(SegmentNumber::new(*segment));
        }
        for (segment, from, to) in tails {
            let range = LsnRange { from: Lsn::new(segment * MIB + from), to: Lsn::new(segment * MIB + to) };
            wal.add_tail(SegmentNumber::new(*segment), range).unwrap();
        }
        wal
    }

    fn contiguous(wal: &DurableWal, from: u64) -> u64 {
        wal.contiguous_to(Lsn::new(from), Lsn::MAX).as_u64()
    }

    #[test]
    fn whole_segments_and_tails_join() {
        let wal = wal(&[1, 2, 3], &[(4, 0, 100), (4, 100, 300)]);
        assert_eq!(contiguous(&wal, MIB + 40), 4 * MIB + 300);
        assert_eq!(wal.end(), Some(Lsn::new(4 * MIB + 300)));
        assert_eq!(wal.contiguous_to(Lsn::new(MIB), Lsn::new(2 * MIB + 5)), Lsn::new(2 * MIB + 5));
    }

    #[test]
    fn missing_segment_ends_what_is_contiguous() {
        let wal = wal(&[1, 2, 4], &[]);
        assert_eq!(contiguous(&wal, MIB), 3 * MIB);
        assert_eq!(contiguous(&wal, 3 * MIB), 3 * MIB);
        assert_eq!(wal.next_covered(SegmentNumber::new(3)), Some(SegmentNumber::new(4)));
        assert_eq!(wal.next_covered(SegmentNumber::new(5)), None);
    }

    #[test]
    fn missing_tail_ends_what_is_contiguous() {
        let wal = wal(&[1], &[(2, 0, 100), (2, 200, 300)]);
        assert_eq!(contiguous(&wal, MIB), 2 * MIB + 100);
        assert_eq!(wal.end(), Some(Lsn::new(2 * MIB + 300)));
    }

    #[test]
    fn overlapping_tails_of_a_restarted_agent_are_one() {
        let wal = wal(&[], &[(2, 0, 300), (2, 100, 200), (2, 250, 400)]);
        assert_eq!(contiguous(&wal, 2 * MIB), 2 * MIB + 400);
    }

    #[test]
    fn tails_of_a_middle_segment_bridge_only_when_complete() {
        assert_eq!(contiguous(&wal(&[1, 3], &[(2, 0, MIB)]), MIB), 4 * MIB);
        assert_eq!(contiguous(&wal(&[1, 3], &[(2, 0, MIB - 1)]), MIB), 3 * MIB - 1);
    }

    #[test]
    fn tail_without_its_beginning_covers_nothing() {
        let wal = wal(&[], &[(2, 100, 200)]);
        assert_eq!(contiguous(&wal, 2 * MIB + 150), 2 * MIB);
        assert_eq!(wal.next_covered(SegmentNumber::new(0)), None);
    }

    #[test]
    fn misplaced_tails_are_refused() {
        let mut wal = DurableWal::new(size());
        for (from, to) in [(0, MIB + 1), (MIB, 2 * MIB + 1), (MIB + 5, MIB + 5), (MIB + 6, MIB + 5)] {
            let range = LsnRange { from: Lsn::new(from), to: Lsn::new(to) };
            assert!(wal.add_tail(SegmentNumber::new(1), range).is_err(), "{from}..{to} was accepted");
        }
        assert!(wal.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_within_ranges_is_what_was_there_and_is_meant(
            segments in prop::collection::btree_set(0_u64..30, 0..30),
            ranges in prop::collection::btree_set(0_u64..32, 0..8),
            open in any::<bool>(),
        ) {
            // Pairs of bounds with at least one segment between two ranges.
            let bounds: Vec<u64> = ranges.into_iter().collect();
            let mut ranges: Vec<(u64, Option<u64>)> =
                bounds.chunks_exact(2).map(|pair| (pair[0], Some(pair[1].saturating_sub(1).max(pair[0])))).collect();
            ranges.dedup_by(|b, a| a.1.is_some_and(|last| last + 1 >= b.0));
            if let (true, Some(last)) = (open, ranges.last_mut()) {
                last.1 = None;
            }
            let all: Vec<u64> = segments.iter().copied().collect();
            let meant = |n: u64| ranges.iter().any(|(first, last)| *first <= n && last.is_none_or(|last| n <= last));
            let typed: Vec<_> =
                ranges.iter().map(|(f, l)| (SegmentNumber::new(*f), l.map(SegmentNumber::new))).collect();
            let kept = wal(&all, &[]).within(&typed);
            let expected: Vec<u64> = segments.iter().copied().filter(|n| meant(*n)).collect();
            prop_assert_eq!(kept, wal(&expected, &[]));
        }

        #[test]
        fn runs_are_the_set_of_segments(segments in prop::collection::vec(0_u64..40, 0..60), split in 0_usize..60) {
            let (first, second) = segments.split_at(split.min(segments.len()));
            let mut joined = wal(first, &[]);
            joined.merge(wal(second, &[]));
            let set: BTreeSet<u64> = segments.iter().copied().collect();
            prop_assert_eq!(joined.whole_segments(), set.len() as u64);
            for segment in 0..41 {
                prop_assert_eq!(joined.is_whole(SegmentNumber::new(segment)), set.contains(&segment));
                let mut end = segment;
                while set.contains(&end) {
                    end += 1;
                }
                prop_assert_eq!(contiguous(&joined, segment * MIB), end * MIB);
                let next = joined.next_covered(SegmentNumber::new(segment)).map(SegmentNumber::as_u64);
                prop_assert_eq!(next, set.range(segment..).next().copied());
            }
        }
    }
}
