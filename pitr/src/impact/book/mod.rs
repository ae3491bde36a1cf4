//! What every relation was called at every moment: a copy of the catalogs, and what WAL summaries say of their rows since.
//!
//! Rows are followed by their place, because an update in the WAL may tell only what differs from the row before. Whoever
//! changed them counts once it committed. What cannot be read makes a name unknown, never wrong.

mod commit;
mod history;
mod rows;

use std::collections::{HashMap, HashSet};

use crate::postgres::relation::{Oid, RelationLocator};
use crate::postgres::system_catalog::{ClassRow, NamingCatalog, Persistence, RelationKind, database_tablespace, named};
use crate::postgres::wal::heap_row::RowPlace;
use crate::postgres::{Lsn, MajorVersion, TransactionId};
use crate::wal_summary::transactions::precedes;
use crate::wal_summary::{CatalogChange, CatalogChangeKind, RowBytes};

pub use commit::{ActionKind, CatalogCommit, RelationAction};
use history::{History, Version};
use rows::{Place, Rows};

/// A relation of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId {
    pub database: Oid,
    pub oid: Oid,
}

/// How a relation is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelationName {
    pub schema: String,
    pub name: String,
}

/// What a transaction does to the catalogs if it commits.
#[derive(Clone, Debug)]
struct Effect {
    lsn: Lsn,
    database: Oid,
    catalog: NamingCatalog,
    oid: Oid,
    version: Version<RowBytes>,
}

#[derive(Clone, Debug, Default)]
struct DatabaseBook {
    tablespace: Oid,
    /// From here on its catalogs were changed where nobody looked.
    lost_from: Option<Lsn>,
    relations: HashMap<Oid, History<ClassRow>>,
    schemas: HashMap<Oid, History<String>>,
    /// Relations that a file was said to be of, in that order.
    files: HashMap<(Oid, Oid), Vec<Oid>>,
    /// Relations that came and went within a transaction, as a table that is rewritten makes one.
    transient: HashSet<Oid>,
    truncations: HashMap<Oid, Vec<Lsn>>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct CatalogBook {
    major: MajorVersion,
    keep_from: Lsn,
    rows: Rows,
    pending: HashMap<TransactionId, Vec<Effect>>,
    database_names: HashMap<Oid, History<String>>,
    databases: HashMap<Oid, DatabaseBook>,
    names_lost_from: Option<Lsn>,
}

/// Whether what made or removed a row of the copy had committed when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Committed,
    Never,
    /// It was under way.
    Pending(TransactionId),
}

impl CatalogBook {
    /// Of what was before `keep_from` only the last version will be asked for.
    #[must_use]
    pub fn new(major: MajorVersion, keep_from: Lsn) -> Self {
        Self {
            major,
            keep_from,
            rows: Rows::default(),
            pending: HashMap::new(),
            database_names: HashMap::new(),
            databases: HashMap::new(),
            names_lost_from: None,
        }
    }

    /// A database of the copy.
    pub fn begin_database(&mut self, database: Oid, tablespace: Oid) {
        self.databases.entry(database).or_default().tablespace = tablespace;
    }

    /// Whether anything is known of a database.
    #[must_use]
    pub fn knows_database(&self, database: Oid) -> bool {
        self.databases.contains_key(&database)
    }

    /// A catalog of the copy stands in another file than summaries speak of.
    pub fn lose(&mut self, database: Oid, from: Lsn) {
        let lost = match database {
            0 => &mut self.names_lost_from,
            _ => &mut self.databases.entry(database).or_default().lost_from,
        };
        *lost = Some(lost.map_or(from, |earlier| earlier.min(from)));
    }

    /// A row of the copy.
    pub fn base_row(
        &mut self,
        database: Oid,
        catalog: NamingCatalog,
        place: RowPlace,
        data: &[u8],
        inserted: Fate,
        deleted: Fate,
    ) {
        if inserted == Fate::Never || deleted == Fate::Committed {
            return;
        }
        let Some((oid, _)) = named(data) else { return };
        let row = RowBytes::of(data);
        self.rows.set(Place { database, catalog, place }, row.clone());
        let is = Effect { lsn: Lsn::INVALID, database, catalog, oid, version: Version::Is(row) };
        if let Fate::Pending(xid) = deleted {
            let gone = Effect { version: Version::Gone, ..is.clone() };
            self.pending.entry(xid).or_default().insert(0, gone);
        }
        match inserted {
            Fate::Pending(xid) => self.pending.entry(xid).or_default().push(is),
            _ => {
                self.apply(&is, Lsn::INVALID);
            }
        }
    }

