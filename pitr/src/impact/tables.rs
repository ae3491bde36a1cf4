//! Rows by table, from rows by file.

use std::collections::{BTreeMap, BTreeSet};

use super::book::{CatalogBook, RelationAction};
use super::names::{NamedRelation, Subject, subject_of};
use crate::postgres::Lsn;
use crate::postgres::relation::RelationLocator;
use crate::postgres::system_catalog::RelationKind;
use crate::repository::catalog::LsnRange;
use crate::wal_summary::{MomentKind, RowChanges, SequenceState, WalSummary};

/// Whether a table is one that is always busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// It was changed before the range too.
    Live,
    /// Only in the range.
    Only,
}

/// What happened to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableImpact {
    pub relation: NamedRelation,
    pub rows: RowChanges,
    /// With those that gave it a new file.
    pub truncated: u64,
    /// Rows written anew by a change of the table: they were there before.
    pub rewritten: u64,
    /// None where nothing is known of the time before.
    pub traffic: Option<Traffic>,
}

/// A sequence that went on, or was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceImpact {
    pub relation: NamedRelation,
    pub state: SequenceState,
}

/// What the tables are made of.
pub(super) struct Facts<'a> {
    pub book: &'a CatalogBook,
    pub range: LsnRange,
    pub whole: &'a WalSummary,
    /// Files that were changed before the range; none where nothing is known of that time.
    pub baseline: Option<&'a BTreeSet<RelationLocator>>,
    /// By the commit.
    pub actions: &'a BTreeMap<Lsn, Vec<RelationAction>>,
}

impl Facts<'_> {
    pub fn tables(&self) -> Vec<TableImpact> {
        let mut by_subject: BTreeMap<Subject, (RowChanges, u64)> = BTreeMap::new();
        for (file, rows) in &self.whole.rows {
            let subject = subject_of(self.book, *file);
            let rewritten = self.rewritten(*file).min(rows.inserted);
            let (known, known_rewritten) = by_subject.entry(subject).or_default();
            known.add(RowChanges { inserted: rows.inserted - rewritten, ..*rows });
            *known_rewritten += rewritten;
        }
        for action in self.actions.values().flatten().filter(|action| is_table(action.kind)) {
            by_subject.entry(Subject::Relation(action.relation)).or_default();
        }
        by_subject.remove(&Subject::Nothing);
        let live: Option<BTreeSet<Subject>> =
            self.baseline.map(|files| files.iter().map(|file| subject_of(self.book, *file)).collect());
        let tables = by_subject.into_iter().filter_map(|(subject, (rows, rewritten))| {
            let (relation, by_file) = match subject {
                Subject::Relation(relation) => {
                    let truncated = self.book.truncations(relation, self.range.from, self.range.to);
                    (NamedRelation::of(self.book, relation, self.range)?, truncated)
                }
                Subject::File(file) => (NamedRelation::of_file(self.book, file, self.range), 0),
                Subject::Nothing => return None,
            };
            let truncated = by_file + rows.truncated;
            let traffic = live.as_ref().map(|live| if live.contains(&subject) { Traffic::Live } else { Traffic::Only });
            Some(TableImpact { relation, rows, truncated, rewritten, traffic })
        });
        let mut tables: Vec<_> = tables.collect();
        let weight = |table: &TableImpact| table.rows.inserted + table.rows.updated + table.rows.deleted;
        tables.sort_by(|a, b| {
            let name = |table: &TableImpact| (table.relation.database_name.clone(), table.relation.name.clone());
            weight(b).cmp(&weight(a)).then_with(|| name(a).cmp(&name(b)))
        });
        tables
    }

    /// Rows that the commit which gave the file to its table put into it.
    fn rewritten(&self, file: RelationLocator) -> u64 {
        if !self.book.is_rewritten_file(file) {
            return 0;
        }
        let mut filled = self.whole.moments.iter().filter_map(|moment| match &moment.kind {
            MomentKind::SchemaChange(change) => Some(change.filled.rows(file)),
            _ => None,
        });
        filled.find(|rows| *rows > 0).unwrap_or(0)
    }

    pub fn sequences(&self) -> Vec<SequenceImpact> {
        let mut found = Vec::new();
        for (file, state) in &self.whole.sequences {
            let relation = match subject_of(self.book, *file) {
                Subject::Relation(relation) => NamedRelation::of(self.book, relation, self.range),
                Subject::File(file) => Some(NamedRelation::of_file(self.book, file, self.range)),
                Subject::Nothing => None,
            };
            found.extend(relation.map(|relation| SequenceImpact { relation, state: *state }));
        }
        found.sort_by_key(|sequence| (sequence.relation.database_name.clone(), sequence.relation.name.clone()));
        found
    }
}

pub(super) const fn is_table(kind: RelationKind) -> bool {
    matches!(kind, RelationKind::Table | RelationKind::PartitionedTable | RelationKind::MaterializedView)
}
