//! Makes a restored cluster survive a power cut, without one `fsync` for each of its files.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::fs::{Action, Directory, EntryType, Error, FailureKind, Result};

/// One directory of each file system that is written to, opened before the first byte: `syncfs` reports the failed writes
/// since its descriptor was opened, and only those.
#[derive(Debug)]
pub(in crate::restore) struct FileSystems {
    handles: Vec<Directory>,
}

impl FileSystems {
    pub(in crate::restore) fn open<'a>(roots: impl Iterator<Item = &'a Arc<Directory>>) -> Result<Self> {
        let mut devices = Vec::new();
        let mut handles = Vec::new();
        for root in roots {
            let path = root.path();
            let device = std::fs::metadata(path).map_err(|error| Error::new(Action::Stat, path, error))?.dev();
            if !devices.contains(&device) {
                devices.push(device);
                handles.push(Directory::open(path)?);
            }
        }
        Ok(Self { handles })
    }

    /// Syncs everything below `roots`. Blocks, possibly for long.
    ///
    /// # Errors
    /// Something may not have reached the disk.
    pub(in crate::restore) fn sync<'a>(&self, mut roots: impl Iterator<Item = &'a Arc<Directory>>) -> Result<()> {
        if syncfs_reports_errors() {
            match self.handles.iter().try_for_each(Directory::sync_file_system) {
                // A file system that does not have it.
                Err(error) if error.kind() == FailureKind::Invalid => {}
                synced => return synced,
            }
        }
        roots.try_for_each(|root| sync_tree(root))
    }
}

/// Before Linux 5.8 `syncfs` succeeds even if writing back has failed.
fn syncfs_reports_errors() -> bool {
    let release = rustix::system::uname();
    release.release().to_str().is_ok_and(|release| kernel_at_least(release, (5, 8)))
}

fn kernel_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= wanted
}

fn sync_tree(directory: &Directory) -> Result<()> {
    for (name, entry_type) in directory.entries()? {
        match entry_type {
            EntryType::Directory => sync_tree(&directory.open_dir(&name)?)?,
            EntryType::File => directory
                .open_file(&name)?
                .sync_all()
                .map_err(|error| Error::new(Action::Sync, directory.path_of(&name), error))?,
            EntryType::Symlink | EntryType::Other => {}
        }
    }
    directory.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_compare_as_numbers() {
        for (release, new_enough) in [
            ("5.8.0", true),
            ("5.10.0-28-amd64", true),
            ("6.1", true),
            ("5.7.19", false),
            ("4.19.0", false),
            ("", false),
        ] {
            assert_eq!(kernel_at_least(release, (5, 8)), new_enough, "{release}");
        }
    }

    #[test]
    fn whole_trees_sync_file_by_file() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        std::fs::write(scratch.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", scratch.path().join("a/link")).unwrap();
        assert!(sync_tree(&Directory::open(scratch.path()).unwrap()).is_ok());
    }
}
