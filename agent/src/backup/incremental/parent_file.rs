//! A file as the parent has it. Pure.

use pitr::repository::backup::file_map::FrameExtent;
use pitr::repository::backup::{Extent, FileEntry};

use crate::backup::copy::frame::{Extents, push_extent, push_zeros};

/// Extents that can be found by position. Their packs have the numbers of the backup in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentFile {
    size: u64,
    /// Where each extent begins.
    starts: Vec<u64>,
    extents: Extents,
}

impl ParentFile {
    #[must_use]
    pub fn new(entry: FileEntry) -> Self {
        let mut position = 0;
        let mut starts = Vec::with_capacity(entry.extents.len());
        for extent in &entry.extents {
            starts.push(position);
            position += extent.bytes();
        }
        Self { size: entry.size, starts, extents: entry.extents }
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
        let size = extents.iter().map(Extent::bytes).sum();
        let path = "base/5/16384".to_owned().try_into().unwrap();
        ParentFile::new(FileEntry { path, size, mode: 0o600, mtime: 0, extents })
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
