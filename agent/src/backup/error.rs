//! What can go wrong with a backup.

use std::time::Duration;

use pitr::postgres::{Lsn, SegmentName};
use pitr::repository;
use pitr::repository::backup::{BackupId, PackId};
use pitr::restore;

use super::control::ReadControlFileError;
use super::copy::CopyError;
use super::listing::ListingError;
use super::session::SessionError;

/// Why there is no new backup. Earlier ones are not affected by any of these.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("could not list the data directory")]
    Listing(#[from] ListingError),
    #[error("could not copy the data directory")]
    Copy(#[from] CopyError),
    #[error(transparent)]
    ControlFile(#[from] ReadControlFileError),
    #[error("could not access the repository")]
    Repository(#[from] repository::Error),
    #[error("no name is free for a backup that starts now: \"{last}\" is taken")]
    NoName { last: BackupId },
    #[error("WAL does not reach the repository")]
    WalNotArchived { problem: Option<String> },
    #[error("the WAL up to {stop_lsn} that makes the backup consistent was not in the repository within {} s", waited.as_secs())]
    WalNotSealed { stop_lsn: Lsn, waited: Duration },
    #[error(
        "WAL that the backup needs is not in the repository: segment {segment} ends at {found}, {wanted} is needed"
    )]
    WalMissing { segment: SegmentName, found: Lsn, wanted: Lsn },
    #[error("the WAL has no end of this backup at {stop_lsn}: {found}")]
    NoEndRecord { stop_lsn: Lsn, found: String },
    #[error("the pack {pack} is not in the repository as it was stored: {reason}")]
    PackLost { pack: PackId, reason: String },
    #[error("the data directory is not that of the server: {0}")]
    NotTheServers(String),
    #[error("a part of the backup ended unexpectedly: {0}")]
    Broken(String),
    #[error("the backup was stopped")]
    Cancelled,
}

impl BackupError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = |text: &str| Some(text.to_owned());
        match self {
            Self::Session(error) => error.hint(),
            Self::Listing(error) => error.hint().map(str::to_owned),
            Self::Copy(error) => error.hint().map(str::to_owned),
            Self::ControlFile(error) => error.hint().map(str::to_owned),
            Self::Repository(error) => error.hint().map(str::to_owned),
            Self::WalNotArchived { problem } => Some(match problem {
                Some(problem) => format!("archiving is held up: {problem}"),
                None => "see what the agent's log says of streaming".to_owned(),
            }),
            Self::WalNotSealed { .. } => text("see whether archiving gets on; the next backup starts anew"),
            Self::WalMissing { .. } => text("a hole in the archive: take another backup, which begins behind it"),
            Self::NotTheServers(_) => {
                text("the agent must see the server's own data directory, not a copy of it under the same path")
            }
            _ => None,
        }
    }

    /// What was to be shared is not in the repository as it should be: a backup that shares nothing does not need it.
    #[must_use]
    pub const fn is_of_the_parent(&self) -> bool {
        matches!(self, Self::Copy(CopyError::Parent(restore::Error::Damaged { .. })) | Self::PackLost { .. })
    }

    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Copy(CopyError::Cancelled) | Self::Listing(ListingError::Cancelled))
    }
}

pub type Result<T> = std::result::Result<T, BackupError>;
