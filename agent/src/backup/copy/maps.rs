//! File maps as their parts come in.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use pitr::codec::Compressor;
use pitr::repository::backup::file_map::{FileMapPacks, FrameExtent};
use pitr::repository::backup::{Extent, FileEntry, FileMapHeader, PackId, StoredPath};
use pitr::repository::envelope;
use pitr::repository::hash::ContentHash;

use super::error::CopyError;
use super::frame::{Extents, push_extent, push_zeros};
use super::plan::{MapPlan, Part};
use crate::backup::incremental::packs::Packs;
use crate::backup::listing::FileList;

/// What became of one part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedPart {
    pub part: Part,
    /// None where the file was gone.
    pub extents: Option<Extents>,
    /// For a file whose size was taken when it was read: size, time and mode then.
    pub stat: Option<super::source::SourceStat>,
}

impl CopiedPart {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().flatten().map(Extent::bytes).sum()
    }
}

/// A map whose parts are not all there yet.
#[derive(Debug)]
pub struct OpenMap {
    pub tablespace: Option<u32>,
    units_left: usize,
    parts: Vec<CopiedPart>,
}

impl OpenMap {
    #[must_use]
    pub const fn new(plan: &MapPlan, units: usize, finished: Vec<CopiedPart>) -> Self {
        Self { tablespace: plan.tablespace, units_left: units, parts: finished }
    }

    /// Takes up a finished unit. True when it was the last one.
    pub fn add(&mut self, parts: Vec<CopiedPart>) -> bool {
        self.parts.extend(parts);
        self.units_left = self.units_left.saturating_sub(1);
        self.units_left == 0
    }

    /// The map of the files that are still there.
    ///
    /// # Errors
    /// zstd fails.
    pub fn finish(
        mut self,
        files: &FileList,
        packs: &Packs,
        known: &HashSet<ContentHash>,
        compressor: &mut Compressor,
    ) -> Result<FinishedMap, CopyError> {
        self.parts.sort_by_key(|copied| (copied.part.file, copied.part.offset));
        let mut writer = MapWriter::new(self.tablespace);
        for parts in self.parts.chunk_by(|a, b| a.part.file == b.part.file) {
            if let Some(entry) = entry(files, parts) {
                if entry.extents.iter().map(Extent::bytes).sum::<u64>() != entry.size {
                    return Err(CopyError::Broken(format!("the extents of \"{}\" are not its size", entry.path)));
                }
                writer.add(entry);
            }
        }
        writer.finish(packs, known, compressor)
    }
}

/// The file that the parts make; none where nobody saw it.
fn entry(files: &FileList, parts: &[CopiedPart]) -> Option<FileEntry> {
    let first = parts.first()?;
    let listed = files.get(first.part.file)?;
    if parts.iter().all(|copied| copied.extents.is_none()) {
        return None;
    }
    let mut extents = Extents::new();
    for copied in parts {
        match &copied.extents {
            Some(more) => more.iter().for_each(|extent| append(&mut extents, *extent)),
            // Removed while it was read: what removed it is in the WAL, and finds a file of the old size.
            None => push_zeros(&mut extents, copied.part.bytes),
        }
    }
    let (size, mode, mtime) = match first.stat {
        Some(stat) => (stat.size, stat.mode, stat.mtime),
        None => (listed.size, listed.mode, listed.mtime),
    };
    Some(FileEntry { path: listed.path, size, mode, mtime, extents })
}

fn append(extents: &mut Extents, extent: Extent) {
    match extent {
        Extent::Zeros { bytes } => push_zeros(extents, bytes),
        Extent::Frame(_) => push_extent(extents, extent),
    }
}

/// A map's object, and what it says about the backup.
#[derive(Clone, Debug)]
pub struct FinishedMap {
    pub tablespace: Option<u32>,
    pub hash: ContentHash,
    /// None where a parent has the same map.
    pub object: Option<Vec<Bytes>>,
    /// Path of its first file.
    pub first: Option<StoredPath>,
    pub files: u64,
    /// Size of its files together.
    pub file_bytes: u64,
    /// The frames that it needs, each once.
    pub frames: Vec<LiveFrame>,
}

