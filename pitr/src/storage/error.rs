//! What can go wrong with a store, by what the caller does about it.

use std::fmt;

/// Why an operation failed, as far as the caller's next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store answered that there is no such object.
    NotFound,
    /// The object exists, and was to be created.
    AlreadyExists,
    /// The object is not the version it was to replace.
    Changed,
    /// The store knows us and refuses, or does not accept who we say we are.
    Denied,
    /// The bucket or the root directory does not exist.
    NoContainer,
    /// No space, or a quota is used up.
    Full,
    /// Not answered, or answered with a trouble that passes: worth another try.
    Transient,
    /// Given up: tried until the deadline.
    Unavailable,
    /// What came back is not what was put.
    Corrupt,
    /// A request the store cannot serve as asked: a fault of configuration or of ours.
    Invalid,
    /// The caller ended it.
    Cancelled,
}

impl ErrorKind {
    /// The one rule of what is tried again.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Transient)
    }
}

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Put,
    Get,
    Head,
    List,
    Delete,
    Open,
}

impl Operation {
    pub const ALL: [Self; 6] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete, Self::Open];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Open => "open",
        })
    }
}

/// A failed operation of an object store. `Display` leaves out the source: the chain is printed once, at the edge.
#[derive(Debug, thiserror::Error)]
#[error("could not {operation} \"{key}\": {reason}")]
pub struct Error {
    kind: ErrorKind,
    operation: Operation,
    key: String,
    reason: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, operation: Operation, key: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { kind, operation, key: key.to_string(), reason: reason.into(), source: None }
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with another kind, for decorators that know more.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self.kind {
            ErrorKind::Denied => Some("check the credentials and the rights on the bucket or directory"),
            ErrorKind::NoContainer => Some("create the bucket or directory, or correct [repository] url"),
            ErrorKind::Full => Some("free space in the repository; nothing that is already stored is affected"),
            ErrorKind::Transient | ErrorKind::Unavailable => {
                Some("check that the store is reachable at [repository] endpoint, then try again")
            }
            ErrorKind::Corrupt => Some(
                "nothing was changed; check the store: an earlier version of the object, if the store keeps one, repairs it",
            ),
            _ => None,
        }
    }
}
