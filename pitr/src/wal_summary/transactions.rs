//! Transactions across the borders of a range: those still open at its end, and how those ended that may have begun
//! before it. With both, neighbours add up to exactly what was committed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::moment::{SchemaChange, SchemaTraces};
use super::rows::RowChanges;
use super::run_set::RunSet;
use super::stored;
use crate::postgres::relation::RelationLocator;
use crate::postgres::{Lsn, TransactionId};

/// What a transaction or a subtransaction did in the range, and whose fate is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransaction {
    pub rows: BTreeMap<RelationLocator, RowChanges>,
    pub traces: SchemaTraces,
    /// `PREPARE TRANSACTION` was in the range.
    pub prepared: Option<PreparedPoint>,
}

/// `PREPARE TRANSACTION`: after a recovery to here or later, the transaction waits for its second phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedPoint {
    #[serde(with = "stored::lsn")]
    pub lsn: Lsn,
    #[serde(with = "stored::time")]
    pub time: DateTime<Utc>,
    /// What is not UTF-8 in the name is replaced.
    pub gid: String,
}

/// A commit that may belong to a schema change which began before the range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaCommit {
    #[serde(with = "stored::lsn")]
    pub lsn: Lsn,
    #[serde(with = "stored::lsn")]
    pub end_lsn: Lsn,
    pub change: SchemaChange,
    pub subtransactions: RunSet,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transactions {
    pub open: BTreeMap<TransactionId, OpenTransaction>,
    /// Transactions and subtransactions that committed in the range and may have begun before it.
    pub committed: RunSet,
    /// The same for those that were rolled back.
    pub aborted: RunSet,
    /// Of those committed, those that touched the schema or may have.
    pub schema_commits: Vec<SchemaCommit>,
    pub running: Option<Running>,
}

/// What the server said of running transactions (`XLOG_RUNNING_XACTS`, written at least at every checkpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The next transaction ID when it first said so: whatever is not before this began within the range.
    pub first_next_xid: TransactionId,
    /// The oldest running transaction when it last said so: whatever is before this and has not ended never will (the server
    /// crashed).
    pub oldest_xid: TransactionId,
    /// No transaction from before the range runs any more.
    pub settled: bool,
}

/// `TransactionIdPrecedes` of normal transaction IDs, which wrap around.
#[must_use]
pub const fn precedes(a: TransactionId, b: TransactionId) -> bool {
    a.as_u32().wrapping_sub(b.as_u32()) > u32::MAX / 2
}

impl Running {
    pub(super) const fn new(next: TransactionId, oldest: TransactionId) -> Self {
        Self { first_next_xid: next, oldest_xid: oldest, settled: !precedes(oldest, next) }
    }

    pub(super) const fn may_have_begun_before(&self, xid: TransactionId) -> bool {
        !self.settled && precedes(xid, self.first_next_xid)
    }

    pub(super) const fn append(&mut self, later: &Self) {
        self.oldest_xid = later.oldest_xid;
        self.settled = self.settled || !precedes(later.oldest_xid, self.first_next_xid);
    }
}

impl Transactions {
    /// The end of this transaction matters to whoever precedes the range.
    #[must_use]
    pub fn may_have_begun_before(&self, xid: TransactionId) -> bool {
        self.running.is_none_or(|running| running.may_have_begun_before(xid))
    }
}
