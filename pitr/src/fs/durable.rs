//! Durable operations by path, for those who write outside a store.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path};

use super::staged::parent_of;
use super::{Action, Directory, Error, FailureKind, Publish, Result, StagedFile};

/// Makes every change of names in the directory `path` durable.
///
/// # Errors
/// What `open(2)` and `fsync(2)` say.
pub fn fsync_dir(path: &Path) -> Result<()> {
    Directory::open(path)?.sync()
}

/// Makes `path` and what is missing above it, each with `mode` less the umask, and syncs the directory above each part, so
/// that the whole path survives a power cut. A directory that is there already is success, and is synced all the same:
/// whoever made it may not have come so far.
///
/// # Errors
/// What `mkdir(2)` and `fsync(2)` say; a part that is no directory.
pub fn create_dir_all_durable(path: &Path, mode: u32) -> Result<()> {
    match Directory::open(path) {
        Ok(_) => return sync_if_allowed(parent_of(path)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let Some(name) = path.components().next_back().and_then(normal) else {
        return Err(Error::new(Action::Create, path, io::ErrorKind::InvalidInput));
    };
    create_dir_all_durable(parent_of(path), mode)?;
    let parent = Directory::open(parent_of(path))?;
    parent.make_dir(name, mode)?;
    parent.sync()?;
    // It may have been there in another shape.
    Directory::open(path).map(|_| ())
}

/// A directory above one that exists may be closed to us; then it was somebody else who made what is in it.
fn sync_if_allowed(path: &Path) -> Result<()> {
    match fsync_dir(path) {
        Err(error) if error.kind() == FailureKind::Denied => Ok(()),
        synced => synced,
    }
}

fn normal(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

/// Publishes `bytes` as the file `path`, with `mode` less the umask.
///
/// # Errors
/// As [`StagedFile::publish`].
pub fn publish_bytes(path: &Path, bytes: &[u8], mode: u32, how: Publish) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::new(Action::Create, path, io::ErrorKind::InvalidInput));
    };
    let mut staged = StagedFile::beside(path, mode)?;
    staged.write(bytes)?;
    staged.publish(&Directory::open(parent_of(path))?, name, how)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn makes_every_missing_part_and_is_content_with_what_is_there() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b/c");
        create_dir_all_durable(&path, 0o700).unwrap();
        create_dir_all_durable(&path, 0o700).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(scratch.path().join("file"), "").unwrap();
        let error = create_dir_all_durable(&scratch.path().join("file/x"), 0o700).unwrap_err();
        assert_eq!(error.kind(), FailureKind::NotADirectory);
    }

    #[test]
    fn publishes_with_content_and_mode() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x".repeat(255));
        publish_bytes(&path, b"one", 0o600, Publish::New).unwrap();
        assert!(publish_bytes(&path, b"two", 0o600, Publish::New).is_err());
        publish_bytes(&path, b"three", 0o640, Publish::Over).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_directory_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let error = publish_bytes(&scratch.path().join("none/x"), b"", 0o600, Publish::New).unwrap_err();
        assert!(error.is_not_found() && error.path().ends_with("none"));
    }
}
