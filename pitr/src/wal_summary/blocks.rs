//! Which blocks of which relations changed, by the rules of PostgreSQL's own `walsummarizer.c`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::run_set::RunSet;
use crate::postgres::relation::{Fork, Oid, RelationLocator};

/// The directory of a database in one tablespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DatabaseLocator {
    /// Zero for the shared relations.
    pub database: Oid,
    pub tablespace: Oid,
}

/// What happened to one fork of a relation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationChanges {
    /// The least length that the fork had: it was truncated to this, or created or dropped (zero). Whatever a copy from
    /// before has from here on is not what the fork has now.
    pub limit: Option<u32>,
    /// Blocks that were written, and not cut off afterwards.
    pub blocks: RunSet,
}

impl RelationChanges {
    /// The block may differ from what it was before the range.
    #[must_use]
    pub fn touches(&self, block: u32) -> bool {
        self.limit.is_some_and(|limit| block >= limit) || self.blocks.contains(block)
    }

    /// Adds what happened afterwards.
    pub(super) fn append(&mut self, later: &Self) {
        if let Some(limit) = later.limit {
            self.blocks.cut(limit);
            self.limit = Some(self.limit.map_or(limit, |earlier| earlier.min(limit)));
        }
        self.blocks = self.blocks.union(&later.blocks);
    }
}

/// All that decides which parts of a copy of the data directory are still good. Free space maps are never in it: they are
/// not in the WAL. Visibility maps are, but incompletely: bits are cleared without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBlocks {
    pub relations: BTreeMap<(RelationLocator, Fork), RelationChanges>,
    /// Directories that `CREATE DATABASE`, `DROP DATABASE` or a move to another tablespace touched: nothing within is known.
    pub databases: BTreeSet<DatabaseLocator>,
    /// Where relation maps (`pg_filenode.map`) were written; the shared one has database zero.
    pub relation_maps: BTreeSet<DatabaseLocator>,
    /// Resource managers of extensions that wrote records: what their replay changes, only they know.
    pub custom_managers: BTreeSet<u8>,
    /// For a time relations could be written without WAL (`wal_level = minimal`).
    pub wal_level_minimal: bool,
    /// For a time `full_page_writes` was off, as far as checkpoints and changes of it tell.
    pub full_page_writes_off: bool,
}

impl ChangedBlocks {
    /// What happened to one fork; none where no record speaks of it.
    #[must_use]
    pub fn relation(&self, relation: RelationLocator, fork: Fork) -> Option<&RelationChanges> {
        self.relations.get(&(relation, fork))
    }

    /// How many runs of blocks there are: what their memory grows with.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.relations.values().map(|changes| changes.blocks.runs().len()).sum()
    }

    /// Counts blocks between two runs as changed where they are at most `gap`: fewer runs, and never a block less.
    pub fn coarsen(&mut self, gap: u32) {
        for changes in self.relations.values_mut() {
            changes.blocks.bridge(gap);
        }
    }

    /// Adds what happened afterwards.
    pub fn append(&mut self, later: &Self) {
        for (relation, changes) in &later.relations {
            self.relations.entry(*relation).or_default().append(changes);
        }
        self.databases.extend(&later.databases);
        self.relation_maps.extend(&later.relation_maps);
        self.custom_managers.extend(&later.custom_managers);
        self.wal_level_minimal |= later.wal_level_minimal;
        self.full_page_writes_off |= later.full_page_writes_off;
    }
}