    /// A change from the WAL, in order.
    pub fn change(&mut self, change: &CatalogChange) {
        let (database, lsn) = (change.database, change.lsn);
        match &change.kind {
            CatalogChangeKind::Insert { catalog, xid, place, row } => {
                self.locate(change, *catalog);
                self.rows.set(Place { database, catalog: *catalog, place: *place }, row.clone());
                if let Some((oid, _)) = named(&row.bytes) {
                    let version = Version::Is(row.clone());
                    self.hold(*xid, Effect { lsn, database, catalog: *catalog, oid, version });
                }
            }
            CatalogChangeKind::Update { catalog, xid, old, new, prefix, suffix, row } => {
                let place = |place| Place { database, catalog: *catalog, place };
                let old_row = self.rows.get(place(*old)).cloned();
                let new_row = match (&old_row, *prefix, *suffix) {
                    (_, 0, 0) => Some(row.clone()).filter(|row| row.length > 0),
                    (Some(old), prefix, suffix) => rows::splice(old, prefix, suffix, row),
                    (None, _, _) => None,
                };
                let oid = old_row.as_ref().or(new_row.as_ref()).and_then(|row| named(&row.bytes)).map(|(oid, _)| oid);
                self.rows.set(place(*new), new_row.clone().unwrap_or_default());
                if let Some(oid) = oid {
                    let version = new_row.map_or(Version::Unknown, Version::Is);
                    self.hold(*xid, Effect { lsn, database, catalog: *catalog, oid, version });
                }
            }
            CatalogChangeKind::Delete { catalog, xid, place } => {
                let row = self.rows.get(Place { database, catalog: *catalog, place: *place });
                if let Some((oid, _)) = row.and_then(|row| named(&row.bytes)) {
                    let version = Version::Gone;
                    self.hold(*xid, Effect { lsn, database, catalog: *catalog, oid, version });
                }
            }
            CatalogChangeKind::Copied { catalog, place, row } => {
                self.locate(change, *catalog);
                self.rows.set(Place { database, catalog: *catalog, place: *place }, row.clone());
                if let Some((oid, _)) = named(&row.bytes) {
                    let version = Version::Is(row.clone());
                    self.apply(&Effect { lsn, database, catalog: *catalog, oid, version }, lsn);
                }
            }
            CatalogChangeKind::Mapped { file } => {
                let usual = if database == 0 { NamingCatalog::Database } else { NamingCatalog::Class };
                if *file != usual.oid() {
                    self.lose(database, lsn);
                }
            }
            CatalogChangeKind::CopiedFiles { database: source } => self.copy_database(*source, change),
        }
    }

    /// `pg_class` is in the default tablespace of its database.
    fn locate(&mut self, change: &CatalogChange, catalog: NamingCatalog) {
        if catalog == NamingCatalog::Class {
            self.databases.entry(change.database).or_default().tablespace = change.tablespace;
        }
    }

    fn hold(&mut self, xid: TransactionId, effect: Effect) {
        self.pending.entry(xid).or_default().push(effect);
    }

    /// The new database has what the other one had.
    fn copy_database(&mut self, source: Oid, change: &CatalogChange) {
        let Some(known) = self.databases.get(&source) else { return };
        let copy = DatabaseBook {
            tablespace: change.tablespace,
            files: known
                .files
                .iter()
                .map(|((tablespace, file), owners)| {
                    let moved = if *tablespace == known.tablespace { change.tablespace } else { *tablespace };
                    ((moved, *file), owners.clone())
                })
                .collect(),
            truncations: HashMap::new(),
            ..known.clone()
        };
        self.databases.insert(change.database, copy);
        self.rows.copy_database(source, change.database);
    }

    /// What transactions before `oldest` did and did not commit, they never will.
    pub fn forget_before(&mut self, oldest: TransactionId) {
        self.pending.retain(|xid, _| !precedes(*xid, oldest));
    }

    /// Takes over what became true at `lsn`.
    fn apply(&mut self, effect: &Effect, lsn: Lsn) {
        let (keep_from, oid) = (self.keep_from, effect.oid);
        match effect.catalog {
            NamingCatalog::Database => {
                self.database_names.entry(oid).or_default().push(lsn, name_of(&effect.version), keep_from);
            }
            NamingCatalog::Namespace => {
                let book = self.databases.entry(effect.database).or_default();
                book.schemas.entry(oid).or_default().push(lsn, name_of(&effect.version), keep_from);
            }
            NamingCatalog::Class => {
                let row = match &effect.version {
                    Version::Is(row) => ClassRow::parse(&row.bytes, self.major).map_or(Version::Unknown, Version::Is),
                    Version::Gone => Version::Gone,
                    Version::Unknown => Version::Unknown,
                };
                let book = self.databases.entry(effect.database).or_default();
                let moved = |row: &&ClassRow| row.oid == NamingCatalog::Namespace.oid() && row.relfilenode != row.oid;
                if lsn.is_valid() && row.known().as_ref().is_some_and(moved) {
                    book.lost_from.get_or_insert(lsn);
                }
                if let Some(row) = row.known().filter(|row| row.relfilenode != 0) {
                    let tablespace = if row.tablespace == 0 { book.tablespace } else { row.tablespace };
                    let owners = book.files.entry((tablespace, row.relfilenode)).or_default();
                    if !owners.contains(&oid) {
                        owners.push(oid);
                    }
                }
                book.relations.entry(oid).or_default().push(lsn, row, keep_from);
            }
        }
    }

