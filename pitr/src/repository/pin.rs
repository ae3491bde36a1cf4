//! Pins: what is kept beyond every rule, until somebody takes the pin back.
//!
//! Both are documents that are created and never changed, so whoever may write to the repository can pin and release, with or
//! without an agent. A pin is in force while it has no release.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::backup::BackupId;
use super::document::Document;
use super::note_id::NoteId;
use crate::postgres::{Lsn, TimelineId};

/// What a pin keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PinSubject {
    /// The backup, with the WAL that makes it consistent.
    Backup { id: BackupId },
    /// The moments before and after the marker: a backup before it, and WAL up to it.
    Marker { timeline: TimelineId, lsn: Lsn, name: String },
}

/// `pins/<id>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pin {
    pub id: NoteId,
    pub subject: PinSubject,
    pub reason: Option<String>,
    /// Who asked: user and host.
    pub who: Option<String>,
    pub time: DateTime<Utc>,
}

impl Document for Pin {
    const KIND: &'static str = "pin";
}

/// `pins/<id>.released.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinRelease {
    pub id: NoteId,
    pub who: Option<String>,
    pub time: DateTime<Utc>,
}

impl Document for PinRelease {
    const KIND: &'static str = "pin-release";
}
