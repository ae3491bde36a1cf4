//! Changes of the schema, commit by commit.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::book::{ActionKind, CatalogBook, RelationAction, RelationId, RelationName};
use super::names::NamedRelation;
use crate::postgres::relation::Oid;
use crate::postgres::system_catalog::RelationKind;
use crate::postgres::{Lsn, TransactionId};
use crate::repository::catalog::LsnRange;
use crate::wal_summary::{Moment, MomentKind, SchemaChange};

/// Catalogs that say what relations are made of: written with every temporary table too.
const OF_RELATIONS: [Oid; 13] = [1247, 1249, 1259, 2604, 2606, 2608, 2610, 2611, 2224, 1214, 3350, 6106, 826];

/// Catalogs of other objects, with what people call these.
const OF_OTHERS: [(Oid, &str); 20] = [
    (1255, "functions"),
    (1262, "databases"),
    (1213, "tablespaces"),
    (1260, "roles"),
    (1261, "roles"),
    (2615, "schemas"),
    (2620, "triggers"),
    (2618, "rules or views"),
    (3256, "row security policies"),
    (3079, "extensions"),
    (3501, "enums"),
    (2617, "operators"),
    (3466, "event triggers"),
    (6104, "publications"),
    (6100, "subscriptions"),
    (2328, "foreign data wrappers"),
    (1417, "foreign servers"),
    (2964, "settings of roles or databases"),
    (3381, "extended statistics"),
    (1247, "types"),
];

/// A commit that changed the schema, or the databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DdlCommit {
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    /// None where the WAL does not say.
    pub xid: Option<TransactionId>,
    pub time: Option<DateTime<Utc>>,
    pub database: Option<Oid>,
    pub database_name: Option<String>,
    pub actions: Vec<DdlAction>,
    /// Kinds of other objects that were changed, in words.
    pub others: Vec<&'static str>,
}

/// What a commit did to a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DdlAction {
    pub action: ActionKind,
    pub relation: Option<RelationId>,
    pub kind: Option<RelationKind>,
    /// As it was called before the commit; a new one afterwards.
    pub name: Option<RelationName>,
    pub renamed_to: Option<RelationName>,
}

/// The commits among `moments` that start in `range`.
pub(super) fn ddl(
    book: &CatalogBook,
    range: LsnRange,
    moments: &[Moment],
    actions: &BTreeMap<Lsn, Vec<RelationAction>>,
) -> Vec<DdlCommit> {
    let within = moments.iter().filter(|moment| range.from <= moment.lsn && moment.lsn < range.to);
    within.filter_map(|moment| of_moment(book, moment, actions)).collect()
}

fn of_moment(book: &CatalogBook, moment: &Moment, actions: &BTreeMap<Lsn, Vec<RelationAction>>) -> Option<DdlCommit> {
    let nothing = DdlCommit {
        lsn: moment.lsn,
        end_lsn: moment.end_lsn,
        xid: None,
        time: None,
        database: None,
        database_name: None,
        actions: Vec::new(),
        others: Vec::new(),
    };
    let database = |oid: Oid, word| {
        let name = book.database_name(oid, Lsn::MAX).or_else(|| book.database_name(oid, moment.lsn));
        let (database, database_name) = (Some(oid), name.map(str::to_owned));
        Some(DdlCommit { database, database_name, others: vec![word], ..nothing.clone() })
    };
    match &moment.kind {
        MomentKind::SchemaChange(change) => of_change(book, nothing, change, actions.get(&moment.lsn)),
        MomentKind::CreateDatabase { database: oid, .. } => database(*oid, "database created or moved"),
        MomentKind::DropDatabase { database: oid, .. } => database(*oid, "database dropped"),
        _ => None,
    }
}

fn of_change(
    book: &CatalogBook,
    nothing: DdlCommit,
    change: &SchemaChange,
    actions: Option<&Vec<RelationAction>>,
) -> Option<DdlCommit> {
    let around = LsnRange { from: nothing.lsn, to: nothing.lsn.advance(1) };
    let named = |relation: RelationId| NamedRelation::of(book, relation, around);
    let mut told: Vec<DdlAction> = Vec::new();
    for action in actions.into_iter().flatten() {
        if let Some(relation) = named(action.relation) {
            told.push(DdlAction {
                action: action.action,
                relation: Some(action.relation),
                kind: Some(action.kind),
                name: relation.name,
                renamed_to: relation.renamed_to,
            });
        }
    }
    if told.is_empty() {
        for oid in change.tables.iter() {
            let relation = RelationId { database: change.database, oid };
            let Some(known) = named(relation) else { continue };
            if matches!(known.kind, RelationKind::Index | RelationKind::Sequence) {
                continue;
            }
            told.push(DdlAction {
                action: ActionKind::Altered,
                relation: Some(relation),
                kind: Some(known.kind),
                name: known.name,
                renamed_to: None,
            });
        }
    }
    let others: Vec<&'static str> = others(change, told.is_empty());
    let lost = book.is_lost_before(change.database, around.to);
    if told.is_empty() && others.is_empty() && !lost {
        return None;
    }
    let database = Some(change.database).filter(|oid| *oid != 0);
    Some(DdlCommit {
        xid: Some(change.xid),
        time: Some(change.time),
        database,
        database_name: database.and_then(|oid| book.database_name(oid, around.to)).map(str::to_owned),
        actions: told,
        others,
        ..nothing
    })
}

/// Types come with every table; they count where nothing else does.
fn others(change: &SchemaChange, alone: bool) -> Vec<&'static str> {
    let relations_only = change.traces.catalogs.iter().all(|catalog| OF_RELATIONS.contains(catalog));
    // A temporary table writes these and leaves nothing else to tell.
    let temporary = alone && relations_only && change.traces.catalogs.contains(&1259);
    let mut words: Vec<&'static str> = OF_OTHERS
        .iter()
        .filter(|(oid, _)| change.traces.catalogs.contains(oid) && (*oid != 1247 || (alone && !temporary)))
        .map(|(_, word)| *word)
        .collect();
    words.dedup();
    if words.is_empty() && alone && !temporary && !change.traces.catalogs.is_empty() {
        words.push("other objects");
    }
    words
}
