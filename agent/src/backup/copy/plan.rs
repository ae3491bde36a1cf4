//! How the files of a listing are cut into file maps and pieces of work. Pure.
//!
//! Maps are cut where the path says so, so that a file more or less moves no other boundary and unchanged groups of files
//! make the same map again; sizes bound them besides. A piece of work is at most some megabytes, so that one large relation
//! keeps every worker busy to the end.

use std::ops::Range;
use std::sync::Arc;

use pitr::postgres::PAGE_SIZE;
use pitr::repository::backup::StoredPath;
use pitr::wal_summary::Run;

use crate::backup::incremental::parent_file::ParentFile;
use crate::backup::listing::FileList;

/// Plain bytes of one piece of work.
pub const UNIT_BYTES: u64 = 16 << 20;
/// A map ends behind one path in so many.
const MAP_BOUNDARY_PATHS: u64 = 512;
/// A map ends at the latest behind so many files or bytes.
const MAP_MAX_FILES: usize = 2048;
const MAP_MAX_BYTES: u64 = 1 << 30;

/// Where the bytes of a part come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Disk,
    /// From disk, but for blocks that the parent has as they are.
    Compared(Arc<ParentFile>),
    /// Some pages from disk, and all others from the parent.
    Pages(Arc<ChangedFile>),
}

/// A file of the parent some pages of which have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFile {
    pub parent: Arc<ParentFile>,
    /// Pages to read, in order and apart from each other.
    pub read: Vec<Run>,
    /// Pages to read and hold against the parent's, though they have not changed.
    pub sample: Vec<Run>,
}

/// A piece of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index in the listing.
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
    /// The only part of its file.
    pub whole: bool,
    pub source: Source,
}

impl Part {
    #[cfg(test)]
    pub const fn read(file: usize, offset: u64, bytes: u64, whole: bool) -> Self {
        Self { file, offset, bytes, whole, source: Source::Disk }
    }
}

/// What one worker does in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub map: u32,
    pub parts: Vec<Part>,
}

/// The files of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPlan {
    pub number: u32,
    pub files: Range<usize>,
    /// The tablespace they are in, other than the two built in.
    pub tablespace: Option<u32>,
}

/// Cuts the list into maps, one at a time.
#[derive(Debug, Default)]
pub struct MapPlanner {
    next_file: usize,
    next_number: u32,
}

impl MapPlanner {
    pub fn next(&mut self, files: &FileList) -> Option<MapPlan> {
        let start = self.next_file;
        let first = files.get(start)?;
        let tablespace = tablespace_of(&first.path);
        let mut bytes = 0;
        let mut end = start;
        while let Some(file) = files.get(end) {
            if end > start && tablespace_of(&file.path) != tablespace {
                break;
            }
            bytes += file.size;
            end += 1;
            if is_boundary(&file.path) || end - start >= MAP_MAX_FILES || bytes >= MAP_MAX_BYTES {
                break;
            }
        }
        let plan = MapPlan { number: self.next_number, files: start..end, tablespace };
        self.next_file = end;
        self.next_number += 1;
        Some(plan)
    }
}

/// Cuts the files of a map into pieces of work, by what is read of them.
#[derive(Debug)]
pub struct UnitCutter {
    map: u32,
    units: Vec<Unit>,
    open: Vec<Part>,
    open_bytes: u64,
}

impl UnitCutter {
    #[must_use]
    pub const fn new(map: u32) -> Self {
        Self { map, units: Vec::new(), open: Vec::new(), open_bytes: 0 }
    }

    /// A file of which at least one byte or nothing at all is to be read from disk.
    pub fn add(&mut self, file: usize, size: u64, source: &Source) {
        if let Source::Pages(changed) = source {
            self.add_pages(file, size, changed, source);
            return;
        }
        if size <= UNIT_BYTES {
            self.push(Part { file, offset: 0, bytes: size, whole: true, source: source.clone() }, size);
            return;
        }
        self.close();
        let mut offset = 0;
        while offset < size {
            let bytes = UNIT_BYTES.min(size - offset);
            self.open.push(Part { file, offset, bytes, whole: false, source: source.clone() });
            self.close();
            offset += bytes;
        }
    }

    /// Parts reach from one cut to the next; a cut is where enough pages have come together.
    fn add_pages(&mut self, file: usize, size: u64, changed: &ChangedFile, source: &Source) {
        const MOST: u64 = UNIT_BYTES / PAGE_SIZE as u64;
        let byte = |page: u64| page * PAGE_SIZE as u64;
        let (mut from, mut pages) = (0, 0);
        for run in &changed.read {
            let (mut next, behind) = (u64::from(run.first), u64::from(run.last) + 1);
            while next < behind {
                if pages == MOST {
                    let (offset, bytes) = (byte(from), byte(next - from));
                    self.push(Part { file, offset, bytes, whole: false, source: source.clone() }, byte(pages));
                    (from, pages) = (next, 0);
                }
                let more = (behind - next).min(MOST - pages);
                next += more;
                pages += more;
            }
        }
        let (offset, bytes) = (byte(from), size - byte(from));
        self.push(Part { file, offset, bytes, whole: from == 0, source: source.clone() }, byte(pages));
    }

