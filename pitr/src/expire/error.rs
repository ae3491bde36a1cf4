//! Why a run of retention ended early. What it deleted until then was of no use to anybody; the next run goes on.

use crate::repository;
use crate::retention::Refusal;
use crate::storage::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum ExpireError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the repository failed")]
    Repository(#[from] repository::Error),
    /// Another agent may write here.
    #[error("the lease of lineage {lineage} is not ours: nothing more is deleted")]
    NotOurs { lineage: String },
    #[error("cancelled")]
    Cancelled,
}

impl ExpireError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.hint()),
            Self::Repository(error) => error.hint(),
            Self::NotOurs { .. } => Some("see \"pitr status\": another agent may archive this cluster now"),
            Self::Cancelled => None,
        }
    }
}

impl ExpireError {
    /// Whether the repository has no room, which the deletion itself may make.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Repository(repository::Error::Storage(error)) if error.kind() == ErrorKind::Full)
    }
}

impl From<crate::storage::Error> for ExpireError {
    fn from(error: crate::storage::Error) -> Self {
        Self::Repository(error.into())
    }
}

pub type Result<T> = std::result::Result<T, ExpireError>;
