//! How many rows of a relation were changed.

use serde::{Deserialize, Serialize};

use crate::postgres::wal::HeapChange;

/// Changes of rows, counted as records of the heap tell them. A speculative insertion (`ON CONFLICT`) counts once it is
/// confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChanges {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Of those deleted, how many an `UPDATE` moved to another partition, where they count as inserted.
    pub moved: u64,
    /// How often its file was cut to nothing in a transaction: a `TRUNCATE` of what the transaction itself had made. Others
    /// give the relation a new file.
    pub truncated: u64,
}

impl RowChanges {
    pub const fn add(&mut self, other: Self) {
        self.inserted = self.inserted.saturating_add(other.inserted);
        self.updated = self.updated.saturating_add(other.updated);
        self.deleted = self.deleted.saturating_add(other.deleted);
        self.moved = self.moved.saturating_add(other.moved);
        self.truncated = self.truncated.saturating_add(other.truncated);
    }

    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.inserted == 0 && self.updated == 0 && self.deleted == 0 && self.truncated == 0
    }

    /// What one record does.
    pub(super) fn of(change: &HeapChange<'_>) -> Self {
        let nothing = Self::default();
        match change {
            HeapChange::Insert { rows } => Self { inserted: (*rows).into(), ..nothing },
            HeapChange::ConfirmInsert => Self { inserted: 1, ..nothing },
            HeapChange::Update => Self { updated: 1, ..nothing },
            HeapChange::Delete => Self { deleted: 1, ..nothing },
            HeapChange::MoveOut => Self { deleted: 1, moved: 1, ..nothing },
            HeapChange::SpeculativeInsert | HeapChange::UndoInsert | HeapChange::Truncate(_) => nothing,
        }
    }
}