/// A frame that a map needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFrame {
    pub pack: u32,
    pub offset: u64,
    pub stored_bytes: u32,
}

/// Writes a map's lines.
#[derive(Debug)]
pub struct MapWriter {
    tablespace: Option<u32>,
    entries: Vec<FileEntry>,
}

impl MapWriter {
    #[must_use]
    pub fn new(tablespace: Option<u32>) -> Self {
        Self { tablespace, entries: Vec::new() }
    }

    /// Entries come in the order of their paths; their extents name packs by number.
    pub fn add(&mut self, entry: FileEntry) {
        self.entries.push(entry);
    }

    /// # Errors
    /// zstd fails.
    pub fn finish(
        mut self,
        packs: &Packs,
        known: &HashSet<ContentHash>,
        compressor: &mut Compressor,
    ) -> Result<FinishedMap, CopyError> {
        let frames = live_frames(&self.entries);
        let ids: BTreeMap<PackId, u32> = {
            let numbers: HashSet<u32> = frames.iter().map(|frame| frame.pack).collect();
            numbers.into_iter().map(|number| (packs.id(number), number)).collect()
        };
        let places: HashMap<u32, u32> = ids.values().zip(0..).map(|(number, place)| (*number, place)).collect();
        let mut lines = Vec::new();
        write_line(&mut lines, &FileMapPacks { packs: ids.into_keys().collect() })?;
        for entry in &mut self.entries {
            for extent in &mut entry.extents {
                if let Extent::Frame(frame) = extent {
                    frame.pack = places.get(&frame.pack).copied().unwrap_or(u32::MAX);
                }
            }
            write_line(&mut lines, entry)?;
        }
        let hash = ContentHash::of(&lines);
        let files = self.entries.len() as u64;
        let object = if known.contains(&hash) {
            None
        } else {
            let header = FileMapHeader { files, bytes: lines.len() as u64, blake3: hash };
            Some(vec![envelope::header(&header).into(), compressor.compress(&lines)?.into()])
        };
        let file_bytes = self.entries.iter().map(|entry| entry.size).sum();
        let first = self.entries.first().map(|entry| entry.path.clone());
        Ok(FinishedMap { tablespace: self.tablespace, hash, object, first, files, file_bytes, frames })
    }
}

fn write_line(lines: &mut Vec<u8>, line: &impl serde::Serialize) -> Result<(), CopyError> {
    serde_json::to_writer(&mut *lines, line).map_err(|error| CopyError::Broken(error.to_string()))?;
    lines.push(b'\n');
    Ok(())
}

