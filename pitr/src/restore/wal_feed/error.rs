//! Why a file was not delivered, though it is not proven to be absent.

use crate::fs;
use crate::postgres::{Lsn, SegmentName, TimelineId};
use crate::repository;

/// A failure: for the server, no answer at all (exit code 200). `Display` leaves out the source.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("invalid WAL file name \"{0}\"")]
    Name(String),
    #[error("the repository could not be read for \"{name}\"")]
    Repository { name: String, source: repository::Error },
    #[error("segment \"{segment}\" is needed up to {needed}, and the repository holds it up to {stored}")]
    Missing { segment: SegmentName, needed: Lsn, stored: Lsn },
    #[error("segment \"{segment}\" is in the repository up to {stored}, and there is WAL behind that up to {newer}")]
    Gap { segment: SegmentName, stored: Lsn, newer: Lsn },
    #[error("the history file of timeline {0} is needed, and the repository does not hold it")]
    HistoryMissing(TimelineId),
    #[error("the file could not be delivered")]
    File(#[from] fs::Error),
    #[error("the plan names the segment \"{0}\", which cannot be")]
    Plan(String),
    #[error("the fetcher ended by a fault of its own: {0}")]
    Internal(String),
}

impl FeedError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Repository { source, .. } => source.hint(),
            Self::Missing { .. } | Self::Gap { .. } | Self::HistoryMissing(_) => {
                Some("recovery must not end here: WAL is missing; run \"pitr info\" to see what can be reached")
            }
            Self::Name(_) | Self::File(_) | Self::Plan(_) | Self::Internal(_) => None,
        }
    }
}
