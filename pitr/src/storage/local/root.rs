//! The root directory and the way from it to an object's file.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::DateTime;
use rustix::fs::{Gid, Uid};

use super::super::{Error, ErrorKind, ObjectKey, ObjectMeta, Operation, Result, VersionTag};
use super::failed;
use crate::clock::Clock;
use crate::fs::{Directory, EntryType, FailureKind, FileStatus};

/// As PostgreSQL's own group access: the group may read a repository, others see nothing.
pub(super) const DIRECTORY_MODE: u32 = 0o750;
pub(super) const FILE_MODE: u32 = 0o640;

/// Where files are staged and locks stand.
pub(super) const STAGING: &str = ".tmp";

/// So many directories are remembered as durable; then we start anew, at the price of some syncs.
const MAX_DURABLE_DIRECTORIES: usize = 4096;

pub(super) struct Root {
    path: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    /// Directories whose name is known to be on the disk, so that not every put has to sync the whole way to the root.
    durable: Mutex<HashSet<String>>,
}

impl Root {
    pub(super) fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { path, clock, durable: Mutex::new(HashSet::new()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The root, opened anew for every operation: one that was unmounted or removed is noticed.
    pub(super) fn directory(&self, operation: Operation, key: impl fmt::Display) -> Result<Directory> {
        Directory::open(&self.path).map_err(|error| match error.kind() {
            FailureKind::NotFound => {
                let reason = format!("directory \"{}\" does not exist", self.path.display());
                Error::new(ErrorKind::NoContainer, operation, key, reason)
            }
            _ => failed(operation, key, error),
        })
    }

    /// The directory `parts` below the root; none where a part of it is missing or is a file.
    pub(super) fn existing_directory<'a>(
        &self,
        operation: Operation,
        key: &dyn fmt::Display,
        parts: impl Iterator<Item = &'a str>,
    ) -> Result<Option<Directory>> {
        let mut directory = self.directory(operation, key)?;
        for part in parts {
            directory = match directory.open_dir(part) {
                Ok(next) => next,
                Err(error) => match error.kind() {
                    FailureKind::NotFound => return Ok(None),
                    FailureKind::NotADirectory => match directory.status(part).map(|status| status.entry_type) {
                        Ok(EntryType::File) => return Ok(None),
                        _ => return Err(unfit(operation, key, &directory.path_of(part))),
                    },
                    _ => return Err(failed(operation, key, error)),
                },
            };
        }
        Ok(Some(directory))
    }

    /// The directory of `key`, made where it is missing, with a name that is on the disk.
    pub(super) fn directory_for(&self, key: &ObjectKey) -> Result<Directory> {
        let mut directory = self.directory(Operation::Put, key)?;
        for (end, _) in key.as_str().match_indices('/') {
            let path = &key.as_str()[..end];
            let part = path.rsplit('/').next().unwrap_or(path);
            directory =
                self.child_durably(&directory, part, path).map_err(|error| failed(Operation::Put, key, error))?;
        }
        Ok(directory)
    }

    fn child_durably(&self, parent: &Directory, part: &str, path: &str) -> crate::fs::Result<Directory> {
        let (child, made) = match parent.open_dir(part) {
            Err(error) if error.is_not_found() => {
                let made = parent.make_dir(part, DIRECTORY_MODE)?;
                let child = parent.open_dir(part)?;
                if made {
                    inherit_owner(parent, &child)?;
                }
                (child, made)
            }
            opened => (opened?, false),
        };
        // Another process may have made it and not come to its sync yet.
        if made || !self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(path) {
            parent.sync()?;
            let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            if durable.len() >= MAX_DURABLE_DIRECTORIES {
                durable.clear();
            }
            durable.insert(path.to_owned());
        }
        Ok(child)
    }

    /// Where files are staged, made where it is missing.
    pub(super) fn staging(&self, operation: Operation, key: impl fmt::Display + Copy) -> Result<Directory> {
        let root = self.directory(operation, key)?;
        match root.open_dir(STAGING) {
            Err(error) if error.is_not_found() => root.make_dir(STAGING, DIRECTORY_MODE).and_then(|_| {
                let made = root.open_dir(STAGING)?;
                inherit_owner(&root, &made)?;
                Ok(made)
            }),
            opened => opened,
        }
        .map_err(|error| failed(operation, key, error))
    }
}

/// What root makes belongs to the owner of the directory that it is made in: a person's `pitr verify --repair-summaries` under
/// `sudo` must leave nothing that keeps the agent out.
pub(super) fn inherit_owner(directory: &Directory, made: impl AsFd) -> crate::fs::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let failed = |errno| crate::fs::Error::new(crate::fs::Action::Change, directory.path(), errno);
    let owner = rustix::fs::fstat(directory).map_err(failed)?;
    if owner.st_uid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    rustix::fs::fchown(made, Some(uid), Some(gid)).map_err(failed)
}

/// The directories of a key, from the root.
pub(super) fn directories(key: &ObjectKey) -> impl Iterator<Item = &str> {
    let parent = key.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
    parent.split('/').filter(|part| !part.is_empty())
}

pub(super) fn unfit(operation: Operation, key: impl fmt::Display, path: &Path) -> Error {
    let reason = format!("\"{}\" is neither a file nor a directory; symbolic links are not followed", path.display());
    Error::new(ErrorKind::Invalid, operation, key, reason)
}

pub(super) fn not_found(operation: Operation, key: &ObjectKey) -> Error {
    Error::new(ErrorKind::NotFound, operation, key, "there is no such object")
}

pub(super) fn meta(key: ObjectKey, status: &FileStatus) -> ObjectMeta {
    let tag = format!("{:x}-{:x}-{:x}", status.size_bytes, status.modified_ns, status.inode);
    let modified = i64::try_from(status.modified_ns).map(DateTime::from_timestamp_nanos).unwrap_or_default();
    ObjectMeta { key, size_bytes: status.size_bytes, modified, tag: VersionTag::new(tag) }
}
