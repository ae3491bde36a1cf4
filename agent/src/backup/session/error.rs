//! What can go wrong with the session that holds a backup open.

use pitr::postgres::backup_label::BackupLabelError;
use pitr::postgres::tablespace_map::TablespaceMapError;

use crate::backup::control::ReadControlFileError;
use crate::postgres;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the backup's session with the server failed")]
    Server(#[from] postgres::Error),
    /// The server, or what is found on disk, is not fit for a backup.
    #[error("{reason}")]
    Unfit { reason: String, hint: Option<&'static str> },
    #[error(transparent)]
    ControlFile(#[from] ReadControlFileError),
    #[error("the backup's session with the server was lost: {0}")]
    Lost(String),
    #[error("the server did not answer within {seconds} s while the backup was to {what}")]
    TimedOut { what: &'static str, seconds: u64 },
    #[error("the server returned a backup_label that cannot be used")]
    Label(#[from] BackupLabelError),
    #[error("the server returned a tablespace_map that cannot be used")]
    TablespaceMap(#[from] TablespaceMapError),
    #[error("the server returned what is not understood: {0}")]
    Answer(String),
}

impl SessionError {
    pub(super) fn unfit(reason: impl Into<String>, hint: &'static str) -> Self {
        Self::Unfit { reason: reason.into(), hint: Some(hint) }
    }

    pub(super) fn promoted() -> Self {
        Self::unfit(
            "the standby was promoted while its files were read",
            "let [postgres] connection and [backup] standby lead to the servers as they are now; earlier backups are unharmed",
        )
    }

    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Server(error) => error.hint(),
            Self::Unfit { hint, .. } => hint.map(str::to_owned),
            Self::ControlFile(error) => error.hint().map(str::to_owned),
            Self::Lost(_) => Some("the next backup starts anew; earlier backups and archiving go on".to_owned()),
            _ => None,
        }
    }
}

pub type Result<T> = std::result::Result<T, SessionError>;
