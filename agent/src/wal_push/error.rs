//! Why a file was not archived.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pitr::postgres::wal_file_name::ParseWalFileNameError;
use pitr::repository;

use super::verify::Refusal;

/// `Display` leaves out the source.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Name(#[from] ParseWalFileNameError),
    #[error("could not read \"{}\"", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("\"{}\" is not the file that the client sees there", path.display())]
    AnotherFile { path: PathBuf },
    #[error("\"{}\" does not stand in the server's \"{}\"", path.display(), pg_wal.display())]
    ElsewhereThanPgWal { path: PathBuf, pg_wal: PathBuf },
    #[error("{name} is refused")]
    Refused { name: String, source: Refusal },
    #[error("{name} has other content than the repository: nothing was changed")]
    Conflict { name: String, source: repository::Error },
    #[error("{name} could not be stored")]
    Repository { name: String, source: repository::Error },
    #[error("{name} was not stored within {} s", waited.as_secs_f64())]
    TimedOut { name: String, waited: Duration },
    #[error("the agent could not renew its lease, so it stores nothing")]
    NoLease,
    #[error("the agent is stopping")]
    Stopping,
    #[error("a part of the agent ended unexpectedly: {0}")]
    Broken(String),
}

impl PushError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Conflict { .. } => {
                "another server with this system identifier was archived under the same name, or WAL was lost and written \
                 again; find out which history is the right one"
            }
            Self::Repository { source, .. } => return source.hint().map(str::to_owned),
            Self::Refused { source, .. } => return source.hint().map(str::to_owned),
            Self::ElsewhereThanPgWal { .. } => "archive_command must lead to the agent of its own cluster",
            Self::AnotherFile { .. } => "run the agent where the server runs: they see different files",
            Self::Name(_)
            | Self::File { .. }
            | Self::TimedOut { .. }
            | Self::NoLease
            | Self::Stopping
            | Self::Broken(_) => return None,
        };
        Some(text.to_owned())
    }

    pub(super) fn of_repository(name: &str, source: repository::Error) -> Self {
        let name = name.to_owned();
        match source {
            repository::Error::Conflict { .. } => Self::Conflict { name, source },
            source => Self::Repository { name, source },
        }
    }

    /// Whether a person must look, however often it is tried again.
    pub(super) const fn is_lasting(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}
