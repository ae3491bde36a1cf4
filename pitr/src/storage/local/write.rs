//! Putting and deleting objects.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::super::{Error, ErrorKind, ObjectKey, ObjectMeta, Operation, Payload, PutMode, Result};
use super::failed;
use super::root::{FILE_MODE, Root, directories, inherit_owner, meta, unfit};
use crate::fs::{self, Directory, EntryType, FileStatus, Publish, StagedFile};

/// Chunks of a payload are often small records; so much of them is written at once.
const WRITE_BUFFER_BYTES: usize = 256 * 1024;
/// Directories share this many locks: a process that is stopped while it holds one is in the way of few others.
const LOCKS: u8 = 64;
/// A lock is held for a few system calls. Whoever holds it for longer is stopped, or its file system hangs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(1);

impl Root {
    pub(super) fn put(&self, key: &ObjectKey, body: &Payload, mode: &PutMode) -> Result<ObjectMeta> {
        let directory = self.directory_for(key)?;
        match mode {
            PutMode::CreateNew => self.create(key, body, &directory),
            PutMode::Overwrite | PutMode::Replace(_) => self.replace(key, body, &directory, mode),
        }
    }

    fn create(&self, key: &ObjectKey, body: &Payload, directory: &Directory) -> Result<ObjectMeta> {
        let failed = |error| failed(Operation::Put, key, error);
        if status_if_any(key, directory)?.is_some() {
            // It may have been linked a moment ago by somebody who has not synced yet, and our caller may rely on it.
            directory.sync().map_err(failed)?;
            return Err(already_exists(key));
        }
        let staged = self.stage(key, body)?;
        let status = staged.status().map_err(failed)?;
        match staged.publish(directory, key.file_name(), Publish::New) {
            Ok(()) => Ok(meta(key.clone(), &status)),
            Err(error) if error.kind() == fs::FailureKind::AlreadyExists => {
                status_if_any(key, directory)?;
                Err(already_exists(key))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn replace(&self, key: &ObjectKey, body: &Payload, directory: &Directory, mode: &PutMode) -> Result<ObjectMeta> {
        let failed = |error| failed(Operation::Put, key, error);
        let mut staged = self.stage(key, body)?;
        staged.sync().map_err(failed)?;
        let lock = self.lock(Operation::Put, key)?;
        let current = status_if_any(key, directory)?;
        if let PutMode::Replace(expected) = mode {
            match &current {
                Some(status) if meta(key.clone(), status).tag == *expected => {}
                Some(_) => {
                    return Err(Error::new(ErrorKind::Changed, Operation::Put, key, "the object is another version"));
                }
                None => return Err(Error::new(ErrorKind::Changed, Operation::Put, key, "the object is gone")),
            }
        }
        if let Some(current) = current {
            stamp_after(&staged, &current).map_err(failed)?;
        }
        let status = staged.status().map_err(failed)?;
        staged.give_name(directory, key.file_name().as_ref(), Publish::Over).map_err(failed)?;
        drop(lock);
        directory.sync().map_err(failed)?;
        Ok(meta(key.clone(), &status))
    }

    /// The content under a temporary name, stamped with the time.
    fn stage(&self, key: &ObjectKey, body: &Payload) -> Result<StagedFile> {
        let failed = |error| failed(Operation::Put, key, error);
        let staging = self.staging(Operation::Put, key)?;
        let mut staged = StagedFile::create(staging, FILE_MODE).map_err(failed)?;
        inherit_owner(&self.staging(Operation::Put, key)?, &*staged.file()).map_err(failed)?;
        let path = staged.path();
        let written = match body {
            Payload::Chunks(chunks) => {
                let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, staged.file());
                chunks.iter().try_for_each(|chunk| writer.write_all(chunk)).and_then(|()| writer.flush())
            }
            Payload::File { path: source, size_bytes } => {
                let mut file =
                    File::open(source).map_err(|error| payload_error(key, source, "cannot be opened", error))?;
                match std::io::copy(&mut file, staged.file()) {
                    Ok(copied) if copied != *size_bytes => {
                        let reason = format!("{} has {copied} bytes instead of {size_bytes}", source.display());
                        return Err(Error::new(ErrorKind::Invalid, Operation::Put, key, reason));
                    }
                    copied => copied.map(|_| ()),
                }
            }
        };
        written.map_err(|error| failed(fs::Error::new(fs::Action::Write, path, error)))?;
        let now = self.clock.now().timestamp_nanos_opt().and_then(|ns| u64::try_from(ns).ok());
        if let Some(now) = now {
            staged.set_modified(now).map_err(failed)?;
        }
        Ok(staged)
    }

    pub(super) fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let mut unsynced: Option<(&str, Directory)> = None;
        for key in keys {
            let parent = key.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
            if unsynced.as_ref().is_none_or(|(path, _)| *path != parent) {
                sync(key, unsynced.take())?;
                let Some(directory) = self.existing_directory(Operation::Delete, key, directories(key))? else {
                    continue;
                };
                unsynced = Some((parent, directory));
            }
            if let Some((_, directory)) = &unsynced {
                self.remove(key, directory)?;
            }
        }
        match keys.last() {
            Some(last) => sync(last, unsynced),
            None => Ok(()),
        }
    }

    fn remove(&self, key: &ObjectKey, directory: &Directory) -> Result<()> {
        let name = key.file_name();
        let failed = |error| failed(Operation::Delete, key, error);
        match directory.status(name) {
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(failed(error)),
            Ok(status) => match status.entry_type {
                EntryType::File => {}
                EntryType::Directory => return Ok(()),
                EntryType::Symlink | EntryType::Other => {
                    return Err(unfit(Operation::Delete, key, &directory.path_of(name)));
                }
            },
        }
        let _lock = self.lock(Operation::Delete, key)?;
        match directory.remove_file(name) {
            Err(error) if !error.is_not_found() => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Held until the file is dropped. Every call opens the file anew, so threads of one process exclude each other too.
    fn lock(&self, operation: Operation, key: &ObjectKey) -> Result<File> {
        let name = lock_name(key);
        let staging = self.staging(operation, key)?;
        let file = staging.open_or_create_file(&name, FILE_MODE).map_err(|error| failed(operation, key, error))?;
        inherit_owner(&staging, &file).map_err(|error| failed(operation, key, error))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_TIMEOUT => std::thread::sleep(LOCK_POLL),
                Err(Errno::WOULDBLOCK) => {
                    let (path, seconds) = (staging.path_of(&name), LOCK_TIMEOUT.as_secs());
                    let reason = format!("another process has held the lock {} for {seconds} s", path.display());
                    return Err(Error::new(ErrorKind::Transient, operation, key, reason));
                }
                Err(errno) => {
                    return Err(failed(
                        operation,
                        key,
                        fs::Error::new(fs::Action::Lock, staging.path_of(&name), errno),
                    ));
                }
            }
        }
    }
}

/// The lock of the directory that the object is in.
pub(super) fn lock_name(key: &ObjectKey) -> String {
    let parent = key.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
    let [first, ..] = *blake3::hash(parent.as_bytes()).as_bytes();
    format!("lock.{:02}", first % LOCKS)
}

fn sync(key: &ObjectKey, unsynced: Option<(&str, Directory)>) -> Result<()> {
    match unsynced {
        Some((_, directory)) => directory.sync().map_err(|error| failed(Operation::Delete, key, error)),
        None => Ok(()),
    }
}

fn already_exists(key: &ObjectKey) -> Error {
    Error::new(ErrorKind::AlreadyExists, Operation::Put, key, "the object exists")
}

fn payload_error(key: &ObjectKey, path: &Path, what: &str, error: std::io::Error) -> Error {
    // Never NotFound: that would be said of the object.
    let reason = format!("{} {what}", path.display());
    Error::new(ErrorKind::Invalid, Operation::Put, key, reason).with_source(error)
}

/// What stands under the name of the object to be, where that is a file.
fn status_if_any(key: &ObjectKey, directory: &Directory) -> Result<Option<FileStatus>> {
    match directory.status(key.file_name()) {
        Ok(status) if status.entry_type == EntryType::File => Ok(Some(status)),
        Ok(status) if status.entry_type == EntryType::Directory => {
            let reason = format!("\"{}\" is a directory", directory.path_of(key.file_name()).display());
            Err(Error::new(ErrorKind::Invalid, Operation::Put, key, reason))
        }
        Ok(_) => Err(unfit(Operation::Put, key, &directory.path_of(key.file_name()))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(failed(Operation::Put, key, error)),
    }
}

/// Size and inode may come again after two replacements; a time that only grows keeps the tags apart, also when the clock
/// stands still or goes back.
fn stamp_after(staged: &StagedFile, current: &FileStatus) -> fs::Result<()> {
    let ours = staged.status()?.modified_ns;
    if ours > current.modified_ns {
        return Ok(());
    }
    u64::try_from(current.modified_ns + 1).map_or(Ok(()), |later| staged.set_modified(later))
}
