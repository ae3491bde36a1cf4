//! Makes an old data directory one that is being restored, in an order that an interruption cannot harm.
//!
//! 1. The stamp says what is about to happen: a directory that has it and no `global/pg_control` is finished by the next
//!    `--delta`, and is removed by nobody. Before the next step the old cluster is as it was.
//! 2. `global/pg_control` goes, so that no server can start between old and new pages. A server that began to start in the
//!    meantime gets it back.
//! 3. `pg_wal` is moved aside, never removed: segments that no archive has are the last transactions of the old cluster.
//! 4. Each tablespace gets the stamp too.

use std::path::Path;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::old_cluster::{OldCluster, refuse_server};
use super::{Destination, Result};
use crate::fs::{Action, Directory, EntryType, Error, FailureKind, is_staging_name};
use crate::postgres::data_directory::FORMER_WAL_PREFIX;
use crate::restore::server::wal_test::TEST_FILE;
use crate::restore::stamp::RestoreStamp;

/// In `global`, until the files of the backup are there.
const FORMER_CONTROL_FILE: &str = "pg_control.replaced";

/// Adds to `stamp` what the old cluster has that must not be forgotten. Only reads.
pub(super) fn intend(
    directory: &Directory,
    destination: &Destination,
    old: &OldCluster,
    stamp: &mut RestoreStamp,
) -> Result<()> {
    stamp.former_tablespaces = old.tablespaces.clone();
    stamp.former_tablespaces.retain(|path| !destination.tablespaces.iter().any(|target| target.path == *path));
    stamp.former_wal = old.unfinished.as_ref().map(|stamp| stamp.former_wal.clone()).unwrap_or_default();
    stamp.former_wal.retain(|name| directory.status(name).is_ok());
    if holds_wal(directory)? {
        stamp.former_wal.push(format!("{FORMER_WAL_PREFIX}{}", stamp.restore));
    }
    Ok(())
}

/// Steps 2 and 3, durably; the stamp is there. Returns what a person should know.
///
/// # Errors
/// Of a file system, or that a server runs: then the control file is where it was.
pub(super) fn take(directory: &Directory, stamp: &RestoreStamp) -> Result<Vec<String>> {
    take_control_file(directory)?;
    if holds_wal(directory)?
        && let Some(name) = stamp.former_wal.last()
    {
        // A name that is taken would be an earlier pg_wal.
        rename_new(directory, "pg_wal", name)?;
        directory.sync()?;
    }
    Ok(stamp.former_wal.iter().filter_map(|name| former_wal_note(directory, name)).collect())
}

fn take_control_file(directory: &Directory) -> Result<()> {
    let global = match directory.open_dir("global") {
        Ok(global) => global,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match rename(&global, "pg_control", FORMER_CONTROL_FILE) {
        Err(error) if error.is_not_found() => return Ok(()),
        renamed => renamed?,
    }
    global.sync()?;
    if let Err(running) = refuse_server(directory.path()) {
        rename_new(&global, FORMER_CONTROL_FILE, "pg_control")?;
        global.sync()?;
        return Err(running);
    }
    Ok(())
}

/// Whether `pg_wal` is anything but an empty directory as a restore makes and tests it.
fn holds_wal(directory: &Directory) -> Result<bool> {
    match directory.status("pg_wal") {
        Ok(status) if status.entry_type == EntryType::Directory => {}
        Ok(_) => return Ok(true),
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let wal = directory.open_dir("pg_wal")?;
    for (name, entry_type) in wal.entries()? {
        let made_by_us = match entry_type {
            EntryType::Directory => wal.open_dir(&name)?.entries()?.is_empty(),
            EntryType::File => name.to_str().is_some_and(is_test_file),
            EntryType::Symlink | EntryType::Other => false,
        };
        if !made_by_us {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the test of the restore command leaves where it is killed.
fn is_test_file(name: &str) -> bool {
    is_staging_name(name) || Path::new("pg_wal").join(name) == Path::new(TEST_FILE)
}

fn former_wal_note(directory: &Directory, name: &str) -> Option<String> {
    let path = directory.path_of(name);
    let status = directory.status(name).ok()?;
    let kept = "remove it once nothing in it is wanted any more";
    Some(if status.entry_type == EntryType::Symlink {
        let target = std::fs::read_link(&path).unwrap_or_default();
        format!(
            "pg_wal was a symbolic link to \"{}\", where the old WAL is left; it is now a directory in the data directory, \
             and \"{}\" is the old link",
            target.display(),
            path.display()
        )
    } else {
        format!("the old pg_wal is in \"{}\"; {kept}", path.display())
    })
}

fn rename(directory: &Directory, from: &str, to: &str) -> crate::fs::Result<()> {
    rustix::fs::renameat(directory, from, directory, to).map_err(|errno| failed(directory, from, errno))
}

/// Overwrites nothing.
fn rename_new(directory: &Directory, from: &str, to: &str) -> crate::fs::Result<()> {
    match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS) => match directory.status(to) {
            Ok(_) => Err(failed(directory, to, Errno::EXIST)),
            Err(error) if error.kind() == FailureKind::NotFound => rename(directory, from, to),
            Err(error) => Err(error),
        },
        renamed => renamed.map_err(|errno| failed(directory, from, errno)),
    }
}

fn failed(directory: &Directory, name: impl AsRef<Path>, errno: Errno) -> Error {
    Error::new(Action::Move, directory.path().join(name), errno)
}
