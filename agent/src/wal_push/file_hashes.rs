//! What segments' files hash to, for as long as nobody touches them.
//!
//! A file that was changed has another time of change, unless that happened within the same tick of the file system's clock.
//! So a hash is kept only of a file that had been left alone for a while when reading it began, and that was the same before
//! and after.

use std::collections::{HashMap, VecDeque};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use pitr::clock::Clock;
use pitr::postgres::{SegmentName, WalSegmentSize};
use pitr::repository::hash::ContentHash;

use super::error::PushError;
use super::source_file::SourceFile;

/// Longer than a tick of any file system (FAT: 2 s).
const LEFT_ALONE: TimeDelta = TimeDelta::seconds(3);
/// More than are hashed ahead of the server's archiver.
const REMEMBERED: usize = 128;

/// A file, and that it is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl FileState {
    pub(super) fn of(found: &Metadata) -> Self {
        let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified_ns: ns(found.mtime(), found.mtime_nsec()),
            changed_ns: ns(found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether nobody has touched it for a while at `now`. One from the future is none of which that can be said.
    fn is_left_alone(&self, now: DateTime<Utc>) -> bool {
        let ns = |seconds: i64, nanoseconds: i128| i128::from(seconds) * 1_000_000_000 + nanoseconds;
        let now = ns(now.timestamp(), i128::from(now.timestamp_subsec_nanos()));
        now - self.changed_ns.max(self.modified_ns) >= ns(LEFT_ALONE.num_seconds(), 0)
    }
}

/// Cheap to clone; all clones share what they know.
#[derive(Clone, Debug)]
pub(super) struct FileHashes {
    known: Arc<Mutex<Known>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Known {
    hashes: HashMap<SegmentName, (FileState, ContentHash)>,
    /// Oldest first.
    order: VecDeque<SegmentName>,
}

impl FileHashes {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { known: Arc::default(), clock }
    }

    /// The hash of the segment's file, read only where it is not known. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than a segment.
    pub(super) fn hash(
        &self,
        segment: SegmentName,
        file: &SourceFile,
        size: WalSegmentSize,
    ) -> Result<ContentHash, PushError> {
        let before = file.state()?;
        if let Some((state, hash)) = self.known().hashes.get(&segment)
            && *state == before
        {
            return Ok(*hash);
        }
        let begun = self.clock.now();
        let hash = file.hash(size)?;
        if before.is_left_alone(begun) && file.state()? == before {
            self.known().insert(segment, before, hash);
        }
        Ok(hash)
    }

    /// Whether a hash of this file would be kept. Blocks.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub(super) fn would_keep(&self, file: &SourceFile) -> Result<bool, PushError> {
        Ok(file.state()?.is_left_alone(self.clock.now()))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, segment: SegmentName, state: FileState, hash: ContentHash) {
        if self.hashes.insert(segment, (state, hash)).is_some() {
            return;
        }
        self.order.push_back(segment);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use pitr::clock::{ManualClock, SystemClock};

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        clock: ManualClock,
        hashes: FileHashes,
    }

    impl Scene {
        fn new() -> Self {
            let clock = ManualClock::new(SystemClock.now());
            let hashes = FileHashes::new(Arc::new(clock.clone()));
            Self { folder: tempfile::tempdir().unwrap(), clock, hashes }
        }

        fn write(&self, name: &str, byte: u8) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, content(byte)).unwrap();
            path
        }

        fn hash(&self, path: &Path) -> ContentHash {
            let size = WalSegmentSize::new(1 << 20).unwrap();
            self.hashes.hash(name(), &SourceFile::open(path).unwrap(), size).unwrap()
        }

        fn keeps_one(&self) -> bool {
            self.hashes.known().hashes.contains_key(&name())
        }
    }

    fn name() -> SegmentName {
        "000000010000000000000003".parse().unwrap()
    }

    fn content(byte: u8) -> Vec<u8> {
        vec![byte; 1 << 20]
    }

    #[test]
    fn whatever_is_done_to_a_file_its_hash_is_that_of_its_content() {
        let scene = Scene::new();
        let path = scene.write("x", 1);
        scene.clock.advance(TimeDelta::minutes(1));
        for _ in 0..2 {
            assert_eq!(scene.hash(&path), ContentHash::of(&content(1)));
            assert!(scene.keeps_one());
        }
        // A tick, so that the times differ.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        scene.write("x", 2);
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(scene.hash(&path), ContentHash::of(&content(2)));
        rustix::fs::rename(scene.write("y", 3), &path).unwrap();
        assert_eq!(scene.hash(&path), ContentHash::of(&content(3)));
    }

    #[test]
    fn what_was_touched_a_moment_ago_is_read_each_time() {
        let scene = Scene::new();
        let path = scene.write("x", 1);
        for seconds in [0, 2, -100] {
            scene.clock.advance(TimeDelta::seconds(seconds));
            scene.hash(&path);
            assert!(!scene.keeps_one(), "{seconds}");
        }
        scene.clock.advance(TimeDelta::seconds(110));
        scene.hash(&path);
        assert!(scene.keeps_one());
    }
}
