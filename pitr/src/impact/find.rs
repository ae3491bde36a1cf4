//! Moments of a mistake: a table dropped or truncated, many rows deleted at once, the schema changed.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use super::book::{ActionKind, CatalogBook};
use super::ddl::{DdlAction, DdlCommit, ddl};
use super::names::{NamedRelation, Subject, subject_of};
use super::stretch::{CatalogPart, Reader, Whole, light};
use super::survey::{Before, Names, Survey, databases, only_open};
use super::{ImpactError, RelationName};
use crate::lookup::{PathSummaries, Witness};
use crate::postgres::relation::{Fork, RelationLocator};
use crate::postgres::wal::{HeapChange, Outcome, Record, ResourceManager};
use crate::postgres::{Lsn, MajorVersion, TransactionId};
use crate::repository::catalog::LsnRange;
use crate::wal_summary::{WalSummary, compose};

/// What is looked for; at least one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Find {
    /// Relations that were dropped, by a pattern of their name.
    pub dropped: Option<String>,
    pub truncated: Option<String>,
    /// So many rows, deleted from one table by one transaction.
    pub mass_delete: Option<u64>,
    /// Every change of the schema.
    pub ddl: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKind {
    Dropped,
    Truncated,
    MassDelete { rows: u64 },
    Ddl,
}

/// A moment that was looked for: the commit before which one would go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: FoundKind,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub xid: Option<TransactionId>,
    pub time: Option<DateTime<Utc>>,
    pub database_name: Option<String>,
    /// What it is about; of a change of the schema, all of it.
    pub actions: Vec<DdlAction>,
    pub others: Vec<&'static str>,
    /// Of a mass deletion, the table.
    pub relation: Option<NamedRelation>,
}

/// What was found, by position.
///
/// # Errors
/// The repository fails, or WAL or the backup cannot be read.
pub async fn find(survey: &Survey<'_>, wanted: &Find) -> Result<Vec<Found>, ImpactError> {
    let major = survey.backup.postgres_version.major().ok_or(ImpactError::Version)?;
    if survey.range.from >= survey.range.to {
        return Ok(Vec::new());
    }
    let summaries = PathSummaries::list(survey.lineage, survey.catalog, survey.path, survey.backup.start_lsn).await?;
    let reader = Reader { summaries: &summaries, major, limit: survey.range.to, observe: survey.observe };
    let (mut whole, mut catalogs) = (Whole::default(), Vec::new());
    let mut parts = std::pin::pin!(reader.parts(survey.range));
    while let Some(part) = parts.try_next().await? {
        let mut summary = part.summary;
        catalogs.push(CatalogPart::of(&mut summary));
        whole.push(summary)?;
    }
    let Some(range) = whole.finish()? else { return Ok(Vec::new()) };
    let before = Before::look(survey, &reader, &range, false).await?;
    let both = match &before.open {
        Some(open) => compose(&[open.clone(), range])?,
        None => range,
    };
    let names = Names { survey, reader: &reader, major, databases: databases(&both, &catalogs) };
    let (book, actions) = names.follow(catalogs).await?;
    let mut found = Vec::new();
    for commit in ddl(&book, survey.range, &both.moments, &actions) {
        found.extend(by_ddl(wanted, commit));
    }
    if let Some(rows) = wanted.mass_delete {
        let deletions = deletions(survey, &reader, before.open, &both, rows).await?;
        found.extend(deletions.into_iter().filter_map(|deletion| named(&book, survey.range, deletion)));
    }
    found.sort_by_key(|found| found.lsn);
    Ok(found)
}

fn by_ddl(wanted: &Find, commit: DdlCommit) -> Vec<Found> {
    let found = |kind, actions: Vec<DdlAction>, others| Found {
        kind,
        lsn: commit.lsn,
        end_lsn: commit.end_lsn,
        xid: commit.xid,
        time: commit.time,
        database_name: commit.database_name.clone(),
        actions,
        others,
        relation: None,
    };
    let of = |action: ActionKind, pattern: &Option<String>| -> Vec<DdlAction> {
        let Some(pattern) = pattern else { return Vec::new() };
        let fits = |known: &&DdlAction| {
            known.action == action && known.name.as_ref().is_none_or(|name| matches(pattern, name))
        };
        commit.actions.iter().filter(fits).cloned().collect()
    };
    let (dropped, truncated) = (of(ActionKind::Dropped, &wanted.dropped), of(ActionKind::Truncated, &wanted.truncated));
    let mut all = Vec::new();
    if !dropped.is_empty() {
        all.push(found(FoundKind::Dropped, dropped, Vec::new()));
    }
    if !truncated.is_empty() {
        all.push(found(FoundKind::Truncated, truncated, Vec::new()));
    }
    if wanted.ddl {
        all.push(found(FoundKind::Ddl, commit.actions.clone(), commit.others.clone()));
    }
    all
}

/// A name, or schema and name, where `*` stands for anything.
fn matches(pattern: &str, name: &RelationName) -> bool {
    let whole = format!("{}.{}", name.schema, name.name);
    glob(pattern, &name.name) || glob(pattern, &whole)
}

fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, behind)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| rest.get(at..).is_some_and(|rest| glob(behind, rest)))
}

