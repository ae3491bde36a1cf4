//! Why a restore failed, by what the caller does about it.

use std::path::PathBuf;

use super::destination;
use crate::fs::{self, FailureKind};
use crate::postgres::ServerVersion;
use crate::repository::backup::BackupId;
use crate::repository::{self};

pub type Result<T> = std::result::Result<T, Error>;

/// What a failure means to whoever asked for the restore; `pitr` has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    Failed,
    /// The repository or the server does not answer.
    Unavailable,
    /// Stored bytes are not what they should be.
    Corrupt,
    /// The destination cannot be written, or has no room.
    Destination,
    TimedOut,
    Interrupted,
}

/// A restore that did not reach its end. `Display` leaves out the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the destination cannot be used")]
    Destination(#[from] destination::Error),
    #[error("the repository could not be read")]
    Repository(#[from] repository::Error),
    /// An object of the backup that is missing, or holds other than it should.
    #[error("the backup is damaged: object \"{object}\" {reason}")]
    Damaged { object: String, reason: String },
    /// Its files are not those of its manifest.
    #[error("the backup {backup} cannot be used: {reason}")]
    Unusable { backup: BackupId, reason: String },
    #[error("the backup {backup} is of PostgreSQL {version}, which this version does not support")]
    Unsupported { backup: BackupId, version: ServerVersion },
    #[error("the files could not be written")]
    Files(#[from] fs::Error),
    #[error("the restored configuration cannot be used: {reason}")]
    Settings { reason: String },
    #[error("the target needs what this host must not be given: {reason}")]
    Tablespace { reason: String },
    #[error(transparent)]
    Server(#[from] super::server::Error),
    #[error("the restore was interrupted")]
    Interrupted,
    #[error("the restore was ended by a fault of its own: {reason}")]
    Internal { reason: String },
    /// The copy into `directory` began and did not finish.
    #[error("the restore into \"{}\" did not finish", directory.display())]
    Incomplete { directory: PathBuf, delta: bool, source: Box<Error> },
}

impl Error {
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Destination(_) | Self::Files(_) | Self::Tablespace { .. } => FailureClass::Destination,
            Self::Repository(error) if error.is_corruption() => FailureClass::Corrupt,
            Self::Repository(_) => FailureClass::Unavailable,
            Self::Damaged { .. } | Self::Unusable { .. } => FailureClass::Corrupt,
            Self::Server(error) => error.class(),
            Self::Interrupted => FailureClass::Interrupted,
            Self::Unsupported { .. } | Self::Settings { .. } | Self::Internal { .. } => FailureClass::Failed,
            Self::Incomplete { source, .. } => source.class(),
        }
    }

    /// What is unharmed, and what a person can do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Destination(error) => error.hint(),
            Self::Repository(error) => error.hint().map(str::to_owned),
            Self::Damaged { .. } | Self::Unusable { .. } => Some(
                "an earlier backup may reach the same target: see \"pitr info\", and choose with --backup".to_owned(),
            ),
            Self::Files(error) if error.kind() == FailureKind::Full => {
                Some("free space on that file system, then run the same command again".to_owned())
            }
            Self::Files(error) => error.hint().map(str::to_owned),
            Self::Tablespace { .. } => Some(
                "restore on another host, or choose a target before that point; nothing was changed here".to_owned(),
            ),
            Self::Server(error) => error.hint(),
            Self::Incomplete { source, delta, .. } => {
                let rest = if *delta {
                    "what is there cannot start as a server; the same command compares it again and finishes"
                } else {
                    "what was written cannot start as a server; the same command cleans it up and begins anew"
                };
                Some(match source.hint() {
                    Some(hint) => format!("{hint}; {rest}"),
                    None => rest.to_owned(),
                })
            }
            Self::Unsupported { .. } | Self::Settings { .. } | Self::Interrupted | Self::Internal { .. } => None,
        }
    }

    pub(super) fn panicked(error: &tokio::task::JoinError) -> Self {
        Self::Internal { reason: error.to_string() }
    }
}
