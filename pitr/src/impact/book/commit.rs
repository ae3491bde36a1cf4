//! What a commit did to relations.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::Version;
use super::{CatalogBook, Effect, RelationId, is_told};
use crate::postgres::system_catalog::{ClassRow, FIRST_NORMAL_OID, NamingCatalog, RelationKind};
use crate::postgres::{Lsn, TransactionId};

/// The end of a transaction that may have changed catalogs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogCommit {
    pub lsn: Lsn,
    /// With its subtransactions.
    pub xids: Vec<TransactionId>,
}

/// What became of one relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationAction {
    pub relation: RelationId,
    pub kind: RelationKind,
    pub action: ActionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    Created,
    Dropped,
    /// It has another name, or is in another schema.
    Renamed,
    Truncated,
    /// All its rows were written anew, as some kinds of `ALTER TABLE` do, or moved to another tablespace.
    Rewritten,
    Altered,
}

impl CatalogBook {
    /// Makes true what these transactions did, and tells what that was.
    pub fn commit(&mut self, commit: &CatalogCommit) -> Vec<RelationAction> {
        let mut effects: Vec<Effect> =
            commit.xids.iter().filter_map(|xid| self.pending.remove(xid)).flatten().collect();
        effects.sort_by_key(|effect| effect.lsn);
        let mut relations: BTreeMap<RelationId, Vec<Effect>> = BTreeMap::new();
        for effect in effects {
            if effect.catalog == NamingCatalog::Class {
                let relation = RelationId { database: effect.database, oid: effect.oid };
                relations.entry(relation).or_default().push(effect);
            } else {
                self.apply(&effect, commit.lsn);
            }
        }
        // Those that come and go are known before the files that they hand over.
        let (transient, lasting): (Vec<_>, Vec<_>) =
            relations.into_iter().partition(|(relation, effects)| self.comes_and_goes(*relation, effects));
        for (relation, effects) in transient {
            let book = self.databases.entry(relation.database).or_default();
            book.transient.insert(relation.oid);
            effects.iter().for_each(|effect| self.apply(effect, commit.lsn));
        }
        let mut actions = Vec::new();
        for (relation, effects) in lasting {
            actions.extend(self.commit_relation(relation, &effects, commit.lsn));
        }
        actions
    }

    fn last_class(&self, relation: RelationId) -> Option<ClassRow> {
        self.book(relation.database)?.relations.get(&relation.oid)?.last()?.known().cloned()
    }

    fn comes_and_goes(&self, relation: RelationId, effects: &[Effect]) -> bool {
        let known = self.book(relation.database).and_then(|book| book.relations.get(&relation.oid)).is_some();
        !known && effects.last().is_some_and(|effect| matches!(effect.version, Version::Gone))
    }

    fn commit_relation(&mut self, relation: RelationId, effects: &[Effect], lsn: Lsn) -> Option<RelationAction> {
        let before = self.last_class(relation);
        let (mut previous, mut truncated, mut rewritten) = (before.clone(), false, false);
        for effect in effects {
            let row = match &effect.version {
                Version::Is(row) => ClassRow::parse(&row.bytes, self.major),
                Version::Gone | Version::Unknown => None,
            };
            if let (Some(previous), Some(row)) = (&previous, &row)
                && previous.relfilenode != row.relfilenode
                && previous.relfilenode != 0
                && row.relfilenode != 0
            {
                if self.is_handed_over(relation, row) || previous.tablespace != row.tablespace {
                    rewritten = true;
                } else if before.is_some() && matches!(row.kind, RelationKind::Table | RelationKind::MaterializedView) {
                    truncated = true;
                    let book = self.databases.entry(relation.database).or_default();
                    book.truncations.entry(relation.oid).or_default().push(lsn);
                }
            }
            self.apply(effect, lsn);
            previous = row;
        }
        self.let_go(relation, before.as_ref(), lsn);
        let after = effects.last().map(|effect| &effect.version)?;
        let told = previous.as_ref().or(before.as_ref()).filter(|row| is_told(row))?;
        let kind = told.kind;
        let action = match (&before, after) {
            (None, Version::Is(_)) => ActionKind::Created,
            (_, Version::Gone) => ActionKind::Dropped,
            _ if truncated => ActionKind::Truncated,
            (Some(before), Version::Is(_)) if (&before.name, before.namespace) != (&told.name, told.namespace) => {
                ActionKind::Renamed
            }
            // What is told of indexes is that they come and go.
            _ if kind == RelationKind::Index => return None,
            _ if rewritten => ActionKind::Rewritten,
            _ => ActionKind::Altered,
        };
        (relation.oid >= FIRST_NORMAL_OID).then_some(RelationAction { relation, kind, action })
    }

    /// The file was that of another relation before.
    fn is_handed_over(&self, relation: RelationId, row: &ClassRow) -> bool {
        self.book(relation.database).is_some_and(|book| {
            let tablespace = if row.tablespace == 0 { book.tablespace } else { row.tablespace };
            let owners = book.files.get(&(tablespace, row.relfilenode));
            owners.is_some_and(|owners| owners.iter().any(|owner| *owner != relation.oid))
        })
    }

    /// Of a relation that was dropped before anybody asks, nothing is kept.
    fn let_go(&mut self, relation: RelationId, before: Option<&ClassRow>, lsn: Lsn) {
        let early = lsn < self.keep_from;
        let Some(book) = self.databases.get_mut(&relation.database) else { return };
        let gone =
            book.relations.get(&relation.oid).is_some_and(|history| matches!(history.last(), Some(Version::Gone)));
        if !(early && gone) {
            return;
        }
        book.relations.remove(&relation.oid);
        book.truncations.remove(&relation.oid);
        if let Some(row) = before {
            let tablespace = if row.tablespace == 0 { book.tablespace } else { row.tablespace };
            book.files.remove(&(tablespace, row.relfilenode));
        }
    }
}
