//! What one open transaction or subtransaction did.

use rustc_hash::FxHashMap;

use crate::wal_summary::moment::SchemaTraces;
use crate::wal_summary::rows::RowChanges;
use crate::wal_summary::transactions::PreparedPoint;

/// Up to so many relations a list is searched faster than a map.
const LISTED_RELATIONS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By number of the relation.
    rows: Vec<(usize, RowChanges)>,
    /// Where a relation is in `rows`, once those are many.
    places: FxHashMap<usize, usize>,
    traces: Option<Box<SchemaTraces>>,
    pub prepared: Option<Box<PreparedPoint>>,
}

impl Tally {
    #[inline]
    pub fn add(&mut self, relation: usize, changes: RowChanges) {
        let place = if self.places.is_empty() {
            self.rows.iter().position(|(other, _)| *other == relation)
        } else {
            self.places.get(&relation).copied()
        };
        match place.and_then(|place| self.rows.get_mut(place)) {
            Some((_, rows)) => rows.add(changes),
            None => self.push(relation, changes),
        }
    }

    fn push(&mut self, relation: usize, changes: RowChanges) {
        if self.rows.len() == LISTED_RELATIONS {
            self.places.extend(self.rows.iter().enumerate().map(|(place, (relation, _))| (*relation, place)));
        }
        if self.rows.len() >= LISTED_RELATIONS {
            self.places.insert(relation, self.rows.len());
        }
        self.rows.push((relation, changes));
    }

    pub fn rows(&self) -> impl Iterator<Item = (usize, RowChanges)> + '_ {
        self.rows.iter().copied()
    }

    pub fn traces(&mut self) -> &mut SchemaTraces {
        self.traces.get_or_insert_default()
    }

    pub fn take_traces(&mut self) -> Option<Box<SchemaTraces>> {
        self.traces.take()
    }

    /// For the next transaction.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.places.clear();
        self.traces = None;
        self.prepared = None;
    }
}
