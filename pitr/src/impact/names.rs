//! Relations with the names that they had.

use super::LARGE_OBJECTS;
use super::book::{CatalogBook, RelationId, RelationName};
use crate::postgres::Lsn;
use crate::postgres::relation::{Oid, RelationLocator};
use crate::postgres::system_catalog::{FIRST_NORMAL_OID, Persistence, RelationKind};
use crate::repository::catalog::LsnRange;

/// A relation as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRelation {
    /// None where it is not known what the file is.
    pub relation: Option<RelationId>,
    pub database: Oid,
    pub database_name: Option<String>,
    /// As it was called at the beginning of the range; where it did not exist then, what it was called last.
    pub name: Option<RelationName>,
    /// What it was called at the end of the range, where that is something else.
    pub renamed_to: Option<RelationName>,
    /// The file, where no relation is known.
    pub file: Option<RelationLocator>,
    pub kind: RelationKind,
    pub persistence: Persistence,
    /// It was there at the beginning, and at the end; none where that is not known.
    pub existed: Option<bool>,
    pub exists: Option<bool>,
}

/// What a file is to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Subject {
    Relation(RelationId),
    File(RelationLocator),
    /// Nothing that users put rows into.
    Nothing,
}

pub(super) fn subject_of(book: &CatalogBook, file: RelationLocator) -> Subject {
    let system = |oid: Oid| oid < FIRST_NORMAL_OID && !LARGE_OBJECTS.contains(&oid);
    match book.relation_of(file) {
        Some(relation) if system(relation.oid) => Subject::Nothing,
        Some(relation) => Subject::Relation(relation),
        None if LARGE_OBJECTS.contains(&file.relfilenode) => {
            Subject::Relation(RelationId { database: file.database, oid: file.relfilenode })
        }
        None if file.relfilenode < FIRST_NORMAL_OID => Subject::Nothing,
        None => Subject::File(file),
    }
}

impl NamedRelation {
    pub(super) fn of_file(book: &CatalogBook, file: RelationLocator, range: LsnRange) -> Self {
        Self {
            relation: None,
            database: file.database,
            database_name: book.database_name(file.database, range.to).map(str::to_owned),
            name: None,
            renamed_to: None,
            file: Some(file),
            kind: RelationKind::Other,
            persistence: Persistence::Permanent,
            existed: None,
            exists: None,
        }
    }

    /// None for a relation that nobody speaks of, as a TOAST table.
    pub(super) fn of(book: &CatalogBook, relation: RelationId, range: LsnRange) -> Option<Self> {
        let database_name = |lsn| book.database_name(relation.database, lsn).map(str::to_owned);
        let database_name = database_name(range.from).or_else(|| database_name(range.to));
        let before = book.class_before(relation, range.from);
        let after = book.class_before(relation, range.to);
        let row = before.or_else(|| book.last_class_before(relation, range.to));
        let Some(row) = row else {
            let large = LARGE_OBJECTS.contains(&relation.oid);
            let name = if relation.oid == LARGE_OBJECTS[0] { "pg_largeobject" } else { "pg_largeobject_metadata" };
            let name = RelationName { schema: "pg_catalog".to_owned(), name: name.to_owned() };
            return large.then_some(Self {
                relation: Some(relation),
                database: relation.database,
                database_name,
                name: Some(name),
                renamed_to: None,
                file: None,
                kind: RelationKind::Table,
                persistence: Persistence::Permanent,
                existed: Some(true),
                exists: Some(true),
            });
        };
        let told = row.persistence != Persistence::Temporary
            && !matches!(row.kind, RelationKind::Toast | RelationKind::CompositeType | RelationKind::Other);
        let at = |existed: bool, lsn: Lsn| if existed { lsn } else { range.to };
        let name = book.name(relation.database, row, at(before.is_some(), range.from));
        let name = if LARGE_OBJECTS.contains(&relation.oid) {
            Some(RelationName { schema: "pg_catalog".to_owned(), name: row.name.clone() })
        } else {
            name
        };
        let now = after.and_then(|row| book.name(relation.database, row, range.to));
        let lost = book.is_lost_before(relation.database, range.to);
        told.then(|| Self {
            relation: Some(relation),
            database: relation.database,
            database_name,
            renamed_to: now.filter(|now| before.is_some() && name.as_ref() != Some(now)),
            name,
            file: None,
            kind: row.kind,
            persistence: row.persistence,
            existed: Some(before.is_some()),
            exists: (!lost).then_some(after.is_some()),
        })
    }
}
