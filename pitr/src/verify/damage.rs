//! What is wrong with an object.

use crate::postgres::{Lsn, SegmentName, TimelineId};
use crate::repository::backup::BackupId;
use crate::repository::layout::MarkerKey;
use crate::repository::{self};
use crate::restore;
use crate::storage::{ErrorKind, ObjectKey};

/// What an object is, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Repository,
    Lineage,
    Lease,
    Segment,
    Tail,
    History,
    WalFile,
    Summary,
    Intent,
    Contents,
    Manifest,
    Pack,
    Map,
    Marker,
    Finish,
    Gap,
    Certificate,
    /// A document that this version does not know.
    Other,
}

impl ObjectKind {
    /// One word, as documents have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Lineage => "lineage",
            Self::Lease => "lease",
            Self::Segment => "segment",
            Self::Tail => "tail",
            Self::History => "history",
            Self::WalFile => "wal_file",
            Self::Summary => "summary",
            Self::Intent => "intent",
            Self::Contents => "contents",
            Self::Manifest => "manifest",
            Self::Pack => "pack",
            Self::Map => "map",
            Self::Marker => "marker",
            Self::Finish => "finish",
            Self::Gap => "gap",
            Self::Certificate => "certificate",
            Self::Other => "other",
        }
    }
}

/// What cannot be used any more because of a damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// Nothing that a restore needs; or backups, which are told one by one.
    None,
    /// Of this segment nothing from `from` on can be replayed.
    Segment {
        name: SegmentName,
        from: Lsn,
    },
    Tail {
        segment: SegmentName,
        from: Lsn,
        to: Lsn,
    },
    History(TimelineId),
    Manifest(BackupId),
    Marker(MarkerKey),
}

/// An object that is not what it should be, or not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub key: String,
    pub kind: ObjectKind,
    /// What is wrong, with the object as the subject.
    pub reason: String,
    pub missing: bool,
    /// Where in the stored object: of a pack, the start of the frame.
    pub offset: Option<u64>,
    /// Where in the WAL.
    pub lsn: Option<Lsn>,
    pub(super) harm: Harm,
}

impl Damage {
    pub(super) fn new(key: &ObjectKey, kind: ObjectKind, reason: impl Into<String>) -> Self {
        Self {
            key: key.to_string(),
            kind,
            reason: reason.into(),
            missing: false,
            offset: None,
            lsn: None,
            harm: Harm::None,
        }
    }

    pub(super) fn missing(key: &ObjectKey, kind: ObjectKind) -> Self {
        Self { missing: true, ..Self::new(key, kind, "is missing") }
    }

    pub(super) fn at(self, offset: Option<u64>) -> Self {
        Self { offset, ..self }
    }

    pub(super) fn at_lsn(self, lsn: Lsn) -> Self {
        Self { lsn: Some(lsn), ..self }
    }

    pub(super) fn harming(self, harm: Harm) -> Self {
        Self { harm, ..self }
    }
}

/// What is wrong with the object that was read, in words; any other error goes on.
pub(super) fn fault_of(error: repository::Error) -> repository::Result<String> {
    match error {
        repository::Error::Corrupt { reason, .. } => Ok(reason),
        repository::Error::Document { source, .. } => Ok(chain(&source)),
        repository::Error::Envelope { source, .. } => Ok(chain(&source)),
        repository::Error::Storage(error) if error.kind() == ErrorKind::Corrupt => Ok(error.reason().to_owned()),
        error => Err(error),
    }
}

/// The same of what a restore reads: "is missing" is one of the faults.
pub(super) fn fault_of_restore(error: restore::Error) -> repository::Result<String> {
    match error {
        restore::Error::Damaged { reason, .. } => Ok(reason),
        restore::Error::Repository(error) => fault_of(error),
        error => Err(internal(&error.to_string())),
    }
}

pub(super) fn internal(reason: &str) -> repository::Error {
    crate::storage::Error::new(ErrorKind::Cancelled, crate::storage::Operation::Get, "verify", reason).into()
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
