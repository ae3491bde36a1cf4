//! What there is to copy: a walk over the data directory and its tablespaces.
//!
//! Taken once, right after `pg_backup_start`. What appears later is in the WAL; what disappears is no fault. Sizes are those
//! of the walk: whatever a relation grows beyond them is in the WAL too. The files of one relation are looked at from the
//! first to the last, because the server cuts them from the last to the first: a short file then never stands before a
//! longer one whose bytes the server had already given up.

mod error;
mod file_list;
#[cfg(test)]
mod tests;
mod walk;

pub use error::ListingError;
pub use file_list::{FileKind, FileList, ListedFile};
pub use walk::list;

use std::path::PathBuf;

use pitr::repository::backup::{BackupTablespace, StoredPath};

/// Where to look.
#[derive(Clone, Debug)]
pub struct ListingRequest {
    pub data_directory: PathBuf,
    /// Name of the directory that holds this version's databases in a tablespace: `PG_15_202209061`.
    pub tablespace_version_directory: String,
}

/// Everything of a data directory that belongs into a backup, but `global/pg_control`.
#[derive(Debug)]
pub struct Listing {
    /// Parents before children.
    pub directories: Vec<ListedDirectory>,
    pub links: Vec<ListedLink>,
    pub files: FileList,
    pub tablespaces: Vec<BackupTablespace>,
    pub data_directory: DataDirectoryStat,
    /// What was left out though it is not known to be of no use.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDirectory {
    pub path: StoredPath,
    pub mode: u32,
}

/// A symbolic link that is copied as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLink {
    pub path: StoredPath,
    pub target: String,
}

/// Owner and mode of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataDirectoryStat {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}
