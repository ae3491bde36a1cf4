//! Gaps: what is known of WAL that is lost for good.
//!
//! A note explains a hole to a person, and nothing more: whether WAL is without a hole is proven from segments and tails
//! alone, so a note that is missing hides no hole, and one that is wrong makes none.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::Document;
use crate::postgres::{Lsn, TimelineId};

/// Why WAL was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The server invalidated the slot: more than `max_slot_wal_keep_size`.
    SlotLost,
    /// The server invalidated the slot: `idle_replication_slot_timeout`.
    SlotIdle,
    /// The slot was gone, and with it the WAL that it was to keep.
    SlotDropped,
    /// The slot held more than `[wal] max_retained`, and the agent gave it up.
    SlotGivenUp,
    /// The server does not have the WAL any more, whatever its slot said.
    WalRemoved,
    /// The server took it for archived, and `archive_command` had never handed it over.
    NotHandedOver,
    /// An object was in the repository, and is not any more.
    ObjectDeleted,
    /// No rule of retention kept it.
    Expired,
    /// What a newer version knows.
    #[serde(other)]
    Other,
}

/// WAL that nobody has any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GapNote {
    /// The timeline of `from_lsn`.
    pub timeline: TimelineId,
    /// The first byte that is missing.
    pub from_lsn: Lsn,
    /// The first byte that is there again; none while nothing is.
    pub to_lsn: Option<Lsn>,
    pub cause: GapCause,
    /// The cause in words.
    pub reason: String,
    pub noticed: DateTime<Utc>,
    /// Who noticed: host and process of the agent.
    pub who: String,
}

impl GapNote {
    /// Whether the WAL was deleted because nobody wanted it any more: then nothing was lost.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.cause == GapCause::Expired
    }
}

impl Document for GapNote {
    const KIND: &'static str = "gap";
}
