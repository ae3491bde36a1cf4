//! What is asked of the mark service, and how it can fail.

use std::collections::BTreeMap;
use std::time::Duration;

use pitr::postgres::Lsn;
use pitr::repository::marker::{FinishedMarker, Outcome};

/// `MAXFNAMELEN` of PostgreSQL, less the final zero: the longest name a restore point can have.
const MAX_NAME_BYTES: usize = 63;

/// A marker to be set.
#[derive(Clone, Debug)]
pub struct MarkOrder {
    pub name: String,
    pub meta: BTreeMap<String, String>,
    pub key: Option<String>,
    pub who: Option<String>,
    pub timeout: Duration,
}

/// A marker to be closed.
#[derive(Clone, Debug)]
pub struct FinishOrder {
    pub name: String,
    pub lsn: Option<Lsn>,
    pub outcome: Outcome,
    pub meta: BTreeMap<String, String>,
    pub who: Option<String>,
    pub timeout: Duration,
}

/// The text cannot name a marker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a marker needs a name")]
    Empty,
    #[error("the marker name has {0} bytes, a restore point takes at most {MAX_NAME_BYTES}")]
    TooLong(usize),
    #[error("the marker name holds a control character")]
    ControlCharacter,
    #[error("the marker name holds \"@\", which separates a name from an LSN")]
    At,
}

/// # Errors
/// A name that a restore point cannot have, or that a target could not spell.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > MAX_NAME_BYTES {
        Err(NameError::TooLong(name.len()))
    } else if name.chars().any(char::is_control) {
        Err(NameError::ControlCharacter)
    } else if name.contains('@') {
        Err(NameError::At)
    } else {
        Ok(())
    }
}

/// Why a marker could not be set, closed or sealed.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no marker \"{name}\"")]
    NotFound { name: String },
    #[error("{} markers are named \"{name}\"", markers.len())]
    Ambiguous { name: String, markers: Vec<FinishedMarker> },
    /// A retry must ask for the same: otherwise a deployment would go on without its marker.
    #[error("the key belongs to the marker \"{name}\" of an earlier request")]
    KeyTaken { name: String },
    #[error("the marker \"{name}\" was finished already")]
    AlreadyFinished { name: String },
    /// The restore point could not be created: nothing was recorded.
    #[error("could not create the restore point: {reason}")]
    RestorePoint { reason: String, hint: Option<String> },
    /// The restore point exists, and is not sealed yet.
    #[error("the marker \"{name}\" is set, and was not sealed in time")]
    NotSealed { name: String },
    /// What had to be known before could not be read: nothing was created.
    #[error("the repository did not answer in time which markers there are; \"{name}\" was not {what}")]
    NotLookedUp { name: String, what: &'static str },
    #[error("could not record the marker in the repository: {reason}")]
    Repository { reason: String, hint: Option<String> },
    #[error("the agent is stopping")]
    Stopping,
}

impl MarkError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ambiguous { .. } => Some("pick one as NAME@LSN".to_owned()),
            Self::KeyTaken { .. } => Some("take a key of its own for each marker; nothing was created".to_owned()),
            Self::RestorePoint { hint, .. } | Self::Repository { hint, .. } => hint.clone(),
            Self::NotSealed { .. } => Some(
                "it will be sealed once the repository takes WAL again; ask again with the same --key, or see \"pitr status\""
                    .to_owned(),
            ),
            Self::NotLookedUp { .. } => Some(
                "nothing was created: try again once the repository answers, see \"pitr status\"; a marker without --key \
                 needs no look at the repository"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_restore_point_and_a_target_can_spell() {
        assert_eq!(check_name("release 42/β"), Ok(()));
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name(&"ä".repeat(32)), Err(NameError::TooLong(64)));
        assert_eq!(check_name("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(check_name("a@0/1"), Err(NameError::At));
    }
}
