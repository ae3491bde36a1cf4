//! The lease: who writes WAL and backups of a lineage, and how far it is. The only object that is ever replaced.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::Document;
use super::lineage::LineageId;
use crate::postgres::{Lsn, TimelineId};

/// A position on a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalPosition {
    pub timeline: TimelineId,
    pub lsn: Lsn,
}

/// Rewritten every few seconds by its holder. From it alone one can tell an idle cluster from a dead agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Of which lineage it is; none in what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<LineageId>,
    /// Random, new at each start of an agent.
    pub holder: String,
    pub host: String,
    pub pid: u32,
    /// One more than that of the holder before.
    pub epoch: u64,
    pub time: DateTime<Utc>,
    /// After this moment another agent may take the lease.
    pub expires: DateTime<Utc>,
    /// Up to where the server said it has flushed WAL.
    pub server: Option<WalPosition>,
    /// Up to where every byte is durable in the repository.
    pub sealed: Option<WalPosition>,
    /// Time of the last commit or abort up to `sealed`, where the agent has seen one.
    pub sealed_commit_time: Option<DateTime<Utc>>,
    /// What keeps the agent from archiving, or ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Lease {
    /// Whether it may be that of `lineage`.
    #[must_use]
    pub fn is_of(&self, lineage: LineageId) -> bool {
        self.lineage.is_none_or(|own| own == lineage)
    }
}

impl Document for Lease {
    const KIND: &'static str = "lease";
}