    fn book(&self, database: Oid) -> Option<&DatabaseBook> {
        self.databases.get(&database)
    }

    /// The relation whose file this is, or was. None where that is not known.
    #[must_use]
    pub fn relation_of(&self, file: RelationLocator) -> Option<RelationId> {
        let book = self.book(file.database)?;
        let owners = book.files.get(&(file.tablespace, file.relfilenode))?;
        let oid = owners.iter().find(|oid| !book.transient.contains(oid)).or_else(|| owners.first())?;
        Some(RelationId { database: file.database, oid: *oid })
    }

    /// The file was first that of a relation which came and went in one transaction: its first rows were there before.
    #[must_use]
    pub fn is_rewritten_file(&self, file: RelationLocator) -> bool {
        self.book(file.database).is_some_and(|book| {
            let owners = book.files.get(&(file.tablespace, file.relfilenode));
            owners.and_then(|owners| owners.first()).is_some_and(|first| book.transient.contains(first))
        })
    }

    /// What `pg_class` said of a relation just before `lsn`; where it was gone by then, or not yet there, none.
    #[must_use]
    pub fn class_before(&self, relation: RelationId, lsn: Lsn) -> Option<&ClassRow> {
        self.known_book(relation.database, lsn)?.relations.get(&relation.oid)?.before(lsn)?.known()
    }

    /// What `pg_class` said of a relation last before `lsn`, though it may be gone.
    #[must_use]
    pub fn last_class_before(&self, relation: RelationId, lsn: Lsn) -> Option<&ClassRow> {
        let book = self.book(relation.database)?;
        let seen = book.lost_from.map_or(lsn, |lost| lost.min(lsn));
        book.relations.get(&relation.oid)?.last_known_before(seen)
    }

    /// Something that nobody saw changed the catalogs of the database before `lsn`.
    #[must_use]
    pub fn is_lost_before(&self, database: Oid, lsn: Lsn) -> bool {
        self.book(database).is_none_or(|book| book.lost_from.is_some_and(|lost| lost < lsn))
    }

    /// Names after what nobody saw are none.
    fn known_book(&self, database: Oid, lsn: Lsn) -> Option<&DatabaseBook> {
        self.book(database).filter(|book| book.lost_from.is_none_or(|lost| lsn <= lost))
    }

    /// The name by a row of `pg_class`, as schemas were called just before `lsn`.
    #[must_use]
    pub fn name(&self, database: Oid, row: &ClassRow, lsn: Lsn) -> Option<RelationName> {
        let schema = self.book(database)?.schemas.get(&row.namespace)?.last_known_before(lsn)?.clone();
        Some(RelationName { schema, name: row.name.clone() })
    }

    /// How a database was called just before `lsn`, or last before that.
    #[must_use]
    pub fn database_name(&self, database: Oid, lsn: Lsn) -> Option<&str> {
        let known = self.names_lost_from.is_none_or(|lost| lsn <= lost);
        self.database_names.get(&database).filter(|_| known)?.last_known_before(lsn).map(String::as_str)
    }

    /// The database and where its catalogs are, for each that the shared catalog of the copy names.
    pub fn database_tablespaces(&self) -> impl Iterator<Item = (Oid, Oid)> + '_ {
        self.rows.of(0, NamingCatalog::Database).filter_map(|row| {
            let (oid, _) = named(&row.bytes)?;
            Some((oid, database_tablespace(&row.bytes, self.major)?))
        })
    }

    /// How often a relation was truncated from `from` on and before `to`, as its row in `pg_class` tells.
    #[must_use]
    pub fn truncations(&self, relation: RelationId, from: Lsn, to: Lsn) -> u64 {
        let known = self.book(relation.database).and_then(|book| book.truncations.get(&relation.oid));
        known.map_or(0, |at| at.iter().filter(|lsn| (from..to).contains(*lsn)).count() as u64)
    }

    /// Relations with truncations, for those that nothing else speaks of.
    pub fn truncated_relations(&self) -> impl Iterator<Item = RelationId> + '_ {
        self.databases.iter().flat_map(|(database, book)| {
            book.truncations.keys().map(|oid| RelationId { database: *database, oid: *oid })
        })
    }
}

fn name_of(version: &Version<RowBytes>) -> Version<String> {
    match version {
        Version::Is(row) => named(&row.bytes).map_or(Version::Unknown, |(_, name)| Version::Is(name)),
        Version::Gone => Version::Gone,
        Version::Unknown => Version::Unknown,
    }
}

/// Whether people speak of such relations.
const fn is_told(row: &ClassRow) -> bool {
    !matches!(row.persistence, Persistence::Temporary)
        && !matches!(row.kind, RelationKind::Toast | RelationKind::CompositeType | RelationKind::Other)
}

#[cfg(test)]
mod tests;
