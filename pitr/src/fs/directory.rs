//! A directory by its descriptor, so that what happens below it cannot be diverted through a symbolic link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Action, Error, Result};

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryType {
    File,
    Directory,
    Symlink,
    Other,
}

impl From<FileType> for EntryType {
    fn from(value: FileType) -> Self {
        match value {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// What `stat(2)` says of a file, as far as we need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    pub entry_type: EntryType,
    pub size_bytes: u64,
    pub inode: u64,
    pub links: u64,
    /// Nanoseconds since 1970 of the last change of its content.
    pub modified_ns: i128,
}

impl From<Stat> for FileStatus {
    #[allow(clippy::useless_conversion, reason = "the width of a link count depends on the architecture")]
    fn from(stat: Stat) -> Self {
        Self {
            entry_type: FileType::from_raw_mode(stat.st_mode).into(),
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            inode: stat.st_ino,
            links: u64::from(stat.st_nlink),
            modified_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        }
    }
}

/// An open directory. Its path serves for messages only; names are looked up relative to the descriptor and symbolic links
/// are never followed.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// Opens the directory at `path`, which alone may be reached through symbolic links.
    ///
    /// # Errors
    /// What `open(2)` says.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| Error::new(Action::Open, path, errno))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn error(&self, action: Action, name: &OsStr, errno: Errno) -> Error {
        Error::new(action, self.path_of(name), errno)
    }

    /// The directory `name` in this one.
    ///
    /// # Errors
    /// [`FailureKind::NotADirectory`](super::FailureKind::NotADirectory) also for a symbolic link to one.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|errno| self.error(Action::Open, name, errno))?;
        Ok(Self { fd, path: self.path_of(name) })
    }

    /// Makes the directory `name`. True when it was not there before; whoever relies on it syncs `self` in either case,
    /// because another process may have made it a moment ago and not synced yet.
    ///
    /// # Errors
    /// What `mkdir(2)` says, but for the name being there already.
    pub fn make_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<bool> {
        let name = name.as_ref();
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.error(Action::Create, name, errno)),
        }
    }

    /// Opens the file `name` for reading. A name that is a pipe or a device does not block.
    ///
    /// # Errors
    /// What `open(2)` says; a symbolic link is refused.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| self.error(Action::Open, name, errno))
    }

    /// Opens the file `name` for writing, which is made when it is missing.
    ///
    /// # Errors
    /// What `open(2)` says; a symbolic link is refused.
    pub fn open_or_create_file(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|errno| self.error(Action::Open, name, errno))
    }

    pub(super) fn create_file_exclusively(&self, name: &OsStr, mode: u32) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|errno| self.error(Action::Create, name, errno))
    }

    /// Of the name itself, not of what a symbolic link points to.
    ///
    /// # Errors
    /// What `stat(2)` says.
    pub fn status(&self, name: impl AsRef<OsStr>) -> Result<FileStatus> {
        let name = name.as_ref();
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(FileStatus::from)
            .map_err(|errno| self.error(Action::Stat, name, errno))
    }

    /// Of an open file; `name` is for the message.
    ///
    /// # Errors
    /// What `stat(2)` says.
    pub fn status_of_open(&self, name: impl AsRef<OsStr>, file: &File) -> Result<FileStatus> {
        rustix::fs::fstat(file).map(FileStatus::from).map_err(|errno| self.error(Action::Stat, name.as_ref(), errno))
    }

    /// Removes the name of a file. Not durable before [`Directory::sync`].
    ///
    /// # Errors
    /// What `unlink(2)` says.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(|errno| self.error(Action::Remove, name, errno))
    }

    /// Every name but `.` and `..`, in no order.
    ///
    /// # Errors
    /// What reading the directory says: never a part of the names.
    pub fn entries(&self) -> Result<Vec<(OsString, EntryType)>> {
        let failed = |errno: Errno| Error::new(Action::List, &self.path, errno);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let entry_type = match entry.file_type() {
                // Some file systems do not say it in the directory.
                FileType::Unknown => match self.status(name) {
                    Ok(status) => status.entry_type,
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
                known => known.into(),
            };
            entries.push((name.to_owned(), entry_type));
        }
        Ok(entries)
    }

    /// Makes every change of names in this directory durable.
    ///
    /// # Errors
    /// What `fsync(2)` says: the changes may or may not survive a power cut.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|errno| Error::new(Action::Sync, &self.path, errno))
    }

    /// Makes everything in this directory's file system durable, whoever wrote it.
    ///
    /// # Errors
    /// What `syncfs(2)` says.
    pub fn sync_file_system(&self) -> Result<()> {
        rustix::fs::syncfs(&self.fd).map_err(|errno| Error::new(Action::Sync, &self.path, errno))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::fs::FailureKind;

    #[test]
    fn follows_no_symbolic_link_below_itself() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("real")).unwrap();
        std::fs::write(scratch.path().join("file"), "x").unwrap();
        symlink(scratch.path().join("real"), scratch.path().join("dir-link")).unwrap();
        symlink(scratch.path().join("file"), scratch.path().join("file-link")).unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        assert_eq!(directory.open_dir("dir-link").unwrap_err().kind(), FailureKind::NotADirectory);
        assert_eq!(directory.open_file("file-link").unwrap_err().kind(), FailureKind::NotADirectory);
        assert_eq!(directory.status("file-link").unwrap().entry_type, EntryType::Symlink);
        assert!(directory.open_dir("real").is_ok() && directory.open_file("file").is_ok());
    }

    #[test]
    fn lists_every_name_with_its_type() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..3000 {
            std::fs::write(scratch.path().join(format!("f{number}")), "").unwrap();
        }
        std::fs::create_dir(scratch.path().join("sub")).unwrap();
        let entries = Directory::open(scratch.path()).unwrap().entries().unwrap();
        assert_eq!(entries.len(), 3001);
        assert_eq!(entries.iter().filter(|(_, entry_type)| *entry_type == EntryType::Directory).count(), 1);
    }
}
