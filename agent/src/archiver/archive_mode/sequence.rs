//! Which stored segments join. Pure.

use std::collections::BTreeSet;

use pitr::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};

/// The segments of one timeline, in order up to the first that is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    size: WalSegmentSize,
    timeline: TimelineId,
    next: SegmentNumber,
    /// Stored, at `next` or behind it.
    ahead: BTreeSet<SegmentNumber>,
}

impl Sequence {
    pub(super) const fn new(timeline: TimelineId, next: SegmentNumber, size: WalSegmentSize) -> Self {
        Self { size, timeline, next, ahead: BTreeSet::new() }
    }

    pub(super) const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The first segment that was not taken yet.
    pub(super) const fn next(&self) -> SegmentNumber {
        self.next
    }

    pub(super) const fn next_name(&self) -> SegmentName {
        self.next.name(self.timeline, self.size)
    }

    pub(super) const fn next_start(&self) -> Lsn {
        self.size.start_of(self.next)
    }

    pub(super) const fn next_end(&self) -> Lsn {
        self.size.end_of(self.next)
    }

    /// A segment is stored. One of another timeline is found by listing, once the way leads there.
    pub(super) fn note(&mut self, name: SegmentName) {
        if name.tli() == self.timeline
            && let Some(number) = name.number(self.size).filter(|number| *number >= self.next)
        {
            self.ahead.insert(number);
        }
    }

    /// The next segment, if it is stored.
    pub(super) fn stored_next(&self) -> Option<SegmentName> {
        self.ahead.contains(&self.next).then(|| self.next_name())
    }

    /// The next segment was read.
    pub(super) fn advance(&mut self) {
        self.ahead.remove(&self.next);
        self.next = self.next.next();
    }

    /// Leaves what is missing behind, for the first segment that is stored.
    pub(super) fn earliest_ahead(&self) -> Option<SegmentNumber> {
        self.ahead.first().copied()
    }

    pub(super) fn skip_to(&mut self, segment: SegmentNumber) {
        self.next = self.next.max(segment);
        self.ahead = self.ahead.split_off(&self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn name(number: u64) -> SegmentName {
        SegmentNumber::new(number).name(TimelineId::FIRST, SIZE)
    }

    fn taken(sequence: &mut Sequence) -> Vec<SegmentName> {
        let mut taken = Vec::new();
        while let Some(name) = sequence.stored_next() {
            sequence.advance();
            taken.push(name);
        }
        taken
    }

    #[test]
    fn whatever_the_order_only_what_joins_is_taken() {
        let mut sequence = Sequence::new(TimelineId::FIRST, SegmentNumber::new(3), SIZE);
        for number in [5, 2, 6, 4] {
            sequence.note(name(number));
            assert_eq!(taken(&mut sequence), []);
        }
        sequence.note(SegmentNumber::new(3).name(TimelineId::new(2).unwrap(), SIZE));
        assert_eq!(taken(&mut sequence), []);
        sequence.note(name(3));
        sequence.note(name(3));
        assert_eq!(taken(&mut sequence), [name(3), name(4), name(5), name(6)]);
        sequence.note(name(4));
        assert_eq!((taken(&mut sequence), sequence.next()), (vec![], SegmentNumber::new(7)));
    }

    #[test]
    fn behind_a_hole_it_goes_on_with_what_is_there() {
        let mut sequence = Sequence::new(TimelineId::FIRST, SegmentNumber::new(3), SIZE);
        sequence.note(name(7));
        sequence.note(name(8));
        sequence.skip_to(sequence.earliest_ahead().unwrap());
        assert_eq!(taken(&mut sequence), [name(7), name(8)]);
        sequence.skip_to(SegmentNumber::new(1));
        assert_eq!(sequence.next(), SegmentNumber::new(9));
    }
}
