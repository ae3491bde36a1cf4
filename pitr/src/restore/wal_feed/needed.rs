//! What a recovery needs up to its target.

use super::FeedError;
use crate::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use crate::recovery::WalRun;

/// Segments that one timeline's files serve, `last` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NeededRun {
    timeline: TimelineId,
    first: SegmentNumber,
    last: SegmentNumber,
}

/// The segments of a plan, in the order of replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NeededWal {
    size: WalSegmentSize,
    runs: Vec<NeededRun>,
    end: Lsn,
}

impl NeededWal {
    /// None where a plan has no end.
    pub(super) fn new(wal: &[WalRun], size: WalSegmentSize) -> Result<Option<Self>, FeedError> {
        let Some(end) = wal.last().map(|run| run.to_lsn) else { return Ok(None) };
        let number = |text: &str, timeline: TimelineId| {
            let name = text.parse::<SegmentName>().ok().filter(|name| name.tli() == timeline);
            name.and_then(|name| name.number(size)).ok_or_else(|| FeedError::Plan(text.to_owned()))
        };
        let runs = wal.iter().map(|run| {
            let (first, last) = (number(&run.first_segment, run.timeline)?, number(&run.last_segment, run.timeline)?);
            if first > last {
                Err(FeedError::Plan(run.last_segment.clone()))
            } else {
                Ok(NeededRun { timeline: run.timeline, first, last })
            }
        });
        Ok(Some(Self { size, runs: runs.collect::<Result<_, _>>()?, end }))
    }

    /// Up to where `segment` is needed; none where it is not.
    pub(super) fn needed_to(&self, segment: SegmentName) -> Option<Lsn> {
        let (at, number) = self.find(segment)?;
        let is_last = at + 1 == self.runs.len() && self.runs.get(at).is_some_and(|run| run.last == number);
        let whole = self.size.end_of(number);
        Some(if is_last { self.end.min(whole) } else { whole })
    }

    /// The segments that follow `segment`, at most `count`, but not the one in which the target is: that may be open.
    pub(super) fn whole_ones_after(&self, segment: SegmentName, count: usize) -> Vec<SegmentName> {
        let Some((at, number)) = self.find(segment) else { return Vec::new() };
        let mut following = Vec::new();
        for (index, run) in self.runs.iter().enumerate().skip(at) {
            let mut next = if index == at { number.next() } else { run.first };
            while next <= run.last && following.len() < count {
                following.push(next.name(run.timeline, self.size));
                next = next.next();
            }
        }
        following.retain(|name| self.needed_to(*name) == name.number(self.size).map(|number| self.size.end_of(number)));
        following
    }

    fn find(&self, segment: SegmentName) -> Option<(usize, SegmentNumber)> {
        let number = segment.number(self.size)?;
        let covers = |run: &NeededRun| run.timeline == segment.tli() && run.first <= number && number <= run.last;
        self.runs.iter().position(covers).map(|at| (at, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::catalog::testing::{MIB, lsn, size, tli};

    fn run(timeline: u32, first: u64, last: u64, to: u64) -> WalRun {
        let name = |segment| SegmentNumber::new(segment).name(tli(timeline), size()).to_string();
        WalRun {
            timeline: tli(timeline),
            from_lsn: lsn(first * MIB),
            to_lsn: lsn(to),
            first_segment: name(first),
            last_segment: name(last),
            segments: (last + 1).saturating_sub(first),
            ends_in_tails: false,
        }
    }

    fn name(timeline: u32, segment: u64) -> SegmentName {
        SegmentNumber::new(segment).name(tli(timeline), size())
    }

    fn needed() -> NeededWal {
        let wal = [run(1, 2, 3, 4 * MIB), run(2, 4, 6, 6 * MIB + 700)];
        NeededWal::new(&wal, size()).unwrap().unwrap()
    }

    #[test]
    fn only_the_segment_of_the_target_is_needed_in_part() {
        let needed = needed();
        assert_eq!(needed.needed_to(name(1, 3)), Some(lsn(4 * MIB)));
        assert_eq!(needed.needed_to(name(2, 4)), Some(lsn(5 * MIB)));
        assert_eq!(needed.needed_to(name(2, 6)), Some(lsn(6 * MIB + 700)));
        for other in [name(1, 4), name(2, 3), name(2, 7), name(3, 5), name(1, 1)] {
            assert_eq!(needed.needed_to(other), None, "{other}");
        }
    }

    #[test]
    fn segments_follow_each_other_over_timelines() {
        let needed = needed();
        assert_eq!(needed.whole_ones_after(name(1, 2), 3), [name(1, 3), name(2, 4), name(2, 5)]);
        assert_eq!(needed.whole_ones_after(name(2, 4), 3), [name(2, 5)], "the target's segment may be open");
        assert_eq!(needed.whole_ones_after(name(2, 6), 3), []);
        assert_eq!(needed.whole_ones_after(name(1, 5), 3), []);
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        assert_eq!(NeededWal::new(&[], size()).unwrap(), None);
        assert!(NeededWal::new(&[run(1, 5, 4, 5 * MIB)], size()).is_err());
        let mut other = run(1, 2, 3, 4 * MIB);
        other.timeline = tli(2);
        assert!(NeededWal::new(&[other], size()).is_err());
    }
}
