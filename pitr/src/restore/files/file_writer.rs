//! Writes the files of one map: whole small files in one go, large ones run by run from several threads.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Advice, Mode, OFlags, Timespec, Timestamps};
use tokio_util::sync::CancellationToken;

use super::adopt::{clear_zeros, fit, open_existing};
use super::map::FileMap;
use super::read_plan::FileRun;
use super::tree::{Place, Tree};
use crate::fs::{Action, Error, Result};
use crate::repository::backup::{Extent, FileEntry};

/// Files that stay open while their runs arrive.
const OPEN_FILES: usize = 128;
/// So much of a file is handed to the disk at once while the rest is still coming, so that the sync at the end has little
/// left to do; and less than that is not worth a request.
const WRITE_BACK_BYTES: u64 = 8 << 20;
const WORTHWHILE_BYTES: u64 = 256 << 10;
/// `utimensat(2)`: leave this time alone.
const UTIME_OMIT: i64 = (1 << 30) - 2;

/// The files of one map while they are written.
#[derive(Debug)]
pub(super) struct FileWriter {
    tree: Arc<Tree>,
    map: FileMap,
    /// Runs that are missing, for each file.
    missing: Vec<AtomicU32>,
    /// How many bytes each file had to begin with; none where none could be there.
    local: Vec<u64>,
    /// Files that are written in pieces and have begun.
    partial: Mutex<PartialFiles>,
}

/// What came of adopting files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    /// Files that hold nothing but zeros, and are complete, with their sizes' sum.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Bytes read because they should be zero, and those that were.
    pub(super) compared_bytes: u64,
    pub(super) reused_bytes: u64,
}

#[derive(Debug, Default)]
struct PartialFiles {
    open: HashMap<u32, OpenFile>,
    created: HashSet<u32>,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    /// Bytes in a row that nobody has begun to write back.
    dirty: Range<u64>,
}

impl PartialFiles {
    /// Adds a run to what is dirty, and says what to write back now. A file that is complete is forgotten.
    fn note_written(&mut self, run: &FileRun, is_last: bool) -> Option<Range<u64>> {
        let open = self.open.get_mut(&run.file)?;
        let end = run.file_offset + u64::from(run.bytes);
        let mut ready = None;
        if open.dirty.end == run.file_offset {
            open.dirty.end = end;
        } else {
            ready = Some(std::mem::replace(&mut open.dirty, run.file_offset..end));
        }
        if is_last || open.dirty.end - open.dirty.start >= WRITE_BACK_BYTES {
            ready = Some(std::mem::replace(&mut open.dirty, end..end));
        }
        if is_last {
            self.open.remove(&run.file);
        }
        ready.filter(|range| range.end - range.start >= WORTHWHILE_BYTES)
    }
}

impl FileWriter {
    pub(super) fn new(tree: Arc<Tree>, map: FileMap) -> Self {
        let missing = map
            .files
            .iter()
            .map(|file| {
                let frames = file.extents.iter().filter(|extent| matches!(extent, Extent::Frame(_))).count();
                AtomicU32::new(u32::try_from(frames).unwrap_or(u32::MAX))
            })
            .collect();
        Self { tree, map, missing, local: Vec::new(), partial: Mutex::default() }
    }

