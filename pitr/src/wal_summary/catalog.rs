//! Changes of the catalogs that name relations, row by row, in the order of the WAL and whoever made them: with a copy of
//! those catalogs from before and the ends of transactions they tell the name that every file had at every moment.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stored;
use crate::postgres::heap_page::{self, Hint};
use crate::postgres::relation::{Oid, RelationLocator};
use crate::postgres::system_catalog::{FIRST_NORMAL_OID, NamingCatalog, mapped_file, named};
use crate::postgres::wal::heap_row::{RowPlace, RowRecord};
use crate::postgres::wal::{Record, RecordError};
use crate::postgres::{Lsn, MajorVersion, TransactionId};

/// What is kept of a row: no column that is read stands behind this.
pub const MAX_ROW_BYTES: usize = 256;

/// Relations for which a change of the schema says how many rows it put in.
const MAX_FILLED: usize = 64;

/// A record that changed such a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogChange {
    #[serde(with = "stored::lsn")]
    pub lsn: Lsn,
    /// Zero for the shared catalog.
    pub database: Oid,
    /// Where the catalog is; for `pg_class` that is the default tablespace of the database.
    pub tablespace: Oid,
    pub kind: CatalogChangeKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogChangeKind {
    Insert {
        catalog: NamingCatalog,
        xid: TransactionId,
        place: RowPlace,
        row: RowBytes,
    },
    Update {
        catalog: NamingCatalog,
        xid: TransactionId,
        old: RowPlace,
        new: RowPlace,
        /// So many bytes at the beginning and at the end are those of the old row; `row` stands between them.
        prefix: u16,
        suffix: u16,
        row: RowBytes,
    },
    Delete {
        catalog: NamingCatalog,
        xid: TransactionId,
        place: RowPlace,
    },
    /// A row of a page that was written whole, as a database is copied or a catalog rewritten; it counts at once.
    Copied {
        catalog: NamingCatalog,
        place: RowPlace,
        row: RowBytes,
    },
    /// `pg_filenode.map` says where the mapped catalog of the database is: `pg_class`, or of the shared ones `pg_database`.
    Mapped {
        file: Oid,
    },
    /// The files of another database were copied without a word on what is in them.
    CopiedFiles {
        database: Oid,
    },
}

/// The beginning of a row, or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowBytes {
    /// Zero where the row could not be read.
    pub length: u32,
    /// At most [`MAX_ROW_BYTES`].
    pub bytes: Vec<u8>,
}

impl RowBytes {
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let kept = data.get(..MAX_ROW_BYTES).unwrap_or(data);
        Self { length: u32::try_from(data.len()).unwrap_or(0), bytes: kept.to_vec() }
    }

    fn of_record(data: Option<Cow<'_, [u8]>>) -> Self {
        data.map(|data| Self::of(&data)).unwrap_or_default()
    }
}

/// The state of a sequence after the last record that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    /// The WAL runs ahead of what was handed out by up to 32 values.
    pub last_value: i64,
    pub is_called: bool,
}

/// How many rows a transaction that changed the schema put into which relations; the smallest ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled(BTreeMap<RelationLocator, u64>);

impl Filled {
    pub(super) fn add(&mut self, relation: RelationLocator, rows: u64) {
        if rows == 0 || relation.relfilenode < FIRST_NORMAL_OID {
            return;
        }
        let known = self.0.entry(relation).or_default();
        *known = known.saturating_add(rows);
        if self.0.len() > MAX_FILLED {
            self.0.pop_last();
        }
    }

    #[must_use]
    pub fn rows(&self, relation: RelationLocator) -> u64 {
        self.0.get(&relation).copied().unwrap_or(0)
    }
}

/// What a record of the heap that changes a row of a naming catalog says.
pub(crate) fn row_change(
    record: &Record<'_>,
    major: MajorVersion,
    locator: RelationLocator,
    catalog: NamingCatalog,
) -> Result<Option<CatalogChange>, RecordError> {
    let xid = record.xid();
    let kind = match record.row(major)? {
        None => return Ok(None),
        Some(RowRecord::Insert { place, data }) => {
            CatalogChangeKind::Insert { catalog, xid, place, row: RowBytes::of_record(data) }
        }
        Some(RowRecord::Update { old, new, prefix, suffix, data }) => {
            CatalogChangeKind::Update { catalog, xid, old, new, prefix, suffix, row: RowBytes::of_record(data) }
        }
        Some(RowRecord::Delete { place }) => CatalogChangeKind::Delete { catalog, xid, place },
    };
    let (database, tablespace) = (locator.database, locator.tablespace);
    Ok(Some(CatalogChange { lsn: record.start_lsn(), database, tablespace, kind }))
}

/// Rows on images of pages of a naming catalog. Only what the page itself calls committed and not deleted; of `pg_class`
/// only what users made.
pub(super) fn copied_rows(record: &Record<'_>, major: MajorVersion) -> Result<Vec<CatalogChange>, RecordError> {
    let mut changes = Vec::new();
    for block in record.body(major)?.blocks() {
        let Some(catalog) = NamingCatalog::of_file(block.relation.relfilenode) else { continue };
        let Some(page) = block.image.and_then(|image| image.page()) else { continue };
        for row in heap_page::rows(&page) {
            let alive = row.inserted == Hint::Committed && row.deleted == Hint::Invalid;
            let ours = named(row.data)
                .is_some_and(|(oid, _)| catalog != NamingCatalog::Class || oid >= FIRST_NORMAL_OID || oid == 2615);
            if alive && ours {
                let place = RowPlace { block: block.block, offset: row.offset };
                let kind = CatalogChangeKind::Copied { catalog, place, row: RowBytes::of(row.data) };
                let (database, tablespace) = (block.relation.database, block.relation.tablespace);
                changes.push(CatalogChange { lsn: record.start_lsn(), database, tablespace, kind });
            }
        }
    }
    Ok(changes)
}

/// Where a relation map puts the catalog that names things.
pub(super) fn map_change(lsn: Lsn, database: Oid, tablespace: Oid, map: &[u8]) -> Option<CatalogChange> {
    let catalog = if database == 0 { NamingCatalog::Database } else { NamingCatalog::Class };
    let file = mapped_file(map, catalog)?;
    Some(CatalogChange { lsn, database, tablespace, kind: CatalogChangeKind::Mapped { file } })
}
