//! Everything that can end a command before it is done.

use std::io;

use pitr::config::{ConfigError, LoadError, LocateError, SecretError};
use pitr::impact::ImpactError;
use pitr::recovery::PlanError;
use pitr::repository;
use pitr::restore::prepare::PrepareError;
use pitr::restore::recovery_config::RecoveryConfigError;
use pitr::restore::wal_feed::FeedError;
use pitr::storage;

use crate::agent_client::AgentError;
use crate::args::UsageError;

/// `Display` leaves out the source: [`report`](crate::report) prints the chain, once.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Config(#[from] LoadError),
    #[error(transparent)]
    ConfigValue(#[from] ConfigError),
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error("could not open the repository {url}")]
    OpenRepository { url: String, source: repository::Error },
    #[error(transparent)]
    Plan(Box<PlanError>),
    #[error(transparent)]
    Restore(#[from] pitr::restore::Error),
    #[error(transparent)]
    Impact(#[from] ImpactError),
    #[error(transparent)]
    Recovery(#[from] RecoveryConfigError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// What was asked for exists, and was not durable in time.
    #[error("{0}")]
    NotSealedInTime(String),
    /// Something that should be in the repository is not.
    #[error("{lacking} WAL segments have no WAL summary")]
    Incomplete { lacking: u64 },
    /// A verification found damage, and told of it on stdout.
    #[error("{0}")]
    Damaged(String),
    #[error("{message}")]
    Failed { message: String, hint: Option<String> },
    #[error("interrupted{}", .0.map(|note| format!(": {note}")).unwrap_or_default())]
    Interrupted(Option<&'static str>),
    #[error("could not write to stdout")]
    Stdout(#[source] io::Error),
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Plan(refusal) => Self::Plan(refusal),
            PrepareError::Repository(error) => Self::Repository(error),
        }
    }
}

impl Failure {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage(error) => error.hint.clone(),
            Self::Config(error) => error.hint().map(str::to_owned),
            Self::Locate(error) => Some(error.hint().to_owned()),
            Self::Storage(error) => error.hint().map(str::to_owned),
            Self::Repository(error) | Self::OpenRepository { source: error, .. } => error.hint().map(str::to_owned),
            Self::Plan(error) => error.hint(),
            Self::Restore(error) => error.hint(),
            Self::Impact(ImpactError::Repository(error)) => error.hint().map(str::to_owned),
            Self::Impact(ImpactError::Backup(error)) => error.hint(),
            Self::Impact(ImpactError::Unreadable { .. }) => {
                Some("\"pitr verify --full\" tells what of the WAL is damaged".to_owned())
            }
            Self::Feed(error) => error.hint().map(str::to_owned),
            Self::Agent(error) => error.hint(),
            Self::Incomplete { .. } => Some(
                "the stored WAL is damaged there and a restore cannot pass it; take a backup, \"pitr backup\""
                    .to_owned(),
            ),
            Self::Damaged(_) => Some(
                "nothing was changed; a version of the objects that the store keeps repairs them, and \"pitr backup\" \
                 begins anew"
                    .to_owned(),
            ),
            Self::Failed { hint, .. } => hint.clone(),
            Self::ConfigValue(_)
            | Self::Impact(ImpactError::Fold(_) | ImpactError::Version)
            | Self::Recovery(_)
            | Self::Secret(_)
            | Self::NotSealedInTime(_)
            | Self::Interrupted(_)
            | Self::Stdout(_) => None,
        }
    }
}
