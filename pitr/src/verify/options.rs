//! What is to be verified, and how deeply.

use chrono::{DateTime, Utc};

use crate::repository::backup::BackupId;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Documents, maps and listings.
    Fast,
    /// Every byte.
    Full,
    /// As fast, and so many bytes of packs and WAL. The same seed chooses the same objects of the same repository.
    Sample { bytes: u64, seed: u64 },
}

/// What is to be verified.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    pub depth: Depth,
    /// Objects that are read and checked at once.
    pub jobs: usize,
    /// This backup and the WAL that it needs, and nothing else.
    pub backup: Option<BackupId>,
    /// Backups that ended at this time or later, and WAL from the first of them on.
    pub since: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
}

/// For [`Depth::Sample`]: another one each time, told to whoever may want the same sample again.
#[must_use]
pub fn random_seed() -> u64 {
    // As many digits as a person can repeat.
    u64::from(rand::random::<u32>())
}

impl Depth {
    #[must_use]
    pub const fn is_full(self) -> bool {
        matches!(self, Self::Full)
    }
}
