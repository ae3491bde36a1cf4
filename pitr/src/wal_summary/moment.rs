//! Moments that one may want to go back to, or must know of on the way.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::catalog::Filled;
use super::listed::Listed;
use super::run_set::RunSet;
use super::stored;
use crate::postgres::relation::{Oid, RelationLocator};
use crate::postgres::{Lsn, TimelineId, TransactionId};

/// A record that means something to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Where the record starts: what a recovery target names.
    #[serde(with = "stored::lsn")]
    pub lsn: Lsn,
    /// Where it ends: what the server's functions return.
    #[serde(with = "stored::lsn")]
    pub end_lsn: Lsn,
    pub kind: MomentKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentKind {
    /// `pg_create_restore_point()`. What is not UTF-8 in the name is replaced.
    RestorePoint {
        name: String,
        #[serde(with = "stored::time")]
        time: DateTime<Utc>,
    },
    /// A commit of DDL.
    SchemaChange(Box<SchemaChange>),
    /// Also a move into another tablespace.
    CreateDatabase {
        database: Oid,
        tablespace: Oid,
    },
    DropDatabase {
        database: Oid,
        tablespaces: Vec<Oid>,
    },
    /// What is not UTF-8 in the path is replaced.
    CreateTablespace {
        tablespace: Oid,
        path: String,
    },
    DropTablespace {
        tablespace: Oid,
    },
    /// The timeline begins here.
    TimelineBegin {
        previous: TimelineId,
    },
    Checkpoint {
        #[serde(with = "stored::lsn")]
        redo_lsn: Lsn,
        shutdown: bool,
    },
    /// A backup that began at `start_lsn` is consistent from here on.
    BackupEnd {
        #[serde(with = "stored::lsn")]
        start_lsn: Lsn,
    },
    ParameterChange {
        max_connections: i32,
        max_worker_processes: i32,
        max_wal_senders: i32,
        max_prepared_transactions: i32,
        max_locks_per_transaction: i32,
        /// 0 minimal, 1 replica, 2 logical.
        wal_level: i32,
        wal_log_hints: bool,
    },
}

/// A transaction that changed system catalogs, or created or dropped files of relations.
///
/// Statistics and large objects are no schema, and what changes a catalog row in place (`VACUUM`, `ANALYZE`) is no change
/// by a user. `CREATE TEMP TABLE` is one: the WAL does not tell it apart. A catalog that `VACUUM FULL` gave a new file is
/// not recognised as one any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaChange {
    pub xid: TransactionId,
    #[serde(with = "stored::time")]
    pub time: DateTime<Utc>,
    /// Zero where the commit does not say.
    pub database: Oid,
    /// `pg_class.oid` of the relations that it changed, as far as sessions were told to forget what they knew of them.
    pub tables: Listed<Oid>,
    /// The transaction and its subtransactions, as far as they left traces in the range.
    pub members: RunSet,
    /// Rows that it put in, as far as it did in the range.
    pub filled: Filled,
    pub traces: SchemaTraces,
}

/// What a transaction left of a schema change before it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaTraces {
    /// Files of the system catalogs that were written; by their numbers as `initdb` made them, which are the OIDs.
    pub catalogs: BTreeSet<Oid>,
    pub created: Listed<RelationLocator>,
    pub dropped: Listed<RelationLocator>,
    /// `pg_class.oid` of truncated tables (`wal_level = logical` only; otherwise they show as created and dropped).
    pub truncated: Listed<Oid>,
}

impl SchemaTraces {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.catalogs.is_empty() && self.created.is_empty() && self.dropped.is_empty() && self.truncated.is_empty()
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.catalogs.extend(&other.catalogs);
        self.created.merge(&other.created);
        self.dropped.merge(&other.dropped);
        self.truncated.merge(&other.truncated);
    }
}
