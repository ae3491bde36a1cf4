//! What can go wrong with a repository.

use super::document::DocumentError;
use super::envelope::EnvelopeError;
use crate::storage::{self, ErrorKind, ObjectKey};

/// A failed operation on a repository. `Display` leaves out the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the object store failed")]
    Storage(#[from] storage::Error),
    #[error("the object \"{key}\" cannot be read")]
    Document { key: ObjectKey, source: DocumentError },
    #[error("the object \"{key}\" cannot be read")]
    Envelope { key: ObjectKey, source: EnvelopeError },
    /// Bytes that are not what their header or name says.
    #[error("the object \"{key}\" is corrupt: {reason}")]
    Corrupt { key: ObjectKey, reason: String },
    /// The same name with other content: two servers write one history.
    #[error("the object \"{key}\" exists with other content: {reason}")]
    Conflict { key: ObjectKey, reason: String },
    #[error("there is no repository here: repository.json is missing")]
    NotARepository,
    #[error("the repository holds no cluster \"{cluster}\"")]
    NoSuchCluster { cluster: String },
    #[error("the cluster has another identity than the repository knows: {reason}")]
    WrongCluster { reason: String },
}

impl Error {
    /// Whether the repository answered that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_not_found())
    }

    /// Whether stored bytes are not what they should be.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Storage(error) => error.kind() == ErrorKind::Corrupt,
            Self::Document { source, .. } | Self::Envelope { source: EnvelopeError::Header(source), .. } => {
                !matches!(source, DocumentError::TooNew { .. } | DocumentError::UnknownFeature(_))
            }
            Self::Envelope { .. } | Self::Corrupt { .. } => true,
            _ => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Storage(error) => error.hint(),
            Self::Document { source, .. } | Self::Envelope { source: EnvelopeError::Header(source), .. }
                if matches!(source, DocumentError::TooNew { .. } | DocumentError::UnknownFeature(_)) =>
            {
                Some("a newer version of pitr wrote this object; use that version")
            }
            Self::Document { .. } | Self::Envelope { .. } | Self::Corrupt { .. } => Some(
                "nothing was changed; check the store: an earlier version of the object, if the store keeps one, repairs it",
            ),
            Self::Conflict { .. } => Some(
                "two servers with the same system identifier write to this repository; stop one of them, \
                 nothing that is stored was changed",
            ),
            Self::NotARepository => Some("check [repository] url; the agent makes a repository at its first start"),
            Self::NoSuchCluster { .. } => Some("check the cluster's name; the agent adds a cluster at its first start"),
            Self::WrongCluster { .. } => Some("give this cluster a name of its own in the configuration"),
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
