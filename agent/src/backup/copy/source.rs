//! A file of the live data directory, as a backup reads it. Blocking.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::error::CopyError;

/// How far apart the places are at which we ask whether a file is cached.
const CACHE_PROBE_DISTANCE: u64 = 1 << 20;

#[derive(Debug)]
pub struct SourceFile {
    file: File,
    path: PathBuf,
}

/// Size and time of a file that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceStat {
    pub size: u64,
    pub mtime: i64,
    pub mode: u32,
}

impl SourceFile {
    /// Opens the file; none where it is gone.
    ///
    /// # Errors
    /// It is there, and cannot be opened.
    pub fn open(path: &Path) -> Result<Option<Self>, CopyError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // Only its owner may leave the time of access alone.
        let opened = match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
            opened => opened,
        };
        match opened {
            Ok(handle) => Ok(Some(Self { file: handle.into(), path: path.to_owned() })),
            // ENOTDIR: a directory on the way made room for a file.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(CopyError::read(path, errno)),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// The file system fails.
    pub fn stat(&self) -> Result<SourceStat, CopyError> {
        let stat = self.file.metadata().map_err(|error| CopyError::read(&self.path, error))?;
        Ok(SourceStat { size: stat.len(), mtime: stat.mtime(), mode: stat.mode() & 0o7777 })
    }

    /// Fills `target` from `offset` on as far as the file goes; returns how many bytes there were.
    ///
    /// # Errors
    /// The file system fails.
    pub fn read(&self, target: &mut [u8], offset: u64) -> Result<usize, CopyError> {
        self.try_read(target, offset).map_err(|error| CopyError::read(&self.path, error))
    }

    /// # Errors
    /// As [`SourceFile::read`].
    pub fn try_read(&self, target: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut count = 0;
        while let Some(rest) = target.get_mut(count..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Whether most of a range is in the page cache already, because the server or somebody else uses it. Asked before the
    /// range is read; a file system that cannot tell counts as yes.
    #[must_use]
    pub fn is_cached(&self, offset: u64, bytes: u64) -> bool {
        let (mut hits, mut misses) = (0_u32, 0_u32);
        let mut byte = [0_u8; 1];
        let mut at = offset;
        while at < offset + bytes {
            let mut target = [io::IoSliceMut::new(&mut byte)];
            match rustix::io::preadv2(&self.file, &mut target, at, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN) => misses += 1,
                Ok(_) => hits += 1,
                Err(_) => return true,
            }
            at += CACHE_PROBE_DISTANCE;
        }
        hits >= misses
    }

    /// Lets go of what only this backup has put into the page cache.
    pub fn drop_cache(&self, offset: u64, bytes: u64) {
        // Advice only: a failure changes nothing for the backup.
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(bytes), Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_to_the_end_and_no_further() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = SourceFile::open(&path).unwrap().unwrap();
        let mut target = [b'-'; 8];
        assert_eq!(file.read(&mut target, 6).unwrap(), 4);
        assert_eq!(&target, b"6789----");
        assert_eq!(file.read(&mut target, 10).unwrap(), 0);
        assert_eq!(file.stat().unwrap().size, 10);
    }

    #[test]
    fn a_missing_file_is_gone_and_a_directory_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(SourceFile::open(&directory.path().join("f")).unwrap().is_none());
        std::fs::write(directory.path().join("f"), b"").unwrap();
        assert!(SourceFile::open(&directory.path().join("f/g")).unwrap().is_none());
        let opened = SourceFile::open(directory.path()).unwrap().unwrap();
        let error = opened.read(&mut [0; 1], 0).unwrap_err();
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn what_was_just_written_is_cached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        let file = SourceFile::open(&path).unwrap().unwrap();
        assert!(file.is_cached(0, 3 << 20));
        file.drop_cache(0, 3 << 20);
    }
}
