//! Configuration files that stood outside the data directory, as on Debian: they are written into it.

use std::path::{Path, PathBuf};

use super::paths::MovedPaths;
use crate::fs::{Action, Directory, Error, Publish, Result, create_dir_all_durable};
use crate::repository::backup::ExternalRole;
use crate::restore::contents::ExternalFile;
use crate::restore::owned_file;

/// Where included files go that stood in a directory of their own.
const INCLUDED_DIRECTORY: &str = "pitr_included";

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WrittenExternals {
    /// Directories that included files moved out of.
    pub(super) moved: MovedPaths,
    /// Parameters that named a file which now stands where the server looks by itself.
    pub(super) dropped: Vec<&'static str>,
}

/// The name that the server expects in the data directory, and the parameter that can name another.
fn default_name(role: ExternalRole) -> Option<(&'static str, &'static str)> {
    match role {
        ExternalRole::ConfigFile => Some(("postgresql.conf", "config_file")),
        ExternalRole::HbaFile => Some(("pg_hba.conf", "hba_file")),
        ExternalRole::IdentFile => Some(("pg_ident.conf", "ident_file")),
        ExternalRole::Included => None,
    }
}

/// Writes `files` into `directory`. Files included by a path relative to `postgresql.conf` stay so. Blocks.
pub(super) fn write(
    directory: &Directory,
    files: &[ExternalFile],
    owner: Option<(u32, u32)>,
) -> Result<WrittenExternals> {
    let mut written = WrittenExternals::default();
    let main = files.iter().find(|file| file.role == ExternalRole::ConfigFile);
    let main_directory = main.and_then(|file| Path::new(&file.path).parent());
    if let Some(from) = main_directory {
        written.moved.add(from, directory.path());
    }
    for (number, file) in files.iter().filter(|file| file.role == ExternalRole::Included).enumerate() {
        if written.moved.moved(Path::new(&file.path)).is_none()
            && let Some(from) = Path::new(&file.path).parent()
        {
            let to = directory.path().join(INCLUDED_DIRECTORY).join(number.to_string());
            written.moved.add(from, &to);
        }
    }
    for file in files {
        match default_name(file.role) {
            Some((name, parameter)) => {
                put(directory, name, file, owner)?;
                written.dropped.push(parameter);
            }
            None => {
                let Some(path) = written.moved.moved(Path::new(&file.path)) else { continue };
                put_at(directory, &path, file, owner)?;
            }
        }
    }
    Ok(written)
}

fn put_at(root: &Directory, path: &Path, file: &ExternalFile, owner: Option<(u32, u32)>) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let mut made: Vec<PathBuf> = parent.ancestors().take_while(|part| !part.exists()).map(Path::to_owned).collect();
    create_dir_all_durable(parent, 0o700)?;
    // What a link leads to is not ours.
    if !leads_into(root.path(), parent) {
        return Err(Error::new(Action::Open, parent, std::io::Error::from(rustix::io::Errno::NOTDIR)));
    }
    made.retain(|part| part.starts_with(root.path()));
    for part in made {
        owned_file::give(&Directory::open(&part)?, owner)?;
    }
    put(&Directory::open(parent)?, name, file, owner)
}

/// Whether `path`, with its symbolic links followed, is within `root`.
pub(super) fn leads_into(root: &Path, path: &Path) -> bool {
    match (std::fs::canonicalize(root), std::fs::canonicalize(path)) {
        (Ok(root), Ok(path)) => path.starts_with(root),
        _ => false,
    }
}

fn put(directory: &Directory, name: &str, file: &ExternalFile, owner: Option<(u32, u32)>) -> Result<()> {
    owned_file::publish(directory, name, &file.content, file.mode & 0o777 | 0o600, owner, Publish::Over)
}
