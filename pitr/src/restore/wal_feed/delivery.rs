//! Files in their place: whole, or not at all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::FeedError;
use crate::fs::{Action, Directory, Error, Publish, StagedFile};

/// Only the server reads them.
const MODE: u32 = 0o600;

/// Where a file goes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
    name: OsString,
}

impl Place {
    pub(super) fn new(path: &Path) -> Result<Self, FeedError> {
        let name =
            path.file_name().ok_or_else(|| Error::new(Action::Create, path, std::io::ErrorKind::InvalidInput))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Self { directory, name: name.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

/// Writes `bytes` under another name in `directory`, filled up with zeros to `size`. Blocks.
pub(super) fn stage(directory: &Path, bytes: &[u8], size: u64) -> Result<StagedFile, FeedError> {
    let mut staged = StagedFile::create(Directory::open(directory)?, MODE)?;
    staged.write(bytes)?;
    let path = staged.path();
    staged.file().set_len(size).map_err(|error| Error::new(Action::Write, path, error))?;
    Ok(staged)
}

/// Writes `bytes` to `place`. The server copies or renames the file itself and syncs what it needs, so nothing is synced here.
/// Blocks.
pub(super) fn deliver(place: &Place, bytes: &[u8], size: u64) -> Result<(), FeedError> {
    let mut staged = StagedFile::beside(&place.path(), MODE)?;
    staged.write(bytes)?;
    let path = staged.path();
    staged.file().set_len(size).map_err(|error| Error::new(Action::Write, path, error))?;
    Ok(staged.give_name(&Directory::open(&place.directory)?, &place.name, Publish::Over)?)
}

/// Moves a file that was staged elsewhere to `place`; false where that is another file system. Blocks.
pub(super) fn move_staged(staged: &mut StagedFile, place: &Place) -> Result<bool, FeedError> {
    match staged.give_name(&Directory::open(&place.directory)?, &place.name, Publish::Over) {
        Ok(()) => Ok(true),
        Err(error) if error.io().kind() == std::io::ErrorKind::CrossesDevices => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// As [`deliver`], off the async threads.
pub(super) async fn deliver_off_thread(place: Place, bytes: Bytes, size: u64) -> Result<(), FeedError> {
    off_thread(move || deliver(&place, &bytes, size)).await
}

pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FeedError> + Send + 'static,
) -> Result<T, FeedError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(FeedError::Internal(error.to_string())),
    }
}
