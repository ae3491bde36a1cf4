//! `global/pg_control` of the live data directory. Blocking.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr::postgres::ControlFile;
use pitr::postgres::control_file::ControlFileError;

/// How often it is read until its checksum matches: the server overwrites it in place.
const READS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum ReadControlFileError {
    #[error("could not read \"{}\"", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("\"{}\" cannot be used", path.display())]
    Invalid { path: PathBuf, source: ControlFileError },
}

impl ReadControlFileError {
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run the agent as the user that owns the data directory")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("the agent must run on the server's host and see its data directory under the same path")
            }
            _ => None,
        }
    }
}

/// The file, whole: its bytes as they are, and what they say.
///
/// # Errors
/// It cannot be read, or is damaged however often it is read.
pub fn read_control_file(data_directory: &Path) -> Result<(Vec<u8>, ControlFile), ReadControlFileError> {
    let path = data_directory.join("global/pg_control");
    let mut reads = 0;
    loop {
        let bytes = std::fs::read(&path).map_err(|source| ReadControlFileError::Io { path: path.clone(), source })?;
        reads += 1;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((bytes, control)),
            Err(error) if error.may_be_torn() && reads < READS => std::thread::sleep(PAUSE),
            Err(source) => return Err(ReadControlFileError::Invalid { path, source }),
        }
    }
}
