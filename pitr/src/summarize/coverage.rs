//! For which parts of a timeline there is a summary, and for which not. Pure.
//!
//! Summaries may overlap: a fold stands beside what it was made of until that is deleted. What counts is which positions
//! lie in one of them.

use crate::postgres::{Lsn, SegmentNumber, WalSegmentSize};

/// A range of one timeline: a segment, or a part of it where the timeline begins or was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    pub from: Lsn,
    pub to: Lsn,
}

/// The union of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Apart from each other, by rising position.
    ranges: Vec<Stretch>,
}

impl FromIterator<Stretch> for Coverage {
    fn from_iter<T: IntoIterator<Item = Stretch>>(ranges: T) -> Self {
        let mut all: Vec<Stretch> = ranges.into_iter().collect();
        all.sort_unstable();
        let mut ranges: Vec<Stretch> = Vec::new();
        for next in all {
            match ranges.last_mut() {
                Some(last) if next.from <= last.to => last.to = last.to.max(next.to),
                _ => ranges.push(next),
            }
        }
        Self { ranges }
    }
}

impl Coverage {
    #[must_use]
    pub fn covers(&self, stretch: Stretch) -> bool {
        let index = self.ranges.partition_point(|range| range.from <= stretch.from);
        let before = index.checked_sub(1).and_then(|index| self.ranges.get(index));
        before.is_some_and(|range| stretch.to <= range.to)
    }
}

/// The parts of a timeline that are to have a summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub segment_size: WalSegmentSize,
    /// First byte that is the timeline's own.
    pub begin: Lsn,
    /// Where other timelines left it, as far as its WAL is stored up to there.
    pub switches: Vec<Lsn>,
    /// Those that are stored whole, in order.
    pub segments: Vec<SegmentNumber>,
}

impl Wanted {
    /// What none of the summaries covers, by rising position. Up to a switch one is wanted that ends there: what goes on
    /// behind it says of the other timeline's history more than is true.
    #[must_use]
    pub fn missing(&self, summaries: &[Stretch]) -> Vec<Stretch> {
        let size = self.segment_size;
        let coverage: Coverage = summaries.iter().copied().collect();
        let own =
            |start: Lsn, to| Some(Stretch { from: start.max(self.begin), to }).filter(|range| range.from < range.to);
        let whole = self.segments.iter().filter_map(|number| own(size.start_of(*number), size.end_of(*number)));
        let ends = self.switches.iter().filter(|switch| size.offset_of(**switch) != 0);
        let ends = ends.filter_map(|switch| own(size.start_of(size.segment_of(*switch)), *switch));
        let whole = whole.filter(|stretch| !coverage.covers(*stretch));
        let ends = ends.filter(|end| !summaries.iter().any(|summary| summary.from <= end.from && summary.to == end.to));
        let mut wanted: Vec<Stretch> = whole.chain(ends).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }
}

/// Stretches that follow each other, at most `longest` of them, so that each is read once.
#[must_use]
pub fn runs(stretches: &[Stretch], longest: usize) -> Vec<Vec<Stretch>> {
    let mut runs: Vec<Vec<Stretch>> = Vec::new();
    for stretch in stretches {
        match runs.last_mut() {
            Some(run) if run.len() < longest && run.last().is_some_and(|last| last.to == stretch.from) => {
                run.push(*stretch);
            }
            _ => runs.push(vec![*stretch]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { from: Lsn::new(from), to: Lsn::new(to) }
    }

    fn wanted(begin: u64, switches: &[u64], segments: &[u64]) -> Wanted {
        Wanted {
            segment_size: WalSegmentSize::new(1 << 20).unwrap(),
            begin: Lsn::new(begin),
            switches: switches.iter().copied().map(Lsn::new).collect(),
            segments: segments.iter().copied().map(SegmentNumber::new).collect(),
        }
    }

    #[test]
    fn overlapping_summaries_cover_what_any_of_them_does() {
        let coverage: Coverage =
            [stretch(30, 40), stretch(10, 20), stretch(15, 30), stretch(50, 60)].into_iter().collect();
        assert!(coverage.covers(stretch(10, 40)) && coverage.covers(stretch(55, 60)));
        assert!(
            !coverage.covers(stretch(39, 41)) && !coverage.covers(stretch(9, 11)) && !coverage.covers(stretch(40, 50))
        );
        assert!(!Coverage::default().covers(stretch(0, 1)));
    }

    #[test]
    fn every_segment_from_the_beginning_to_the_switch_is_wanted() {
        let begin = 3 * SIZE + 500;
        let wanted = wanted(begin, &[6 * SIZE + 700], &[3, 4, 5]);
        let all = wanted.missing(&[]);
        let ranges = [(begin, 4 * SIZE), (4 * SIZE, 5 * SIZE), (5 * SIZE, 6 * SIZE), (6 * SIZE, 6 * SIZE + 700)];
        assert_eq!(all, ranges.map(|(from, to)| stretch(from, to)));
        let folded = [stretch(begin, 5 * SIZE), stretch(6 * SIZE, 7 * SIZE)];
        assert_eq!(wanted.missing(&folded), [stretch(5 * SIZE, 6 * SIZE), stretch(6 * SIZE, 6 * SIZE + 700)]);
    }

    #[test]
    fn a_switch_at_the_border_of_segments_wants_nothing_more() {
        let wanted = wanted(0, &[5 * SIZE], &[3, 4]);
        let all = wanted.missing(&[]);
        assert_eq!(all, [stretch(3 * SIZE, 4 * SIZE), stretch(4 * SIZE, 5 * SIZE)]);
    }

    #[test]
    fn neighbours_are_read_in_one_go() {
        let stretches = [stretch(0, 1), stretch(1, 2), stretch(2, 3), stretch(5, 6)];
        let lengths = |longest| runs(&stretches, longest).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(64), [3, 1]);
        assert_eq!(lengths(2), [2, 1, 1]);
    }
}
