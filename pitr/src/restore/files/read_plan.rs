//! Which ranges of which packs to read for a map, and what of their frames goes where. Pure.

use std::collections::BTreeMap;

use super::map::FileMap;
use crate::repository::backup::{Extent, PackId};
use crate::repository::hash::FrameHash;

/// Stored bytes that are read and thrown away rather than paying for another request.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// One request: neighbouring frames of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackRange {
    pub(super) pack: PackId,
    pub(super) start: u64,
    pub(super) end: u64,
    /// By offset.
    pub(super) frames: Vec<FrameRead>,
}

/// One frame and its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameRead {
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u32,
    pub(crate) hash: FrameHash,
    /// By position in the frame.
    pub(crate) runs: Vec<FileRun>,
}

/// A run of a file's bytes that a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileRun {
    pub(crate) at: u32,
    pub(crate) bytes: u32,
    /// Index into the map's files.
    pub(crate) file: u32,
    pub(crate) file_offset: u64,
}

/// What to read for `map`, pack by pack, front to back, in requests of at most `max_bytes` unless one frame is larger.
///
/// # Errors
/// Extents that contradict each other, in words.
pub(super) fn ranges(map: &FileMap, max_bytes: u64) -> Result<Vec<PackRange>, String> {
    let mut frames: BTreeMap<(u32, u64), FrameRead> = BTreeMap::new();
    for (index, file) in map.files.iter().enumerate() {
        let index = u32::try_from(index).map_err(|_| "has too many files")?;
        let mut file_offset = 0;
        for extent in &file.extents {
            if let Extent::Frame(frame) = extent {
                let run = FileRun {
                    at: frame.at,
                    bytes: u32::try_from(frame.bytes).map_err(|_| "has an extent that no frame can hold")?,
                    file: index,
                    file_offset,
                };
                let read = frames.entry((frame.pack, frame.offset)).or_insert_with(|| FrameRead {
                    offset: frame.offset,
                    stored_bytes: frame.stored_bytes,
                    hash: frame.hash,
                    runs: Vec::new(),
                });
                if (read.stored_bytes, read.hash) != (frame.stored_bytes, frame.hash) {
                    return Err(format!("has two frames in one place, for \"{}\"", file.path));
                }
                read.runs.push(run);
            }
            file_offset += extent.bytes();
        }
    }
    Ok(coalesce(map, frames, max_bytes))
}

fn coalesce(map: &FileMap, frames: BTreeMap<(u32, u64), FrameRead>, max_bytes: u64) -> Vec<PackRange> {
    let mut ranges: Vec<PackRange> = Vec::new();
    let mut last_pack = None;
    for ((pack, offset), mut frame) in frames {
        frame.runs.sort_by_key(|run| (run.at, run.file, run.file_offset));
        let end = offset + u64::from(frame.stored_bytes);
        match ranges.last_mut().filter(|range| last_pack == Some(pack) && joins(range, offset, end, max_bytes)) {
            Some(range) => {
                range.end = range.end.max(end);
                range.frames.push(frame);
            }
            None => {
                // Checked when the map was loaded: every extent names a pack of the map.
                let Some(id) = usize::try_from(pack).ok().and_then(|pack| map.packs.get(pack)) else { continue };
                ranges.push(PackRange { pack: id.clone(), start: offset, end, frames: vec![frame] });
            }
        }
        last_pack = Some(pack);
    }
    ranges
}

/// Requests for some frames of one pack, which are in its order.
pub(super) fn parts(pack: &PackId, frames: Vec<FrameRead>, max_bytes: u64) -> Vec<PackRange> {
    let mut parts: Vec<PackRange> = Vec::new();
    for frame in frames {
        let end = frame.offset + u64::from(frame.stored_bytes);
        match parts.last_mut().filter(|part| joins(part, frame.offset, end, max_bytes)) {
            Some(part) => {
                part.end = part.end.max(end);
                part.frames.push(frame);
            }
            None => {
                parts.push(PackRange { pack: pack.clone(), start: frame.offset, end, frames: vec![frame] });
            }
        }
    }
    parts
}

fn joins(range: &PackRange, offset: u64, end: u64, max_bytes: u64) -> bool {
    offset.saturating_sub(range.end) <= MAX_GAP_BYTES && end.saturating_sub(range.start) <= max_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::backup::FileEntry;
    use crate::repository::backup::file_map::FrameExtent;
    use crate::repository::hash::BlockHash;

    fn extent(pack: u32, offset: u64, stored_bytes: u32, at: u32, bytes: u64) -> Extent {
        let hash = FrameHash::of(&[BlockHash::of(&offset.to_le_bytes())]);
        Extent::Frame(FrameExtent { bytes, pack, offset, stored_bytes, at, hash })
    }

    fn map(files: Vec<Vec<Extent>>) -> FileMap {
        let entry = |(index, extents): (usize, Vec<Extent>)| FileEntry {
            path: format!("base/1/{index}").try_into().unwrap(),
            size: extents.iter().map(Extent::bytes).sum(),
            mode: 0o600,
            mtime: 0,
            extents,
        };
        FileMap {
            packs: vec!["20261122T063100Z/00000000".parse().unwrap(), "20261122T063100Z/00000001".parse().unwrap()],
            files: files.into_iter().enumerate().map(entry).collect(),
        }
    }

    #[test]
    fn neighbours_become_one_request_in_the_order_of_the_pack() {
        let map = map(vec![
            vec![extent(0, 1000, 500, 0, 8192), Extent::Zeros { bytes: 8192 }, extent(0, 100, 900, 0, 8192)],
            vec![extent(1, 100, 10, 0, 5)],
            vec![extent(1, 100, 10, 5, 7), extent(0, 10 << 20, 10, 0, 1)],
        ]);
        let ranges = ranges(&map, 4 << 20).unwrap();
        let shape: Vec<(u32, u64, u64, usize)> =
            ranges.iter().map(|range| (range.pack.number, range.start, range.end, range.frames.len())).collect();
        assert_eq!(shape, [(0, 100, 1500, 2), (0, 10 << 20, (10 << 20) + 10, 1), (1, 100, 110, 1)]);
        assert_eq!(ranges[0].frames[0].runs, [FileRun { at: 0, bytes: 8192, file: 0, file_offset: 16384 }]);
        let shared: Vec<(u32, u32)> = ranges[2].frames[0].runs.iter().map(|run| (run.at, run.file)).collect();
        assert_eq!(shared, [(0, 1), (5, 2)]);
    }

    #[test]
    fn requests_stay_within_their_size() {
        let extents = (0..100).map(|n| extent(0, n * 1000, 1000, 0, 8192)).collect();
        let ranges = ranges(&map(vec![extents]), 10_000).unwrap();
        assert_eq!(ranges.len(), 10);
        assert!(ranges.iter().all(|range| range.end - range.start <= 10_000));
        assert_eq!(ranges.iter().map(|range| range.frames.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_frame_larger_than_a_request_is_still_read() {
        let ranges = ranges(&map(vec![vec![extent(0, 7, 1000, 0, 8192)]]), 10).unwrap();
        assert_eq!((ranges[0].start, ranges[0].end), (7, 1007));
    }

    #[test]
    fn two_frames_in_one_place_are_a_contradiction() {
        let map = map(vec![vec![extent(0, 7, 1000, 0, 8192)], vec![extent(0, 7, 1001, 0, 8192)]]);
        assert!(ranges(&map, 1 << 20).is_err());
    }
}