    /// Makes every file that is there one that can be compared and completed, and every other one of zeros. Returns what
    /// that says of the bytes which should be zero.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn adopt_files(&mut self, stop: &CancellationToken) -> Result<Adopted> {
        let mut adopted = Adopted::default();
        let mut local = Vec::with_capacity(self.map.files.len());
        for (index, (entry, missing)) in self.map.files.iter().zip(&self.missing).enumerate() {
            if stop.is_cancelled() {
                break;
            }
            let place = self.tree.place(&entry.path)?;
            let (file, size) = match open_existing(&place)? {
                Some((file, size)) => {
                    self.tree.give(&file, || place.directory.path_of(&place.name))?;
                    fit(&file, entry, &place, size)?;
                    let (read, zero) = clear_zeros(&file, entry, &place, size)?;
                    adopted.compared_bytes += read;
                    adopted.reused_bytes += zero;
                    (file, size.min(entry.size))
                }
                None => {
                    let file = self.create(entry, &place)?;
                    fit(&file, entry, &place, entry.size)?;
                    (file, 0)
                }
            };
            local.push(size);
            if missing.load(Ordering::Relaxed) == 0 {
                finish(&file, entry, &place)?;
                adopted.files += 1;
                adopted.bytes += entry.size;
            }
            if let Ok(index) = u32::try_from(index) {
                self.partial().created.insert(index);
            }
        }
        self.local = local;
        Ok(adopted)
    }

    /// Whether the file had as many bytes as `run` goes to.
    pub(super) fn is_there(&self, run: &FileRun) -> bool {
        let local = self.local.get(run.file as usize).copied().unwrap_or(0);
        run.file_offset + u64::from(run.bytes) <= local
    }

    /// Reads what stands where `run` goes. False where the file ends before.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn read(&self, run: &FileRun, buffer: &mut [u8]) -> Result<bool> {
        let Some(entry) = self.file(run.file) else { return Ok(false) };
        let place = self.tree.place(&entry.path)?;
        match self.open(run.file, entry, &place)?.read_exact_at(buffer, run.file_offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(Error::new(Action::Read, place.directory.path_of(&place.name), error)),
        }
    }

    /// Notes that `run` stands in its file already. True when the file is now complete.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn keep(&self, run: &FileRun) -> Result<bool> {
        let (Some(entry), Some(missing)) = (self.file(run.file), self.missing.get(run.file as usize)) else {
            return Ok(false);
        };
        let is_last = missing.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            let place = self.tree.place(&entry.path)?;
            let file = self.open(run.file, entry, &place)?;
            self.partial().open.remove(&run.file);
            finish(&file, entry, &place)?;
        }
        Ok(is_last)
    }

    pub(super) fn file(&self, index: u32) -> Option<&FileEntry> {
        self.map.files.get(index as usize)
    }

    /// Makes the files that hold nothing but zeros, for which no frame will come. Returns how many there are and their
    /// sizes' sum.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn write_empty_files(&self) -> Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        for (entry, missing) in self.map.files.iter().zip(&self.missing) {
            if missing.load(Ordering::Relaxed) == 0 {
                let place = self.tree.place(&entry.path)?;
                let file = self.create(entry, &place)?;
                finish(&file, entry, &place)?;
                files += 1;
                bytes += entry.size;
            }
        }
        Ok((files, bytes))
    }

    /// Writes one run. True when its file is now complete.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn write(&self, run: &FileRun, plain: &[u8]) -> Result<bool> {
        let (Some(entry), Some(missing)) = (self.file(run.file), self.missing.get(run.file as usize)) else {
            return Ok(false); // runs are made from this very map
        };
        let place = self.tree.place(&entry.path)?;
        let failed = |error: std::io::Error| Error::new(Action::Write, place.directory.path_of(&place.name), error);
        if entry.extents.len() == 1 && !self.tree.reuses_files() {
            let file = self.create_new(entry, &place)?;
            file.write_all_at(plain, 0).map_err(failed)?;
            finish(&file, entry, &place)?;
            return Ok(true);
        }
        let file = self.open(run.file, entry, &place)?;
        file.write_all_at(plain, run.file_offset).map_err(failed)?;
        // AcqRel: whoever takes the last one sees the writes of all others.
        let is_last = missing.fetch_sub(1, Ordering::AcqRel) == 1;
        if let Some(written) = self.partial().note_written(run, is_last) {
            start_write_back(&file, written);
        }
        if is_last {
            finish(&file, entry, &place)?;
        }
        Ok(is_last)
    }

    fn partial(&self) -> std::sync::MutexGuard<'_, PartialFiles> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, index: u32, entry: &FileEntry, place: &Place) -> Result<Arc<File>> {
        let mut partial = self.partial();
        if let Some(file) = partial.open.get(&index) {
            return Ok(Arc::clone(&file.file));
        }
        let file = if partial.created.insert(index) {
            self.create(entry, place)?
        } else {
            let access = if self.tree.reuses_files() { OFlags::RDWR } else { OFlags::WRONLY };
            open_at(place, access, entry.mode)?
        };
        let file = Arc::new(file);
        if partial.open.len() >= OPEN_FILES {
            partial.open.clear();
        }
        partial.open.insert(index, OpenFile { file: Arc::clone(&file), dirty: 0..0 });
        Ok(file)
    }

    /// A file of its whole size, all of it zeros that take no space.
    fn create(&self, entry: &FileEntry, place: &Place) -> Result<File> {
        let file = self.create_new(entry, place)?;
        if entry.size > 0 {
            rustix::fs::ftruncate(&file, entry.size)
                .map_err(|errno| Error::new(Action::Write, place.directory.path_of(&place.name), errno))?;
        }
        Ok(file)
    }

    fn create_new(&self, entry: &FileEntry, place: &Place) -> Result<File> {
        let mode = entry.mode & 0o7777;
        let file = open_at(place, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)?;
        let path = || place.directory.path_of(&place.name);
        self.tree.give(&file, path)?;
        // A umask takes nothing away from the owner, as a rule: most files need no change of mode.
        if mode != 0o600 {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                .map_err(|errno| Error::new(Action::Change, path(), errno))?;
        }
        Ok(file)
    }
}

pub(super) fn open_at(place: &Place, flags: OFlags, mode: u32) -> Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let action = if flags.contains(OFlags::CREATE) { Action::Create } else { Action::Open };
    rustix::fs::openat(&place.directory, &place.name, flags, Mode::from_raw_mode(mode))
        .map(File::from)
        .map_err(|errno| Error::new(action, place.directory.path_of(&place.name), errno))
}

fn finish(file: &File, entry: &FileEntry, place: &Place) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.mtime, tv_nsec: 0 },
    };
    let failed = |errno| Error::new(Action::Change, place.directory.path_of(&place.name), errno);
    // A file that is adopted stays open to us until it is complete.
    if entry.mode & 0o600 != 0o600 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777)).map_err(failed)?;
    }
    rustix::fs::futimens(file, &times).map_err(failed)
}

/// `POSIX_FADV_DONTNEED` submits dirty pages and leaves them in the cache, as they are not clean yet.
fn start_write_back(file: &File, written: Range<u64>) {
    let bytes = NonZeroU64::new(written.end.saturating_sub(written.start));
    // Advice: without it the sync at the end only takes longer.
    let _ = rustix::fs::fadvise(file, written.start, bytes, Advice::DontNeed);
}