/// A transaction that deleted many rows from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Deletion {
    lsn: Lsn,
    end_lsn: Lsn,
    xid: TransactionId,
    time: DateTime<Utc>,
    file: RelationLocator,
    rows: u64,
}

fn named(book: &CatalogBook, range: LsnRange, deletion: Deletion) -> Option<Found> {
    let at = LsnRange { from: deletion.lsn, to: range.to };
    let relation = match subject_of(book, deletion.file) {
        Subject::Relation(relation) => NamedRelation::of(book, relation, at)?,
        Subject::File(file) => NamedRelation::of_file(book, file, at),
        Subject::Nothing => return None,
    };
    Some(Found {
        kind: FoundKind::MassDelete { rows: deletion.rows },
        lsn: deletion.lsn,
        end_lsn: deletion.end_lsn,
        xid: Some(deletion.xid),
        time: Some(deletion.time),
        database_name: relation.database_name.clone(),
        actions: Vec::new(),
        others: Vec::new(),
        relation: Some(relation),
    })
}

fn has_many(summary: &WalSummary, rows: u64) -> bool {
    summary.rows.values().any(|changes| changes.deleted - changes.moved.min(changes.deleted) >= rows)
}

/// Only parts in which as many rows of one file were deleted are decoded, to tell transactions apart.
async fn deletions(
    survey: &Survey<'_>,
    reader: &Reader<'_>,
    open: Option<WalSummary>,
    whole: &WalSummary,
    rows: u64,
) -> Result<Vec<Deletion>, ImpactError> {
    if !has_many(whole, rows) {
        return Ok(Vec::new());
    }
    let (mut found, mut open) = (Vec::new(), open);
    for leg in reader.summaries.legs(survey.range) {
        let part = light(reader.part(leg).await?.summary);
        let both = match &open {
            Some(open) => compose(&[open.clone(), part])?,
            None => part,
        };
        if has_many(&both, rows) {
            let range = LsnRange { from: leg.from, to: leg.to };
            let witness = DeletionWitness::new(reader.major, rows, open.as_ref());
            let made = reader.summaries.make_witnessed(range, reader.limit, witness).await?;
            let (_, witness) = made.ok_or(ImpactError::Unreadable { from: leg.from, to: leg.to })?;
            found.extend(witness.found);
        }
        open = Some(only_open(both));
    }
    Ok(found)
}

type DeletedRows = HashMap<RelationLocator, u64>;

/// Counts deleted rows by transaction.
struct DeletionWitness {
    major: MajorVersion,
    least: u64,
    open: HashMap<TransactionId, DeletedRows>,
    found: Vec<Deletion>,
}

impl DeletionWitness {
    fn new(major: MajorVersion, least: u64, open: Option<&WalSummary>) -> Self {
        let known = open.into_iter().flat_map(|summary| &summary.transactions.open);
        let deleted = known.map(|(xid, open)| {
            let rows = open.rows.iter().map(|(file, rows)| (*file, rows.deleted.saturating_sub(rows.moved)));
            (*xid, rows.filter(|(_, deleted)| *deleted > 0).collect())
        });
        Self { major, least, open: deleted.collect(), found: Vec::new() }
    }

    fn delete(&mut self, record: &Record<'_>) -> Option<()> {
        let mut file = None;
        let data = record
            .visit_blocks(self.major, |tag| {
                if tag.fork == Fork::Main {
                    file.get_or_insert(tag.relation);
                }
            })
            .ok()?;
        if record.heap_change(data).ok()?? == HeapChange::Delete {
            *self.open.entry(record.xid()).or_default().entry(file?).or_default() += 1;
        }
        Some(())
    }
}

impl Witness for DeletionWitness {
    fn record(&mut self, record: &Record<'_>) {
        // What cannot be read ends the summary that is built beside.
        match record.resource_manager() {
            ResourceManager::HEAP if record.xid().is_normal() => {
                self.delete(record);
            }
            ResourceManager::TRANSACTION => {
                let Ok(Some(end)) = record.transaction_end(self.major) else { return };
                let mut rows = DeletedRows::new();
                for xid in std::iter::once(end.xid).chain(end.subtransactions.iter()) {
                    for (file, deleted) in self.open.remove(&xid).into_iter().flatten() {
                        *rows.entry(file).or_default() += deleted;
                    }
                }
                let many = rows.into_iter().filter(|(_, rows)| *rows >= self.least && end.outcome == Outcome::Commit);
                let (lsn, end_lsn) = (record.start_lsn(), record.end_lsn());
                let deletion = |(file, rows)| Deletion { lsn, end_lsn, xid: end.xid, time: end.time, file, rows };
                self.found.extend(many.map(deletion));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_tables_with_and_without_their_schema() {
        let name = RelationName { schema: "public".to_owned(), name: "orders_2026".to_owned() };
        for (pattern, fits) in [
            ("orders_2026", true),
            ("public.orders_2026", true),
            ("orders", false),
            ("orders*", true),
            ("*2026", true),
            ("public.*", true),
            ("*", true),
            ("shop.*", false),
            ("o*d*s*6", true),
            ("", false),
        ] {
            assert_eq!(matches(pattern, &name), fits, "{pattern:?}");
        }
    }
}
