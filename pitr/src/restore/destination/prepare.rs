//! The first writes: directories, the lock, the stamp; and the removal of what an unfinished restore left, or the taking
//! over of what an old cluster is to be reused for.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Gid, Mode, Uid};
use rustix::io::Errno;

use super::check::{check_tablespace, check_tablespace_free, data_directory_state, reusable_state};
use super::{Destination, DestinationState, Error, OldCluster, Result, take_over};
use crate::fs::{self, Action, Directory};
use crate::restore::stamp::{RestoreStamp, StampState};

/// A destination that is ours until this is dropped: it holds a lock on every directory.
#[derive(Debug)]
pub struct PreparedDestination {
    destination: Destination,
    data_directory: Arc<Directory>,
    /// In the order of [`Destination::tablespaces`].
    tablespaces: Vec<Arc<Directory>>,
    stamp: RestoreStamp,
    notes: Vec<String>,
}

impl PreparedDestination {
    /// Makes what is missing, takes the locks, removes the rest of an unfinished restore and leaves `stamp`. Blocks.
    ///
    /// # Errors
    /// Another restore has the lock, the directory is no longer as it was checked, or it cannot be written.
    pub fn prepare(destination: Destination, mut stamp: RestoreStamp) -> Result<Self> {
        if let DestinationState::Old(old) = &destination.state {
            let old = old.clone();
            return Self::take_over(destination, &old, stamp);
        }
        let ownership = &destination.ownership;
        let owner = ownership.give_away.then_some((ownership.account.uid, ownership.gid));
        stamp.state = StampState::Restoring;
        stamp.tablespaces = destination.tablespaces.iter().map(|target| target.path.clone()).collect();

        let data_directory = Arc::new(make_and_lock(&destination.directory, destination.mode, owner)?);
        if let DestinationState::Unfinished(_) = data_directory_state(&destination.directory)? {
            // The stamp goes last, so that this can be interrupted too.
            empty(&data_directory)?;
        }
        stamp.write(&data_directory, owner)?;

        let mut tablespaces = Vec::new();
        for target in &destination.tablespaces {
            if let Some(parent) = target.path.parent().filter(|parent| !parent.exists()) {
                make(parent, 0o700, owner)?;
            }
            let directory = make_and_lock(&target.path, target.mode & 0o777, owner)?;
            check_tablespace_free(&target.path)?;
            empty(&directory)?;
            stamp.write(&directory, owner)?;
            tablespaces.push(Arc::new(directory));
        }
        Ok(Self { destination, data_directory, tablespaces, stamp, notes: Vec::new() })
    }

    /// The same for a destination whose files are reused: see [`take_over`].
    fn take_over(destination: Destination, old: &OldCluster, mut stamp: RestoreStamp) -> Result<Self> {
        let ownership = &destination.ownership;
        let owner = ownership.give_away.then_some((ownership.account.uid, ownership.gid));
        stamp.state = StampState::Restoring;
        stamp.tablespaces = destination.tablespaces.iter().map(|target| target.path.clone()).collect();

        // Nothing is changed before all of it is locked and still what it was.
        let data_directory = Arc::new(make_and_lock(&destination.directory, destination.mode, owner)?);
        let state = reusable_state(&destination.directory, &old.identity)?;
        let earlier = RestoreStamp::read(&destination.directory).ok().flatten();
        let mut tablespaces = Vec::new();
        for target in &destination.tablespaces {
            if let Some(parent) = target.path.parent().filter(|parent| !parent.exists()) {
                make(parent, 0o700, owner)?;
            }
            let directory = make_and_lock(&target.path, target.mode & 0o777, owner)?;
            check_tablespace(&target.path, &state)?;
            tablespaces.push(Arc::new(directory));
        }
        stamp.delta = true;
        if let DestinationState::Old(old) = &state {
            take_over::intend(&data_directory, &destination, old, &mut stamp)?;
        }
        stamp.write(&data_directory, owner)?;
        let notes = match take_over::take(&data_directory, &stamp) {
            Err(running @ (Error::RunningServer { .. } | Error::ServerInUse { .. })) => {
                match earlier {
                    Some(earlier) => earlier.write(&data_directory, owner)?,
                    None => data_directory.remove_file(RestoreStamp::FILE_NAME)?,
                }
                return Err(running);
            }
            taken => taken?,
        };
        for directory in &tablespaces {
            stamp.write(directory, owner)?;
        }
        Ok(Self { destination, data_directory, tablespaces, stamp, notes })
    }

    /// Whether files that are there are compared and kept where they are equal.
    #[must_use]
    pub fn reuses_files(&self) -> bool {
        self.stamp.delta
    }

    /// What a person should know of what was moved.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    #[must_use]
    pub fn stamp(&self) -> &RestoreStamp {
        &self.stamp
    }

    #[must_use]
    pub fn data_directory(&self) -> &Arc<Directory> {
        &self.data_directory
    }

    /// Each tablespace's OID and directory.
    pub fn tablespaces(&self) -> impl Iterator<Item = (u32, &Arc<Directory>)> {
        self.destination.tablespaces.iter().map(|target| target.oid).zip(&self.tablespaces)
    }

    /// The user and group to give files to, where that is not who makes them.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        let ownership = &self.destination.ownership;
        ownership.give_away.then_some((ownership.account.uid, ownership.gid))
    }

    /// The mode of files that the restore adds, as `initdb` chooses it by the directory's.
    #[must_use]
    pub fn file_mode(&self) -> u32 {
        if self.destination.mode & 0o050 == 0 { 0o600 } else { 0o640 }
    }

    /// Says that all files are durable. From here on only `global/pg_control` is missing, and no later restore may clean
    /// up what a tablespace holds.
    ///
    /// # Errors
    /// The stamps cannot be written.
    pub fn mark_restored(&mut self) -> Result<()> {
        for directory in &self.tablespaces {
            directory.remove_file(RestoreStamp::FILE_NAME)?;
            directory.sync()?;
        }
        self.stamp.state = StampState::Restored;
        Ok(self.stamp.write(&self.data_directory, self.owner())?)
    }
}

fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<Directory> {
    fs::create_dir_all_durable(path, mode)?;
    let directory = Directory::open(path)?;
    let failed = |errno| fs::Error::new(Action::Change, path, errno);
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed)?;
    }
    // The umask may have taken something away, and a directory that was there has a mode of its own.
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)).map_err(failed)?;
    Ok(directory)
}

fn make_and_lock(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<Directory> {
    let directory = make(path, mode, owner)?;
    match rustix::fs::flock(directory.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(Errno::WOULDBLOCK) => Err(Error::Busy { path: path.to_owned() }),
        // Some network file systems have no locks for directories; then nobody else is kept out.
        Err(Errno::BADF | Errno::NOLCK | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(directory),
        Err(errno) => Err(fs::Error::new(Action::Lock, path, errno).into()),
    }
}

fn empty(directory: &Directory) -> Result<()> {
    for (name, entry_type) in directory.entries()? {
        if name == RestoreStamp::FILE_NAME {
            continue;
        }
        if entry_type == fs::EntryType::Directory {
            let path = directory.path_of(&name);
            std::fs::remove_dir_all(&path).map_err(|error| fs::Error::new(Action::Remove, path, error))?;
        } else {
            directory.remove_file(&name)?;
        }
    }
    Ok(directory.sync()?)
}
