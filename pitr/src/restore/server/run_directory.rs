//! What a restore keeps beside the data directory: the recovery configuration, the certificate, and the log and socket of a
//! server that it started.

use std::path::{Path, PathBuf};

use super::Result;
use crate::fs::{Action, Directory, Error as FileError, Publish, create_dir_all_durable};
use crate::restore::owned_file;

/// `sun_path` has 108 bytes, the last of which is 0.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The directory beside `data_directory` that belongs to its restore: `/srv/main.pitr` for `/srv/main`.
#[must_use]
pub fn companion_directory(data_directory: &Path) -> PathBuf {
    let mut name = data_directory.file_name().unwrap_or_default().to_owned();
    name.push(".pitr");
    data_directory.with_file_name(name)
}

/// A companion directory that is there, open to the server's user and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::restore) struct RunDirectory {
    path: PathBuf,
    owner: Option<(u32, u32)>,
}

impl RunDirectory {
    /// Makes it where it is missing. Blocks.
    pub(in crate::restore) fn make(data_directory: &Path, owner: Option<(u32, u32)>) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;

        let path = companion_directory(data_directory);
        create_dir_all_durable(&path, 0o700)?;
        owned_file::give(&Directory::open(&path)?, owner)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| FileError::new(Action::Change, &path, error))?;
        Ok(Self { path, owner })
    }

    pub(in crate::restore) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    pub(in crate::restore) fn hba_file(&self) -> PathBuf {
        self.path.join("pg_hba.conf")
    }

    /// The directory for the socket, which needs a short path: where ours is too long, one in the temporary directory.
    pub(in crate::restore) fn socket_directory(&self, port: u16) -> Result<PathBuf> {
        let socket = self.path.join(format!(".s.PGSQL.{port}"));
        if socket.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
            return Ok(self.path.clone());
        }
        let made = tempfile::Builder::new().prefix("pitr-").tempdir_in("/tmp");
        let path = made.map_err(|error| FileError::new(Action::Create, "/tmp", error))?.keep();
        owned_file::give(&Directory::open(&path)?, self.owner)?;
        Ok(path)
    }

    /// Publishes a file in it. Blocks.
    pub(in crate::restore) fn publish(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let directory = Directory::open(&self.path)?;
        owned_file::publish(&directory, name, content, 0o600, self.owner, Publish::Over)?;
        Ok(self.path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_beside_the_data_directory() {
        assert_eq!(companion_directory(Path::new("/srv/main")), Path::new("/srv/main.pitr"));
        assert_eq!(companion_directory(Path::new("/srv/a.b/")), Path::new("/srv/a.b.pitr"));
    }

    #[test]
    fn sockets_get_a_path_that_fits() {
        let scratch = tempfile::tempdir().unwrap();
        let short = RunDirectory::make(&scratch.path().join("data"), None).unwrap();
        assert_eq!(short.socket_directory(5432).unwrap(), scratch.path().join("data.pitr"));
        let long = RunDirectory::make(&scratch.path().join("d".repeat(100)), None).unwrap();
        let directory = long.socket_directory(5432).unwrap();
        assert!(directory.starts_with("/tmp") && directory.as_os_str().len() < 50);
        std::fs::remove_dir(directory).unwrap();
    }
}
