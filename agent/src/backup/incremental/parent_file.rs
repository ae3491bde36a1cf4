//! A file as parents have it: all of it, or some pieces. Pure.

use std::ops::Range;

use pitr::repository::backup::Extent;
use pitr::repository::backup::file_map::FrameExtent;

use crate::backup::copy::frame::{Extents, push_extent, push_zeros};

/// Extents from one position of a file on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PiecedExtents {
    pub from: u64,
    pub extents: Extents,
}

/// Extents that can be found by position; there may be holes between them. Their packs have the numbers of the backup in the
/// making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentFile {
    size: u64,
    /// Where each extent begins.
    starts: Vec<u64>,
    extents: Extents,
}

impl ParentFile {
    /// Of pieces, however they come; of those that overlap the first counts.
    #[must_use]
    pub fn new(mut pieces: Vec<PiecedExtents>) -> Self {
        pieces.sort_by_key(|piece| piece.from);
        let mut file = Self::default();
        for piece in pieces {
            if piece.from >= file.size {
                file.size = piece.from;
                piece.extents.into_iter().for_each(|extent| file.push(extent));
            }
        }
        file
    }

    fn push(&mut self, extent: Extent) {
        self.starts.push(self.size);
        self.size += extent.bytes();
        self.extents.push(extent);
    }

    /// The same, with what `other` has where this has holes, and behind its end.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        let mut both = Self::default();
        let mut position = 0;
        let end = self.size.max(other.size);
        for span in self.spans().into_iter().chain(std::iter::once(end..end)) {
            both.add(other, position, span.start);
            both.add(self, span.start, span.end);
            position = span.end;
        }
        both
    }

    fn add(&mut self, from: &Self, begin: u64, end: u64) {
        for span in from.spans() {
            let (begin, end) = (begin.max(span.start), end.min(span.end));
            if begin < end {
                self.size = begin;
                from.slice(begin, end).for_each(|extent| self.push(extent));
            }
        }
    }

    /// Where there is no hole, in order.
    #[must_use]
    pub fn spans(&self) -> Vec<Range<u64>> {
        let mut spans: Vec<Range<u64>> = Vec::new();
        for (start, extent) in self.starts.iter().zip(&self.extents) {
            let end = start + extent.bytes();
            match spans.last_mut() {
                Some(span) if span.end == *start => span.end = end,
                _ => spans.push(*start..end),
            }
        }
        spans
    }

    /// Whether every byte from the first to `size` is there.
    #[must_use]
    pub fn is_whole(&self, size: u64) -> bool {
        size == 0 || self.spans().first().is_some_and(|span| span.start == 0 && span.end >= size)
    }

    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The extents from `from` to `to`, as far as the file goes.
    pub fn slice(&self, from: u64, to: u64) -> impl Iterator<Item = Extent> + '_ {
        let first = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let extents = self.starts.iter().zip(&self.extents).skip(first);
        extents.take_while(move |(start, _)| **start < to).filter_map(move |(start, extent)| {
            let (begin, end) = (from.max(*start), to.min(start + extent.bytes()));
            let bytes = end.checked_sub(begin).filter(|bytes| *bytes > 0)?;
            Some(match extent {
                Extent::Zeros { .. } => Extent::Zeros { bytes },
                Extent::Frame(frame) => {
                    let skipped = u32::try_from(begin - start).unwrap_or(u32::MAX);
                    Extent::Frame(FrameExtent { bytes, at: frame.at.saturating_add(skipped), ..*frame })
                }
            })
        })
    }

    /// Adds the extents from `from` to `to` to those of a file.
    pub fn share(&self, from: u64, to: u64, target: &mut Extents) {
        for extent in self.slice(from, to) {
            match extent {
                Extent::Zeros { bytes } => push_zeros(target, bytes),
                Extent::Frame(_) => push_extent(target, extent),
            }
        }
    }

    /// The frame extent that holds all bytes from `from` to `to`.
    #[must_use]
    pub fn block(&self, from: u64, to: u64) -> Option<FrameExtent> {
        match self.slice(from, to).next() {
            Some(Extent::Frame(frame)) if frame.bytes == to - from => Some(frame),
            _ => None,
        }
    }
}

/// Counts the frames that extents stand in.
#[derive(Clone, Debug, Default)]
pub struct FrameCount(Vec<(u32, u64)>);

