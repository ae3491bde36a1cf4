//! From how a command ended to the code that says so: the table of the README, in one place.

use std::io;

use pitr::api::ApiErrorKind;
use pitr::impact::ImpactError;
use pitr::recovery::RefusalClass;
use pitr::repository;
use pitr::restore::FailureClass;
use pitr::storage::ErrorKind;

use crate::agent_client::AgentError;
use crate::failure::Failure;

/// What a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Done,
    Failed,
    Usage,
    TargetNotReachable,
    Unavailable,
    Corruption,
    Destination,
    TimedOut,
    Interrupted,
}

impl ExitStatus {
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::TargetNotReachable => 3,
            Self::Unavailable => 4,
            Self::Corruption => 5,
            Self::Destination => 6,
            Self::TimedOut => 8,
            Self::Interrupted => 130,
        }
    }
}

/// The one rule.
pub fn exit_status(failure: &Failure) -> ExitStatus {
    match failure {
        Failure::Usage(_) | Failure::Config(_) | Failure::ConfigValue(_) | Failure::Locate(_) | Failure::Secret(_) => {
            ExitStatus::Usage
        }
        Failure::Storage(error) => of_storage(error.kind()),
        Failure::Repository(error) | Failure::OpenRepository { source: error, .. } => of_repository(error),
        Failure::Plan(error) => match error.class() {
            RefusalClass::Usage => ExitStatus::Usage,
            RefusalClass::NotReachable => ExitStatus::TargetNotReachable,
            RefusalClass::Corruption => ExitStatus::Corruption,
        },
        Failure::Restore(error) | Failure::Impact(ImpactError::Backup(error)) => match error.class() {
            FailureClass::Failed => ExitStatus::Failed,
            FailureClass::Unavailable => ExitStatus::Unavailable,
            FailureClass::Corrupt => ExitStatus::Corruption,
            FailureClass::Destination => ExitStatus::Destination,
            FailureClass::TimedOut => ExitStatus::TimedOut,
            FailureClass::Interrupted => ExitStatus::Interrupted,
        },
        Failure::Impact(ImpactError::Repository(error)) => of_repository(error),
        Failure::Impact(ImpactError::Unreadable { .. }) => ExitStatus::Corruption,
        Failure::Impact(ImpactError::Fold(_) | ImpactError::Version) => ExitStatus::Failed,
        // Only wal-fetch meets these, and it has codes of its own.
        Failure::Recovery(_) | Failure::Feed(_) => ExitStatus::Failed,
        Failure::Agent(error) => of_agent(error),
        Failure::Incomplete { .. } | Failure::Damaged(_) => ExitStatus::Corruption,
        Failure::NotSealedInTime(_) => ExitStatus::TimedOut,
        Failure::Failed { .. } => ExitStatus::Failed,
        Failure::Interrupted(_) => ExitStatus::Interrupted,
        // Whoever read our output had enough of it.
        Failure::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Done,
        Failure::Stdout(_) => ExitStatus::Failed,
    }
}

fn of_storage(kind: ErrorKind) -> ExitStatus {
    match kind {
        ErrorKind::Denied
        | ErrorKind::NoContainer
        | ErrorKind::Transient
        | ErrorKind::Unavailable
        | ErrorKind::Full => ExitStatus::Unavailable,
        // An object that a document names, and that is not there.
        ErrorKind::NotFound | ErrorKind::Corrupt => ExitStatus::Corruption,
        ErrorKind::Invalid => ExitStatus::Usage,
        ErrorKind::Cancelled => ExitStatus::Interrupted,
        ErrorKind::AlreadyExists | ErrorKind::Changed => ExitStatus::Failed,
    }
}

fn of_repository(error: &repository::Error) -> ExitStatus {
    match error {
        repository::Error::Storage(error) => of_storage(error.kind()),
        repository::Error::NotARepository | repository::Error::NoSuchCluster { .. } => ExitStatus::Unavailable,
        repository::Error::WrongCluster { .. } => ExitStatus::Usage,
        error if error.is_corruption() => ExitStatus::Corruption,
        _ => ExitStatus::Failed,
    }
}

fn of_agent(error: &AgentError) -> ExitStatus {
    match error {
        AgentError::Unreachable { .. } | AgentError::Broken { .. } | AgentError::NoAnswer { .. } => {
            ExitStatus::Unavailable
        }
        AgentError::Senseless { .. } => ExitStatus::Failed,
        AgentError::Refused { error, .. } => match error.kind {
            ApiErrorKind::Invalid | ApiErrorKind::Ambiguous => ExitStatus::Usage,
            ApiErrorKind::TimedOut => ExitStatus::TimedOut,
            ApiErrorKind::Unavailable => ExitStatus::Unavailable,
            ApiErrorKind::NotFound | ApiErrorKind::Conflict | ApiErrorKind::Internal => ExitStatus::Failed,
        },
    }
}

#[cfg(test)]
mod tests;
