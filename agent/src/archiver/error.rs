//! Why archiving ends.

use chrono::{DateTime, Utc};
use pitr::postgres::wal::SegmentError;
use pitr::postgres::{Lsn, SegmentName, SystemIdentifier, TimelineId};
use pitr::repository;

use crate::postgres;
use crate::postgres::origin::OriginError;

/// What stops the archiver for good, or one of its connections. `Display` leaves out the source.
#[derive(Debug, thiserror::Error)]
pub enum ArchiverError {
    #[error(
        "another agent archives this cluster: process {pid} on {host}, whose lease runs until {}", expires.format("%H:%M:%S UTC")
    )]
    LeaseHeld { host: String, pid: u32, expires: DateTime<Utc> },
    #[error("another agent has taken over: process {pid} on {host}")]
    LeaseLost { host: String, pid: u32 },
    #[error("the server is another cluster: its system identifier is {found}, the repository's is {expected}")]
    WrongCluster { found: SystemIdentifier, expected: SystemIdentifier },
    #[error("the server's WAL segments have another size than those in the repository")]
    WrongSegmentSize,
    /// Two histories claim the same place.
    #[error(
        "the server's WAL differs at {lsn} on timeline {timeline} from what it sent before: the repository was not changed"
    )]
    Fork { timeline: TimelineId, lsn: Lsn },
    /// A server that is older than what it has sent before.
    #[error(
        "the server's WAL on timeline {timeline} ends at {server}, and the repository holds this timeline up to {stored}: \
         the server was put back to an older state, or is a copy of the one that was archived; the repository was not \
         changed"
    )]
    WentBack { timeline: TimelineId, stored: Lsn, server: Lsn },
    /// The data directory is not the one that was archived.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// An old primary that came back.
    #[error(
        "the server is on timeline {found}, and WAL was archived on timeline {archived} since: it was left behind by a \
         failover, and nothing of it was stored"
    )]
    LeftBehind { found: TimelineId, archived: TimelineId },
    #[error("the repository holds other content in the same place: it was not changed")]
    Conflict(#[source] repository::Error),
    #[error("the server sent WAL that is not valid in segment {segment}")]
    InvalidWal { segment: SegmentName, source: SegmentError },
    #[error("segment {segment} ends in zeros that no XLOG_SWITCH explains")]
    UnexplainedZeros { segment: SegmentName },
    #[error("could not talk to the server")]
    Postgres(#[from] postgres::Error),
    #[error("could not work with the repository")]
    Repository(#[source] repository::Error),
    #[error("{0}")]
    Unsuitable(String),
    #[error("a part of the archiver ended unexpectedly: {0}")]
    Broken(String),
}

impl From<repository::Error> for ArchiverError {
    fn from(error: repository::Error) -> Self {
        match error {
            repository::Error::Conflict { .. } => Self::Conflict(error),
            error => Self::Repository(error),
        }
    }
}

impl ArchiverError {
    /// Whether trying again later may help without a person doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Postgres(_) | Self::Repository(_) | Self::Unsuitable(_) | Self::LeftBehind { .. })
    }

    /// Whether only a person can decide what is to become of it.
    #[must_use]
    pub fn wants_a_decision(&self) -> bool {
        matches!(
            self,
            Self::Fork { .. }
                | Self::WentBack { .. }
                | Self::Conflict(_)
                | Self::WrongCluster { .. }
                | Self::WrongSegmentSize
                | Self::Origin(_)
        )
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Postgres(error) => return error.hint(),
            Self::Repository(error) | Self::Conflict(error) => return error.hint().map(str::to_owned),
            Self::Origin(error) => error.hint(),
            Self::LeaseHeld { .. } => "stop that agent, or wait until its lease has run out; one cluster has one agent",
            Self::LeaseLost { .. } => "only one agent may archive a cluster: stop one of the two",
            Self::WrongCluster { .. } | Self::WrongSegmentSize => {
                "give this cluster a name of its own in the configuration"
            }
            Self::Fork { .. } | Self::WentBack { .. } => {
                "the server has lost WAL that it had flushed, was put back to an older state, or two servers share one \
                 identity: find out which is the right one. Where it is this one, \"pitr-agent adopt --new-history\" lets \
                 it go on beside what was stored before, which stays restorable"
            }
            Self::LeftBehind { .. } => {
                "stop that server, or make a standby of it (pg_rewind). Where it is to go on after all, \"pitr-agent adopt \
                 --new-history\" lets it, beside what was stored before"
            }
            Self::InvalidWal { .. } | Self::UnexplainedZeros { .. } => {
                "check the server's storage with pg_waldump and pg_checksums; nothing invalid was stored"
            }
            Self::Unsuitable(_) | Self::Broken(_) => return None,
        };
        Some(text.to_owned())
    }
}
