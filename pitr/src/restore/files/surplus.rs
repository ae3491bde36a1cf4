//! Removes what an old cluster has and the backup lacks, only where a cluster alone keeps files: whatever else stands in a
//! data directory is its owner's.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::tree::{Tree, remove};
use crate::fs::{Directory, EntryType, Result, is_staging_name};
use crate::repository::backup::StoredPath;
use crate::repository::hash::BlockHash;

/// Directories in which every file is the cluster's.
const OWN_DIRECTORIES: [&str; 17] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
];
/// Files beside them that tell a server, or another tool, how to start or what was backed up.
const OWN_FILES: [&str; 15] = [
    "PG_VERSION",
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    "promote",
    "current_logfiles",
    "postgresql.auto.conf.tmp",
];
/// Of the file system.
const FOREIGN: &str = "lost+found";

/// Paths that the backup has, by their hashes: there may be millions.
#[derive(Debug, Default)]
pub(super) struct KeptPaths(Mutex<HashSet<BlockHash>>);

impl KeptPaths {
    pub(super) fn add(&self, path: &StoredPath) {
        self.add_new(path);
    }

    /// False where the path was added before.
    pub(super) fn add_new(&self, path: &StoredPath) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(BlockHash::of(path.as_str().as_bytes()))
    }

    fn contains(&self, path: &Path) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        StoredPath::from_path(path).is_ok_and(|path| kept.contains(&BlockHash::of(path.as_str().as_bytes())))
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::restore) struct Removed {
    /// Files, links and directories, a directory with all that was in it as one.
    pub(in crate::restore) entries: u64,
}

/// Removes what is in the cluster's own directories and not in `kept`; `version_directory` is the part of a tablespace that
/// is the cluster's. Blocks.
///
/// # Errors
/// What the system says.
pub(super) fn remove_surplus(tree: &Tree, kept: &KeptPaths, version_directory: &str) -> Result<Removed> {
    let mut surplus = Surplus { tree, kept, removed: Removed::default() };
    let root = tree.data_directory();
    for name in OWN_DIRECTORIES {
        surplus.clean_below(root, name.into(), Path::new(name))?;
    }
    for name in OWN_FILES {
        surplus.clean_file(root, name)?;
    }
    surplus.clean_staged(root)?;
    for (oid, directory) in tree.tablespaces() {
        let path = Path::new("pg_tblspc").join(oid.to_string()).join(version_directory);
        surplus.clean_below(directory, version_directory.into(), &path)?;
    }
    Ok(surplus.removed)
}

struct Surplus<'a> {
    tree: &'a Tree,
    kept: &'a KeptPaths,
    removed: Removed,
}

impl Surplus<'_> {
    fn clean_below(&mut self, directory: &Directory, name: OsString, path: &Path) -> Result<()> {
        match directory.status(&name) {
            Ok(status) if status.entry_type == EntryType::Directory => self.clean(&directory.open_dir(&name)?, path),
            // The backup's directories are there by now: this is none of them.
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn clean(&mut self, directory: &Directory, path: &Path) -> Result<()> {
        for (name, entry_type) in directory.entries()? {
            let path = path.join(&name);
            if name == FOREIGN {
                continue;
            }
            if !self.stays(&path) {
                remove(directory, &name, entry_type)?;
                self.removed.entries += 1;
            } else if entry_type == EntryType::Directory {
                self.clean(&directory.open_dir(&name)?, &path)?;
            }
        }
        Ok(())
    }

    fn stays(&self, path: &Path) -> bool {
        let mapped = |(oid, _): (u32, _)| path == PathBuf::from("pg_tblspc").join(oid.to_string());
        self.kept.contains(path) || self.tree.tablespaces().any(mapped)
    }

    /// What a restore was about to publish when it was killed.
    fn clean_staged(&mut self, directory: &Directory) -> Result<()> {
        for (name, entry_type) in directory.entries()? {
            if entry_type == EntryType::File && name.to_str().is_some_and(is_staging_name) {
                directory.remove_file(&name)?;
                self.removed.entries += 1;
            }
        }
        Ok(())
    }

    fn clean_file(&mut self, directory: &Directory, name: &str) -> Result<()> {
        match directory.status(name) {
            Ok(status) if !self.kept.contains(Path::new(name)) => {
                remove(directory, name.as_ref(), status.entry_type)?;
                self.removed.entries += 1;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
