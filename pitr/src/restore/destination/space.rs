//! Whether the file systems have room for what comes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::fs::{self, Action};

/// Bytes that a directory will take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceNeed {
    /// May not exist yet; its nearest ancestor tells the file system.
    pub path: PathBuf,
    pub bytes: u64,
}

/// Compares what all of `needs` take with what each file system has for ordinary users: the server is one.
///
/// # Errors
/// [`Error::NoSpace`] with both numbers for the first file system that is too small.
pub fn check_space(needs: &[SpaceNeed]) -> Result<()> {
    let mut by_device: BTreeMap<u64, SpaceNeed> = BTreeMap::new();
    for need in needs {
        let (path, device) = existing_ancestor(&need.path)?;
        let sum = by_device.entry(device).or_insert(SpaceNeed { path, bytes: 0 });
        sum.bytes = sum.bytes.saturating_add(need.bytes);
    }
    for need in by_device.into_values() {
        let free_bytes = free_bytes(&need.path)?;
        if free_bytes < need.bytes {
            return Err(Error::NoSpace { path: need.path, needed_bytes: need.bytes, free_bytes });
        }
    }
    Ok(())
}

/// The nearest directory at or above `path` that exists, and its device.
pub(super) fn existing_ancestor(path: &Path) -> Result<(PathBuf, u64)> {
    for ancestor in path.ancestors() {
        match std::fs::metadata(ancestor) {
            Ok(metadata) => return Ok((ancestor.to_owned(), metadata.dev())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(fs::Error::new(Action::Stat, ancestor, error).into()),
        }
    }
    Err(Error::NotAbsolute { path: path.to_owned() })
}

fn free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| fs::Error::new(Action::Stat, path, errno))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_on_one_file_system_add_up() {
        let scratch = tempfile::tempdir().unwrap();
        let free = free_bytes(scratch.path()).unwrap();
        let need = |name: &str, bytes| SpaceNeed { path: scratch.path().join(name), bytes };
        assert!(check_space(&[need("a", 1), need("b/c", 1)]).is_ok());
        let most = free / 4 * 3;
        assert!(check_space(&[need("a", most)]).is_ok());
        let error = check_space(&[need("a", most), need("b/c", most)]).unwrap_err();
        assert!(matches!(error, Error::NoSpace { needed_bytes, .. } if needed_bytes == most * 2));
        assert!(matches!(
            check_space(&[need("a", u64::MAX), need("b", 1)]),
            Err(Error::NoSpace { needed_bytes: u64::MAX, .. })
        ));
    }
}
