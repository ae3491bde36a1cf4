//! The file that is pushed: proved to be the one that is meant, and in its place.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pitr::api::WalPushRequest;
use pitr::buffers::BufferPool;
use pitr::postgres::WalSegmentSize;
use pitr::repository::hash::ContentHash;

use super::error::PushError;
use super::file_hashes::FileState;
use super::segment_hash;

/// An open file of `pg_wal`. Its methods block.
#[derive(Debug)]
pub(super) struct SourceFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl SourceFile {
    /// The file that a client means: the same one that it sees, in the directory of the server that we protect. Another
    /// server that was copied from this one, with its `archive_command`, must not write its history here.
    pub(super) fn of_request(request: &WalPushRequest, pg_wal: &Path) -> Result<Self, PushError> {
        let path = PathBuf::from(&request.path);
        let failed = |source| PushError::File { path: path.clone(), source };
        let parent =
            path.parent().filter(|_| path.is_absolute() && path.file_name().is_some_and(|n| *n == *request.name));
        let parent = parent.ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        let same = |left: &Metadata, right: &Metadata| (left.dev(), left.ino()) == (right.dev(), right.ino());
        let expected = fs::metadata(pg_wal).map_err(|source| PushError::File { path: pg_wal.to_owned(), source })?;
        if !same(&fs::metadata(parent).map_err(failed)?, &expected) {
            return Err(PushError::ElsewhereThanPgWal { path: path.clone(), pg_wal: pg_wal.to_owned() });
        }
        let opened = Self::open(&path)?;
        let found = opened.file.metadata().map_err(failed)?;
        if (found.dev(), found.ino(), found.len()) == (request.device, request.inode, request.bytes) {
            Ok(opened)
        } else {
            Err(PushError::AnotherFile { path })
        }
    }

    pub(super) fn open(path: &Path) -> Result<Self, PushError> {
        let failed = |source| PushError::File { path: path.to_owned(), source };
        // Opening a pipe would wait for somebody who writes to it.
        if !fs::symlink_metadata(path).map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// What the file is now.
    pub(super) fn state(&self) -> Result<FileState, PushError> {
        self.file.metadata().map(|found| FileState::of(&found)).map_err(|source| self.failed(source))
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn hash(&self, size: WalSegmentSize) -> Result<ContentHash, PushError> {
        segment_hash::hash(&self.file, size).map_err(|source| self.failed(source))
    }

    /// The whole content, which the caller has found to be of a size that it can hold, in a buffer of `buffers`.
    pub(super) fn read(&self, buffers: &BufferPool) -> Result<Bytes, PushError> {
        let mut content = buffers.take(usize::try_from(self.bytes).unwrap_or(0));
        (&self.file).take(self.bytes).read_to_end(&mut content).map_err(|source| self.failed(source))?;
        if content.len() as u64 != self.bytes {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(content.into())
    }

    fn failed(&self, source: io::Error) -> PushError {
        PushError::File { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &Path) -> WalPushRequest {
        let found = fs::metadata(path).unwrap();
        WalPushRequest {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            path: path.to_str().unwrap().to_owned(),
            bytes: found.len(),
            device: found.dev(),
            inode: found.ino(),
            timeout_ms: 1000,
        }
    }

    #[test]
    fn only_the_servers_own_directory_counts_whatever_the_way_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (real, other) = (folder.path().join("wal disk"), folder.path().join("other"));
        fs::create_dir_all(folder.path().join("data")).unwrap();
        for directory in [&real, &other] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("x"), "content").unwrap();
        }
        let linked = folder.path().join("data/pg_wal");
        std::os::unix::fs::symlink(&real, &linked).unwrap();
        for way in [&real, &linked] {
            let file = SourceFile::of_request(&request(&way.join("x")), &linked).unwrap();
            assert_eq!(file.read(&BufferPool::default()).unwrap(), "content");
        }
        let refused = SourceFile::of_request(&request(&other.join("x")), &linked).unwrap_err();
        assert!(matches!(refused, PushError::ElsewhereThanPgWal { .. }), "{refused}");
    }

    #[test]
    fn the_client_and_we_must_see_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "content").unwrap();
        let good = request(&path);
        SourceFile::of_request(&good, folder.path()).unwrap();
        for wrong in [
            WalPushRequest { inode: good.inode + 1, ..good.clone() },
            WalPushRequest { device: good.device + 1, ..good.clone() },
            WalPushRequest { bytes: good.bytes - 1, ..good.clone() },
            WalPushRequest { name: "y".to_owned(), ..good.clone() },
            WalPushRequest { path: "x".to_owned(), ..good },
        ] {
            assert!(SourceFile::of_request(&wrong, folder.path()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("link")).unwrap();
        for name in ["link", ".", "none"] {
            assert!(SourceFile::open(&folder.path().join(name)).is_err(), "{name}");
        }
    }
}
