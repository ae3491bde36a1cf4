//! What a builder collects by relation and fork.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::tally::Tally;
use crate::postgres::relation::{Fork, RelationLocator};
use crate::wal_summary::blocks::RelationChanges;
use crate::wal_summary::rows::RowChanges;
use crate::wal_summary::run_set::RunSet;

/// A list of blocks is sorted and freed of duplicates when it has grown to twice what was left the last time.
const FIRST_COMPACTION: usize = 4096;
const RECENT_BLOCKS: usize = 32;

/// All relations of a range, each with a number by which it is found fast.
#[derive(Debug, Default)]
pub(super) struct RelationTable {
    entries: Vec<Entry>,
    indexes: FxHashMap<(RelationLocator, Fork), usize>,
    last: Option<((RelationLocator, Fork), usize)>,
}

#[derive(Debug)]
struct Entry {
    relation: RelationLocator,
    fork: Fork,
    limit: Option<u32>,
    /// In the order of their records.
    blocks: Vec<u32>,
    compact_at: usize,
    /// Blocks that are in the list already, by their lowest bits.
    recent: [u32; RECENT_BLOCKS],
    committed: RowChanges,
}

impl Entry {
    fn new(relation: RelationLocator, fork: Fork) -> Self {
        let (limit, committed) = (None, RowChanges::default());
        let recent = no_recent_blocks();
        Self { relation, fork, limit, blocks: Vec::new(), compact_at: FIRST_COMPACTION, recent, committed }
    }

    #[inline]
    fn touch(&mut self, block: u32) {
        if let Some(recent) = self.recent.get_mut(block as usize % RECENT_BLOCKS) {
            if *recent == block {
                return;
            }
            *recent = block;
        }
        self.blocks.push(block);
        if self.blocks.len() >= self.compact_at {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.blocks.sort_unstable();
        self.blocks.dedup();
        self.compact_at = FIRST_COMPACTION.max(self.blocks.len() * 2);
    }

    fn cut(&mut self, limit: u32) {
        self.blocks.retain(|block| *block < limit);
        self.recent = no_recent_blocks();
        self.limit = Some(self.limit.map_or(limit, |earlier| earlier.min(limit)));
    }
}

/// Each place holds a block that belongs to another.
fn no_recent_blocks() -> [u32; RECENT_BLOCKS] {
    std::array::from_fn(|place| u32::try_from(place + 1).unwrap_or_default())
}

impl RelationTable {
    #[inline]
    pub fn index(&mut self, relation: RelationLocator, fork: Fork) -> usize {
        let key = (relation, fork);
        if let Some((last, index)) = self.last
            && last == key
        {
            return index;
        }
        let next = self.entries.len();
        let index = *self.indexes.entry(key).or_insert(next);
        if index == next {
            self.entries.push(Entry::new(relation, fork));
        }
        self.last = Some((key, index));
        index
    }

    /// The block was written. Returns the number of the relation and fork.
    #[inline]
    pub fn touch(&mut self, relation: RelationLocator, fork: Fork, block: u32) -> usize {
        let index = self.index(relation, fork);
        if let Some(entry) = self.entries.get_mut(index) {
            entry.touch(block);
        }
        index
    }

    /// The fork was cut to so many blocks, or made anew.
    pub fn limit(&mut self, relation: RelationLocator, fork: Fork, limit: u32) {
        let index = self.index(relation, fork);
        if let Some(entry) = self.entries.get_mut(index) {
            entry.cut(limit);
        }
    }

    pub fn commit(&mut self, tally: &Tally) {
        for (index, rows) in tally.rows() {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.committed.add(rows);
            }
        }
    }

    pub fn locator(&self, index: usize) -> RelationLocator {
        const NOWHERE: RelationLocator = RelationLocator { tablespace: 0, database: 0, relfilenode: 0 };
        self.entries.get(index).map_or(NOWHERE, |entry| entry.relation)
    }

    pub fn finish(self) -> (BTreeMap<(RelationLocator, Fork), RelationChanges>, BTreeMap<RelationLocator, RowChanges>) {
        let (mut relations, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for mut entry in self.entries {
            if !entry.committed.is_nothing() {
                rows.insert(entry.relation, entry.committed);
            }
            if entry.limit.is_some() || !entry.blocks.is_empty() {
                entry.compact();
                let blocks = RunSet::from_sorted(entry.blocks);
                relations.insert((entry.relation, entry.fork), RelationChanges { limit: entry.limit, blocks });
            }
        }
        (relations, rows)
    }
}
