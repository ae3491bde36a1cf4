//! The WAL segment that is being received. Pure.

use bytes::Bytes;
use pitr::buffers::{BufferPool, PooledBuffer};
use pitr::postgres::wal::{SegmentFacts, SegmentValidator};
use pitr::postgres::{Lsn, MajorVersion, SegmentName, SegmentNumber, SystemIdentifier, TimelineId, WalSegmentSize};
use pitr::repository::wal_store::Tail;

use super::error::ArchiverError;

/// So many tails of one rank at the end of the segment, and the next one takes the place of all of them, a rank higher. So a
/// byte is stored once for each rank, and a segment of any size has at most a few times so many tails.
const FOLD_AFTER: usize = 32;
/// Of what another connection or agent stored: whatever it is made of, the first fold replaces it.
const RANK_OF_STORED: u32 = 0;

/// What all segments of one stream have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamFacts {
    pub timeline: TimelineId,
    /// First byte that is the timeline's own: what its first segment holds before that is a copy of its parent's.
    pub begin: Lsn,
    pub system_identifier: SystemIdentifier,
    pub major: MajorVersion,
    pub segment_size: WalSegmentSize,
}

impl StreamFacts {
    pub(super) const fn name(&self, number: SegmentNumber) -> SegmentName {
        number.name(self.timeline, self.segment_size)
    }
}

/// What an earlier connection or agent has stored of an open segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredPart {
    /// From the segment's start.
    pub bytes: Bytes,
    /// All of its tails, also those that do not join.
    pub tails: Vec<Tail>,
}

/// A part of the segment that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TailPart {
    pub tail: Tail,
    pub content: Bytes,
    /// What it makes superfluous.
    pub replaces: Vec<Tail>,
}

/// A segment with all its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WholeSegment {
    pub name: SegmentName,
    pub end: Lsn,
    pub content: Bytes,
    pub facts: SegmentFacts,
    /// What it makes superfluous.
    pub tails: Vec<Tail>,
}

/// Bytes from the start of a segment on, validated as they come.
#[derive(Debug)]
pub(super) struct OpenSegment {
    facts: StreamFacts,
    name: SegmentName,
    start: Lsn,
    bytes: PooledBuffer,
    validator: SegmentValidator,
    /// What the same bytes were before.
    stored: Bytes,
    /// Up to here the segment stands, or is on its way, in tails.
    handed_over: Lsn,
    /// What stands or is on its way, with ranks that never rise from one to the next.
    tails: Vec<(Tail, u32)>,
    /// Whether the first of `tails` need not join: then nothing but the whole can take their place.
    unordered: bool,
}

impl OpenSegment {
    /// Its bytes stand in a buffer of `buffers`.
    pub(super) fn new(facts: StreamFacts, number: SegmentNumber, stored: StoredPart, buffers: &BufferPool) -> Self {
        let start = facts.segment_size.start_of(number);
        let validator = SegmentValidator::new(facts.timeline, number, facts.segment_size)
            .with_system_identifier(facts.system_identifier)
            .with_major(facts.major);
        Self {
            facts,
            name: facts.name(number),
            start,
            bytes: buffers.take(facts.segment_size.as_usize()),
            validator,
            handed_over: start.advance(stored.bytes.len() as u64),
            stored: stored.bytes,
            unordered: !stored.tails.is_empty(),
            tails: stored.tails.into_iter().map(|tail| (tail, RANK_OF_STORED)).collect(),
        }
    }

    /// Where the next byte belongs.
    pub(super) fn position(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.bytes.len() == self.facts.segment_size.as_usize()
    }

