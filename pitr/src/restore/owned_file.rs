//! Single files that a restore writes itself: durable at once, and with the owner that all restored files get.

use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Uid};

use crate::fs::{Action, Directory, Error, Publish, Result, StagedFile};

/// Publishes `bytes` as `name` in `directory`, with exactly `mode`. Blocks.
///
/// # Errors
/// As [`StagedFile::publish`].
pub(super) fn publish(
    directory: &Directory,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    how: Publish,
) -> Result<()> {
    let mut staged = StagedFile::beside(&directory.path_of(name), mode)?;
    staged.write(bytes)?;
    let failed = |errno| Error::new(Action::Change, directory.path_of(name), errno);
    chown(&*staged.file(), owner).map_err(failed)?;
    rustix::fs::fchmod(&*staged.file(), Mode::from_raw_mode(mode)).map_err(failed)?;
    staged.publish(directory, name, how)
}

/// Gives a directory that a restore made to `owner`.
///
/// # Errors
/// What `chown(2)` says.
pub(super) fn give(directory: &Directory, owner: Option<(u32, u32)>) -> Result<()> {
    chown(directory, owner).map_err(|errno| Error::new(Action::Change, directory.path(), errno))
}

fn chown(file: impl AsFd, owner: Option<(u32, u32)>) -> rustix::io::Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}
