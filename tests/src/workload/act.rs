//! What the load can do, and how often.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// One thing that changes files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Insert,
    Copy,
    /// `COPY ... FREEZE` into a table of the same transaction.
    CopyFrozen,
    /// Of a column without index: mostly HOT.
    UpdateInPlace,
    UpdateKeys,
    /// Values that go to TOAST.
    Widen,
    /// `ON CONFLICT`: speculative insertions.
    Upsert,
    /// Of rows, some by several members of a multixact.
    Lock,
    Delete,
    /// Deletes the last rows, and vacuums the end of the file away.
    CutTail,
    /// Truncates, and often fills again.
    Truncate,
    CreateTable,
    DropAndCreate,
    Vacuum,
    VacuumFull,
    Cluster,
    Reindex,
    MoveTable,
    FlipLogged,
    /// Unlogged and logged again.
    FlipAndBack,
    /// `ALTER TABLE ... TYPE`.
    Rewrite,
    /// Drops an index and builds it again, some of them concurrently.
    BuildIndex,
    /// A materialized view, made or refreshed.
    Materialize,
    CreateDatabase,
    DropDatabase,
    /// Drops a database and makes another one with its OID, so that all relfilenodes come again.
    ReuseDatabase,
    MoveDatabase,
    MoveDatabaseAndBack,
    UseDatabase,
    LargeObjects,
    Prepare,
    FinishPrepared,
    Subtransactions,
    Abort,
    OpenTransaction,
    EndTransaction,
    Sequences,
    /// Reads everything: sets hint bits, prunes, writes visibility into nothing else.
    ReadAll,
    Checkpoint,
    SwitchWal,
}

const WEIGHTS: &[(Act, u32)] = &[
    (Act::Insert, 12),
    (Act::Copy, 3),
    (Act::CopyFrozen, 2),
    (Act::UpdateInPlace, 8),
    (Act::UpdateKeys, 6),
    (Act::Widen, 4),
    (Act::Upsert, 3),
    (Act::Lock, 3),
    (Act::Delete, 6),
    (Act::CutTail, 4),
    (Act::Truncate, 4),
    (Act::CreateTable, 2),
    (Act::DropAndCreate, 3),
    (Act::Vacuum, 8),
    (Act::VacuumFull, 2),
    (Act::Cluster, 2),
    (Act::Reindex, 2),
    (Act::MoveTable, 2),
    (Act::FlipLogged, 2),
    (Act::FlipAndBack, 2),
    (Act::Rewrite, 1),
    (Act::BuildIndex, 3),
    (Act::Materialize, 2),
    (Act::CreateDatabase, 2),
    (Act::DropDatabase, 1),
    (Act::ReuseDatabase, 1),
    (Act::MoveDatabase, 1),
    (Act::MoveDatabaseAndBack, 1),
    (Act::UseDatabase, 4),
    (Act::LargeObjects, 3),
    (Act::Prepare, 2),
    (Act::FinishPrepared, 2),
    (Act::Subtransactions, 2),
    (Act::Abort, 2),
    (Act::OpenTransaction, 2),
    (Act::EndTransaction, 2),
    (Act::Sequences, 3),
    (Act::ReadAll, 3),
    (Act::Checkpoint, 3),
    (Act::SwitchWal, 2),
];

impl Act {
    pub(super) fn choose(rng: &mut StdRng) -> Self {
        // The weights are constants above zero: there is always a choice.
        WEIGHTS.choose_weighted(rng, |(_, weight)| *weight).map_or(Self::Insert, |(act, _)| *act)
    }

    /// Every act there is.
    pub fn all() -> impl Iterator<Item = Self> {
        WEIGHTS.iter().map(|(act, _)| *act)
    }
}
