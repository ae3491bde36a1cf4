//! What happened between two moments, table by table: what a rollback would undo.
//!
//! WAL summaries say how many rows were changed and how the schema was; only WAL around the two moments, and WAL without a
//! summary, is decoded. Transactions count that committed between the moments, with all that they did, be it before the first
//! one. Names are those that the catalogs held then: [`book`] follows them from the copy in a backup.
//!
//! ```text
//! backup ──────── summaries: catalogs only ────────▶ from ── rows, times, catalogs ──▶ to
//!                      baseline ◀── open transactions ◀──┘
//! ```

pub mod book;
mod copy;
mod ddl;
mod find;
mod names;
pub mod pulse;
mod stretch;
mod survey;
mod tables;

use crate::postgres::relation::Oid;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::{self, catalog::LsnRange};
use crate::wal_summary::{Ends, FoldError};

pub use book::{ActionKind, RelationId, RelationName};
pub use ddl::{DdlAction, DdlCommit};
pub use find::{Find, Found, FoundKind, find};
pub use names::NamedRelation;
pub use pulse::{Beat, Pulse};
pub use survey::{Survey, survey};
pub use tables::{SequenceImpact, TableImpact, Traffic};

/// Catalogs that hold what users put there: `pg_largeobject` and `pg_largeobject_metadata`.
const LARGE_OBJECTS: [Oid; 2] = [2613, 2995];

/// What happened in a range of WAL.
#[derive(Clone, Debug)]
pub struct Impact {
    pub timeline: TimelineId,
    /// End of the last record of the state before, and of the last that counts.
    pub range: LsnRange,
    pub commits: Option<Ends>,
    pub aborts: Option<Ends>,
    /// Those with the most changes first.
    pub tables: Vec<TableImpact>,
    /// By name.
    pub sequences: Vec<SequenceImpact>,
    /// By position.
    pub ddl: Vec<DdlCommit>,
    pub pulse: Pulse,
    /// WAL before the range in which it was looked for what is live traffic; none where there was none to look at.
    pub baseline: Option<LsnRange>,
    /// Transactions that began before WAL that could be looked at: what they did there is not counted.
    pub uncounted: u64,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub from: Lsn,
    pub position: Lsn,
    pub to: Lsn,
}

/// Who is told how far the work is.
pub type Observe<'a> = &'a (dyn Fn(Reading) + Send + Sync);

/// Why it cannot be said what happened.
#[derive(Debug, thiserror::Error)]
pub enum ImpactError {
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error("the names of relations could not be read from the backup")]
    Backup(#[from] crate::restore::Error),
    #[error("the WAL from {from} to {to} cannot be read")]
    Unreadable { from: Lsn, to: Lsn },
    #[error("the WAL summaries do not fit together")]
    Fold(#[from] FoldError),
    #[error("this version of PostgreSQL is not supported")]
    Version,
}
