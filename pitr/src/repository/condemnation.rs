//! Condemnations: which backups are about to be deleted, said before any of them is.
//!
//! A backup that takes pages from another names that as its parent in its intent, and only then looks for a condemnation of
//! it. Whoever deletes writes the condemnation, and only then looks for intents. So at least one of the two sees the other:
//! the backup does without the parent, or the parent stays.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::backup::BackupId;
use super::document::Document;
use super::note_id::NoteId;

/// `condemned/<id>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Condemnation {
    pub id: NoteId,
    pub time: DateTime<Utc>,
    /// Host and process of the agent.
    pub who: String,
    pub backups: Vec<BackupId>,
}

impl Document for Condemnation {
    const KIND: &'static str = "condemnation";
}