impl FrameCount {
    pub fn add(&mut self, extent: &Extent) {
        if let Extent::Frame(frame) = extent
            && !self.0.contains(&(frame.pack, frame.offset))
        {
            self.0.push((frame.pack, frame.offset));
        }
    }

    #[must_use]
    pub fn frames(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use pitr::repository::hash::FrameHash;

    use super::*;

    pub fn frame(pack: u32, offset: u64, at: u32, bytes: u64) -> Extent {
        let hash = FrameHash::from_bytes([u8::try_from(pack & 0xFF).unwrap(); 16]);
        Extent::Frame(FrameExtent { bytes, pack, offset, stored_bytes: 10, at, hash })
    }

    pub fn file(extents: Vec<Extent>) -> ParentFile {
        ParentFile::new(vec![PiecedExtents { from: 0, extents }])
    }

    #[test]
    fn pieces_leave_holes_that_another_file_fills() {
        let piece = |from, extents| PiecedExtents { from, extents };
        let late = piece(300, vec![frame(1, 300, 0, 50)]);
        let early = piece(100, vec![frame(1, 100, 0, 60), frame(1, 200, 0, 40)]);
        let overlapping = piece(150, vec![frame(9, 0, 0, 500)]);
        let pieces = ParentFile::new(vec![late, early, overlapping]);
        assert_eq!((pieces.size(), pieces.spans()), (350, vec![100..200, 300..350]));
        assert!(!pieces.is_whole(200) && !pieces.is_whole(50) && pieces.is_whole(0));
        assert_eq!(pieces.block(90, 110), None);
        assert_eq!(pieces.block(150, 155).map(|frame| frame.offset), Some(100));
        assert_eq!(pieces.block(200, 210), None);
        assert_eq!(pieces.slice(0, 400).map(|extent| extent.bytes()).sum::<u64>(), 150);

        let other = file(vec![frame(2, 0, 0, 120), Extent::Zeros { bytes: 260 }]);
        let both = pieces.over(&other);
        assert_eq!((both.size(), both.spans()), (380, vec![0..380]));
        let packs: Vec<(u64, Option<u32>)> = both
            .slice(0, 380)
            .map(|extent| (extent.bytes(), if let Extent::Frame(frame) = extent { Some(frame.pack) } else { None }))
            .collect();
        assert_eq!(packs, [(100, Some(2)), (60, Some(1)), (40, Some(1)), (100, None), (50, Some(1)), (30, None)]);
        let short = pieces.over(&file(vec![frame(2, 0, 0, 120)]));
        assert_eq!(short.spans(), [0..200, 300..350]);
        assert_eq!(ParentFile::default().over(&pieces), pieces);
        assert_eq!(pieces.over(&ParentFile::default()), pieces);
    }

    #[test]
    fn any_part_of_a_file_can_be_taken_over() {
        let extents =
            vec![frame(1, 100, 0, 100), Extent::Zeros { bytes: 50 }, frame(1, 200, 40, 60), frame(2, 0, 0, 5)];
        let file = file(extents.clone());
        let shared = |from, to| {
            let mut target = Extents::new();
            file.share(from, to, &mut target);
            target
        };
        assert_eq!(shared(0, file.size()), extents);
        assert_eq!(shared(0, 0), []);
        assert_eq!(shared(20, 30), [frame(1, 100, 20, 10)]);
        assert_eq!(shared(90, 155), [frame(1, 100, 90, 10), Extent::Zeros { bytes: 50 }, frame(1, 200, 40, 5)]);
        assert_eq!(shared(209, 500), [frame(1, 200, 99, 1), frame(2, 0, 0, 5)]);
        assert_eq!(shared(215, 500), []);
        for from in 0..215 {
            for to in from..=215 {
                let mut target = shared(0, from);
                file.share(from, to, &mut target);
                file.share(to, 215, &mut target);
                assert_eq!(target, extents, "{from} {to}");
            }
        }
    }

    #[test]
    fn a_block_stands_in_one_frame_or_nowhere() {
        let file = file(vec![frame(1, 100, 8, 100), Extent::Zeros { bytes: 50 }]);
        assert_eq!(file.block(10, 20).map(|frame| (frame.at, frame.bytes)), Some((18, 10)));
        assert_eq!(file.block(95, 105), None);
        assert_eq!(file.block(100, 110), None);
        assert_eq!(file.block(150, 160), None);
    }
}