    fn push(&mut self, part: Part, read_bytes: u64) {
        if self.open_bytes + read_bytes > UNIT_BYTES {
            self.close();
        }
        self.open.push(part);
        self.open_bytes += read_bytes;
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.units.push(Unit { map: self.map, parts: std::mem::take(&mut self.open) });
            self.open_bytes = 0;
        }
    }

    #[must_use]
    pub fn finish(mut self) -> Vec<Unit> {
        self.close();
        self.units
    }
}

fn is_boundary(path: &StoredPath) -> bool {
    let hash = blake3::hash(path.as_str().as_bytes());
    let head = hash.as_bytes().first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
    head.is_multiple_of(MAP_BOUNDARY_PATHS)
}

fn tablespace_of(path: &StoredPath) -> Option<u32> {
    path.as_str().strip_prefix("pg_tblspc/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::listing::{FileKind, FileList};

    fn plans(files: &FileList) -> Vec<MapPlan> {
        let mut planner = MapPlanner::default();
        std::iter::from_fn(|| planner.next(files)).collect()
    }

    fn files(names: impl Iterator<Item = (String, u64)>) -> FileList {
        FileList::of(names.map(|(path, size)| (path, size, FileKind::Relation)))
    }

    fn units(files: &FileList, plan: &MapPlan) -> Vec<Unit> {
        let mut cutter = UnitCutter::new(plan.number);
        plan.files.clone().for_each(|file| cutter.add(file, files.get(file).unwrap().size, &Source::Disk));
        cutter.finish()
    }

    #[test]
    fn changed_pages_of_many_files_are_one_piece_of_work_and_those_of_a_large_file_many() {
        let parent = Arc::new(ParentFile::default());
        let changed = |runs: &[(u32, u32)]| {
            let read = runs.iter().map(|(first, last)| Run { first: *first, last: *last }).collect();
            Source::Pages(Arc::new(ChangedFile { parent: Arc::clone(&parent), read, sample: Vec::new() }))
        };
        let mut cutter = UnitCutter::new(0);
        for file in 0..500 {
            cutter.add(file, 1 << 30, &changed(&[(5, 5), (70_000, 70_002)]));
        }
        assert_eq!(cutter.finish().iter().map(|unit| unit.parts.len()).collect::<Vec<_>>(), [500]);
        let mut cutter = UnitCutter::new(0);
        cutter.add(0, 1 << 30, &changed(&[(100, 2999), (5000, 9999), (131_071, 131_071)]));
        let cuts: Vec<(u64, u64)> = cutter
            .finish()
            .iter()
            .flat_map(|unit| &unit.parts)
            .map(|part| (part.offset / 8192, part.bytes / 8192))
            .collect();
        assert_eq!(cuts, [(0, 2148), (2148, 4048), (6196, 2048), (8244, 131_072 - 8244)]);
    }

    #[test]
    fn every_byte_is_in_exactly_one_part() {
        let sizes = [0, 1, 8192, UNIT_BYTES - 1, UNIT_BYTES, UNIT_BYTES + 1, 3 * UNIT_BYTES + 8192, 1 << 30];
        let list = files(sizes.iter().enumerate().map(|(n, size)| (format!("base/5/{}", 20_000 + n), *size)));
        let mut seen = vec![0; list.len()];
        for part in plans(&list).iter().flat_map(|plan| units(&list, plan)).flat_map(|unit| unit.parts) {
            assert_eq!(part.offset, seen[part.file], "{part:?}");
            assert_eq!(part.whole, part.bytes == list.get(part.file).unwrap().size);
            assert!(part.bytes <= UNIT_BYTES);
            seen[part.file] += part.bytes;
        }
        assert_eq!(seen, list.iter().map(|file| file.size).collect::<Vec<_>>());
    }

    #[test]
    fn one_file_more_changes_one_map() {
        let names = || (10_000..30_000).map(|n| (format!("base/5/{n}"), 8192));
        let paths = |list: &FileList| -> Vec<Vec<String>> {
            plans(list)
                .into_iter()
                .map(|plan| plan.files.map(|file| list.get(file).unwrap().path.to_string()).collect())
                .collect()
        };
        let before = paths(&files(names()));
        let after = paths(&files(names().chain([("base/5/15000_vm".to_owned(), 8192)])));
        assert!(before.len() > 20, "{} maps", before.len());
        assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 20_000);
        let changed = after.iter().filter(|map| !before.contains(map)).count();
        assert!(changed <= 2, "{changed} maps changed");
    }

    #[test]
    fn maps_keep_to_one_tablespace_and_to_their_bounds() {
        let list = files(
            (0..5000)
                .map(|n| (format!("pg_tblspc/16399/PG_15_1/5/{}", 10_000 + n), 0))
                .chain((0..10).map(|n| (format!("pg_tblspc/16400/PG_15_1/5/{}", 10_000 + n), 1 << 30))),
        );
        let plans = plans(&list);
        for plan in &plans {
            assert!(plan.files.len() <= MAP_MAX_FILES);
            let tablespaces: Vec<_> =
                plan.files.clone().map(|file| tablespace_of(&list.get(file).unwrap().path)).collect();
            assert!(tablespaces.iter().all(|oid| *oid == plan.tablespace && oid.is_some()));
            let bytes: u64 = plan.files.clone().map(|file| list.get(file).unwrap().size).sum();
            assert!(bytes <= MAP_MAX_BYTES);
        }
        assert_eq!(plans.last().map(|plan| plan.files.end), Some(list.len()));
    }
}