    /// Takes what of `bytes` belongs into this segment, and says how much that was.
    ///
    /// # Errors
    /// The bytes are not those that were stored before, or no WAL of this place.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<usize, ArchiverError> {
        let room = self.facts.segment_size.as_usize().saturating_sub(self.bytes.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.compare(taken)?;
        self.validator.feed(taken).map_err(|source| ArchiverError::InvalidWal { segment: self.name, source })?;
        self.bytes.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn compare(&mut self, bytes: &[u8]) -> Result<(), ArchiverError> {
        let known = self.stored.get(self.bytes.len()..).unwrap_or_default();
        let differs = known.iter().zip(bytes).position(|(known, byte)| known != byte);
        if let Some(offset) = differs {
            let lsn = self.position().advance(offset as u64);
            return Err(ArchiverError::Fork { timeline: self.facts.timeline, lsn });
        }
        if bytes.len() >= known.len() {
            self.stored = Bytes::new();
        }
        Ok(())
    }

    /// Whether there are bytes that no tail holds.
    pub(super) fn has_news(&self) -> bool {
        self.position() > self.handed_over
    }

    /// The bytes that no tail holds, as the next tail; none where there are none.
    pub(super) fn next_tail(&mut self) -> Option<TailPart> {
        let to = self.position();
        if to <= self.handed_over {
            return None;
        }
        let (keep, rank) = self.fold();
        let from = match self.tails.get(keep) {
            Some(_) if keep == 0 => self.start,
            Some((first, _)) => first.from,
            None => self.handed_over,
        };
        let tail = Tail { segment: self.name, from, to };
        let offset = usize::try_from(from.distance_from(self.start)?).ok()?;
        let content = Bytes::copy_from_slice(self.bytes.get(offset..)?);
        let replaces = self.tails.drain(keep..).map(|(tail, _)| tail).collect();
        if keep == 0 {
            self.unordered = false;
        }
        self.tails.push((tail, rank));
        self.handed_over = to;
        Some(TailPart { tail, content, replaces })
    }

    /// How many of the tails stay beside the next one, and what rank that has.
    fn fold(&self) -> (usize, u32) {
        if self.unordered {
            return if self.tails.len() >= FOLD_AFTER { (0, 1) } else { (self.tails.len(), 0) };
        }
        let (mut keep, mut rank) = (self.tails.len(), 0);
        loop {
            let equals = self.tails.iter().take(keep).rev().take_while(|(_, other)| *other == rank).count();
            if equals < FOLD_AFTER {
                return (keep, rank);
            }
            (keep, rank) = (keep.saturating_sub(equals), rank + 1);
        }
    }

    /// The segment, once [`OpenSegment::is_complete`].
    ///
    /// # Errors
    /// It is not, after all.
    pub(super) fn finish(self) -> Result<WholeSegment, ArchiverError> {
        let facts =
            self.validator.finish().map_err(|source| ArchiverError::InvalidWal { segment: self.name, source })?;
        Ok(WholeSegment {
            name: self.name,
            end: self.start.advance(self.bytes.len() as u64),
            content: self.bytes.into(),
            facts,
            tails: self.tails.into_iter().map(|(tail, _)| tail).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use pitr::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};

    use super::*;

    fn facts() -> StreamFacts {
        StreamFacts {
            timeline: TimelineId::FIRST,
            begin: Lsn::INVALID,
            system_identifier: SYSTEM_IDENTIFIER,
            major: MajorVersion::V15,
            segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        }
    }

    const NUMBER: SegmentNumber = SegmentNumber::new(3);

    fn wal() -> Vec<u8> {
        let mut writer = WalWriter::new(MajorVersion::V15, TimelineId::FIRST, NUMBER, facts().segment_size);
        while writer.bytes().len() < 2 << 20 {
            writer.filler(5000);
        }
        writer.bytes().to_vec()
    }

    #[test]
    fn takes_what_belongs_to_it_and_no_more() {
        let wal = wal();
        let mut segment = OpenSegment::new(facts(), NUMBER, StoredPart::default(), &BufferPool::default());
        let mut offset = 0;
        while !segment.is_complete() {
            offset += segment.feed(&wal[offset..(offset + 100_000).min(wal.len())]).unwrap();
        }
        assert_eq!(offset, 1 << 20);
        let whole = segment.finish().unwrap();
        assert_eq!(whole.content, wal[..1 << 20]);
        assert_eq!((whole.name.to_string().as_str(), whole.end), ("000000010000000000000003", Lsn::new(4 << 20)));
    }

    #[test]
    fn tails_follow_each_other_and_fold() {
        let wal = wal();
        let mut segment = OpenSegment::new(facts(), NUMBER, StoredPart::default(), &BufferPool::default());
        assert_eq!(segment.next_tail(), None);
        let mut standing: Vec<Tail> = Vec::new();
        let (mut folds, mut written) = (0, 0);
        for piece in wal[..1 << 20].chunks(300) {
            segment.feed(piece).unwrap();
            assert!(segment.has_news());
            let part = segment.next_tail().unwrap();
            assert!(!segment.has_news() && segment.next_tail().is_none());
            folds += usize::from(!part.replaces.is_empty());
            let kept = standing.len() - part.replaces.len();
            assert_eq!(standing.split_off(kept), part.replaces, "the last ones are replaced");
            assert_eq!(part.tail.from, standing.last().map_or(Lsn::new(3 << 20), |last| last.to));
            let offset = usize::try_from(part.tail.from.as_u64()).unwrap() - (3 << 20);
            assert_eq!(part.content, wal[offset..offset + part.content.len()]);
            assert_eq!(part.content.len() as u64, part.tail.to.distance_from(part.tail.from).unwrap());
            standing.push(part.tail);
            written += part.content.len();
            assert!(standing.len() <= 3 * FOLD_AFTER, "{}", standing.len());
        }
        assert!(folds >= 100, "{folds}");
        assert!(written < 4 << 20, "{written} bytes were stored of a segment of 1 MiB");
        assert_eq!(segment.finish().unwrap().tails, standing);
    }

    #[test]
    fn what_another_agent_left_goes_with_the_first_fold() {
        let wal = wal();
        let start = Lsn::new(3 << 20);
        let left = |from: u64, to: u64| Tail {
            segment: facts().name(NUMBER),
            from: start.advance(from),
            to: start.advance(to),
        };
        // The last one does not join.
        let tails = vec![left(0, 400), left(0, 1000), left(5000, 6000)];
        let stored = StoredPart { bytes: Bytes::copy_from_slice(&wal[..1000]), tails: tails.clone() };
        let mut segment = OpenSegment::new(facts(), NUMBER, stored, &BufferPool::default());
        segment.feed(&wal[..1000]).unwrap();
        let mut at = 1000;
        let folded = loop {
            segment.feed(&wal[at..at + 100]).unwrap();
            at += 100;
            let part = segment.next_tail().unwrap();
            if !part.replaces.is_empty() {
                break part;
            }
        };
        assert_eq!((folded.tail.from, folded.content.len()), (start, at));
        assert_eq!(folded.replaces[..3], tails);
        assert_eq!(folded.replaces.len(), FOLD_AFTER);
    }

    #[test]
    fn what_was_stored_before_must_come_again() {
        let wal = wal();
        let stored = || StoredPart { bytes: Bytes::copy_from_slice(&wal[..50_000]), tails: Vec::new() };
        for cut in [1, 777, 49_999, 50_000, 50_001] {
            let mut segment = OpenSegment::new(facts(), NUMBER, stored(), &BufferPool::default());
            for piece in wal[..60_000].chunks(cut) {
                segment.feed(piece).unwrap();
            }
            let part = segment.next_tail().unwrap();
            assert_eq!((part.tail.from, part.tail.to), (Lsn::new((3 << 20) + 50_000), Lsn::new((3 << 20) + 60_000)));

            let mut other = wal.clone();
            other[49_999] ^= 1;
            let mut segment = OpenSegment::new(facts(), NUMBER, stored(), &BufferPool::default());
            let error = other[..60_000].chunks(cut).find_map(|piece| segment.feed(piece).err()).unwrap();
            assert!(matches!(error, ArchiverError::Fork { lsn, .. } if lsn == Lsn::new((3 << 20) + 49_999)), "{error}");
        }
    }

    #[test]
    fn nothing_is_handed_over_while_the_stored_part_comes_again() {
        let wal = wal();
        let stored = StoredPart { bytes: Bytes::copy_from_slice(&wal[..50_000]), tails: Vec::new() };
        let mut segment = OpenSegment::new(facts(), NUMBER, stored, &BufferPool::default());
        segment.feed(&wal[..40_000]).unwrap();
        assert!(!segment.has_news() && segment.next_tail().is_none());
    }

    #[test]
    fn refuses_what_is_not_wal_of_this_place() {
        let mut wal = wal();
        wal[8192 + 8] ^= 0x10;
        let mut segment = OpenSegment::new(facts(), NUMBER, StoredPart::default(), &BufferPool::default());
        assert!(matches!(segment.feed(&wal[..100_000]), Err(ArchiverError::InvalidWal { .. })));
        let mut other = facts();
        other.system_identifier = SystemIdentifier::new(7);
        let mut segment = OpenSegment::new(other, NUMBER, StoredPart::default(), &BufferPool::default());
        assert!(segment.feed(&self::wal()[..100]).is_err());
    }
}