/// Every frame once, however many extents stand in it.
fn live_frames(entries: &[FileEntry]) -> Vec<LiveFrame> {
    let mut seen = HashSet::new();
    let mut live = Vec::new();
    let mut last = None;
    for extent in entries.iter().flat_map(|entry| &entry.extents) {
        let Extent::Frame(FrameExtent { pack, offset, stored_bytes, .. }) = *extent else { continue };
        // Most extents of a frame stand together.
        if last != Some((pack, offset)) && seen.insert((pack, offset)) {
            live.push(LiveFrame { pack, offset, stored_bytes });
        }
        last = Some((pack, offset));
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::listing::FileKind;
    use pitr::repository::hash::FrameHash;

    fn frame(pack: u32, offset: u64, bytes: u64) -> Extent {
        let hash = FrameHash::from_bytes([1; 16]);
        Extent::Frame(FrameExtent { bytes, pack, offset, stored_bytes: 10, at: 0, hash })
    }

    fn part(file: usize, offset: u64, bytes: u64, extents: Option<Extents>) -> CopiedPart {
        CopiedPart { part: Part::read(file, offset, bytes, false), extents, stat: None }
    }

    fn finish(parts: Vec<CopiedPart>, sizes: &[u64]) -> (Vec<String>, FinishedMap) {
        let files = sizes.iter().enumerate().map(|(n, size)| (format!("base/5/{}", 10 + n), *size, FileKind::Relation));
        let files = FileList::of(files);
        let plan = MapPlan { number: 0, files: 0..sizes.len(), tablespace: None };
        let mut map = OpenMap::new(&plan, 1, Vec::new());
        map.add(parts);
        let packs = Packs::new("20261122T063100Z".parse().unwrap());
        packs.number(&"20261121T063100Z/00000002".parse().unwrap());
        let compressor = &mut Compressor::new(1).unwrap();
        let finished = map.finish(&files, &packs, &HashSet::new(), compressor).unwrap();
        let lines = pitr::codec::decompress(&finished.object.as_ref().unwrap()[1], 1 << 20).unwrap();
        (String::from_utf8(lines).unwrap().lines().map(str::to_owned).collect(), finished)
    }

    #[test]
    fn parts_in_any_order_make_files_in_the_order_of_paths() {
        let parts = vec![
            part(1, 0, 5, Some(vec![frame(4, 100, 5)])),
            part(0, 20, 10, Some(vec![Extent::Zeros { bytes: 10 }])),
            part(0, 0, 20, Some(vec![frame(9, 100, 15), Extent::Zeros { bytes: 5 }])),
        ];
        let (lines, finished) = finish(parts, &[30, 5]);
        assert_eq!(lines[0], r#"{"packs":["20261122T063100Z/00000004","20261122T063100Z/00000009"]}"#);
        let entries: Vec<FileEntry> = lines[1..].iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(entries[0].path.as_str(), "base/5/10");
        assert_eq!(entries[0].extents, [frame(1, 100, 15), Extent::Zeros { bytes: 15 }]);
        assert_eq!(entries[1].extents, [frame(0, 100, 5)]);
        assert_eq!((finished.files, finished.file_bytes), (2, 35));
        assert_eq!(live(&finished), BTreeMap::from([(4, 10), (9, 10)]));
    }

    #[test]
    fn a_file_that_was_removed_is_left_out_or_filled_up() {
        let parts = vec![part(0, 0, 20, None), part(1, 0, 20, Some(vec![frame(0, 100, 20)])), part(1, 20, 10, None)];
        let (lines, finished) = finish(parts, &[20, 30]);
        assert_eq!(lines.len(), 2);
        let entry: FileEntry = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(entry.path.as_str(), "base/5/11");
        assert_eq!(entry.extents, [frame(0, 100, 20), Extent::Zeros { bytes: 10 }]);
        assert_eq!(finished.files, 1);
    }

    fn live(map: &FinishedMap) -> BTreeMap<u32, u64> {
        let mut live = BTreeMap::new();
        for frame in &map.frames {
            *live.entry(frame.pack).or_insert(0) += u64::from(frame.stored_bytes);
        }
        live
    }

    #[test]
    fn packs_of_any_backup_are_named_in_their_order() {
        let other = 1 << 31;
        let extents = vec![frame(1, 100, 5), frame(other, 100, 5), frame(0, 100, 5), frame(other, 100, 5)];
        let (lines, finished) = finish(vec![part(0, 0, 20, Some(extents))], &[20]);
        let packs = r#"["20261121T063100Z/00000002","20261122T063100Z/00000000","20261122T063100Z/00000001"]"#;
        assert_eq!(lines[0], format!(r#"{{"packs":{packs}}}"#));
        let entry: FileEntry = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(entry.extents, [frame(2, 100, 5), frame(0, 100, 5), frame(1, 100, 5), frame(0, 100, 5)]);
        assert_eq!(live(&finished), BTreeMap::from([(0, 10), (1, 10), (other, 10)]));
    }

    #[test]
    fn a_frame_that_files_share_counts_once() {
        let parts = vec![
            part(0, 0, 5, Some(vec![frame(3, 100, 5)])),
            part(1, 0, 5, Some(vec![frame(3, 100, 5)])),
            part(2, 0, 5, Some(vec![frame(3, 200, 5)])),
        ];
        assert_eq!(live(&finish(parts, &[5, 5, 5]).1), BTreeMap::from([(3, 20)]));
    }
}
