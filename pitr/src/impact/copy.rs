//! The catalogs in a backup: what every relation was called when it was taken.
//!
//! Files of a backup were copied while they were written to. That harms nothing here: whatever changed since the backup began
//! is in the WAL and counts afterwards. Whether a row had been committed the page says itself, or `pg_xact` in the backup; what
//! was under way waits for its end in the WAL.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::LARGE_OBJECTS;
use super::book::{CatalogBook, Fate};
use super::stretch::MovedCatalogs;
use crate::lookup::{BackupFiles, MapFiles, read_frame};
use crate::postgres::heap_page::{self, Hint};
use crate::postgres::page::{Page, PageVerdict, verify_page};
use crate::postgres::relation::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, Oid, RelationLocator};
use crate::postgres::system_catalog::{ClassRow, FIRST_NORMAL_OID, NamingCatalog, PG_CATALOG, mapped_file, named};
use crate::postgres::wal::heap_row::RowPlace;
use crate::postgres::{Lsn, MajorVersion, PAGE_SIZE, PAGES_PER_RELATION_SEGMENT, TransactionId};
use crate::repository::LineageStore;
use crate::repository::backup::{BackupManifest, Extent, FileEntry, PackId};
use crate::restore::{Error, Result};

/// Frames under way at once.
const PARALLEL_READS: usize = 8;
/// `CLOG_XACTS_PER_PAGE` times `SLRU_PAGES_PER_SEGMENT`.
const TRANSACTIONS_PER_FILE: u32 = 32_768 * 32;
const TRANSACTIONS_PER_BYTE: u32 = 4;

/// Reads catalogs out of a backup.
pub struct CatalogCopy<'a> {
    lineage: &'a LineageStore,
    manifest: &'a BackupManifest,
    major: MajorVersion,
    files: BackupFiles,
    maps: HashMap<usize, MapFiles>,
    status: HashMap<u32, Vec<u8>>,
    /// Catalogs that stand in another file than `initdb` gave them.
    pub moved: MovedCatalogs,
}

impl<'a> CatalogCopy<'a> {
    /// # Errors
    /// The repository fails, or the backup is damaged.
    pub async fn open(lineage: &'a LineageStore, manifest: &'a BackupManifest, major: MajorVersion) -> Result<Self> {
        let files = BackupFiles::load(lineage, manifest).await?;
        let (maps, status) = (HashMap::new(), HashMap::new());
        Ok(Self { lineage, manifest, major, files, maps, status, moved: MovedCatalogs::new() })
    }

    /// Names of databases.
    ///
    /// # Errors
    /// The repository fails, or the backup is damaged.
    pub async fn read_database_names(&mut self, book: &mut CatalogBook) -> Result<()> {
        let Some(map) = self.file("global/pg_filenode.map").await? else { return Ok(()) };
        let Some(file) = mapped_file(&map, NamingCatalog::Database) else { return Ok(()) };
        let locator = RelationLocator { tablespace: GLOBAL_TABLESPACE, database: 0, relfilenode: file };
        self.note_moved(NamingCatalog::Database, locator);
        self.read_catalog(book, NamingCatalog::Database, locator, "global").await
    }

    /// Schemas and relations of a database. Nothing happens where the backup does not have it.
    ///
    /// # Errors
    /// The repository fails, or the backup is damaged.
    pub async fn read_database(&mut self, book: &mut CatalogBook, database: Oid, tablespace: Oid) -> Result<()> {
        let directory = if tablespace == DEFAULT_TABLESPACE {
            format!("base/{database}")
        } else {
            let version = format!("PG_{}_{}", self.major.as_u16(), self.manifest.catalog_version);
            format!("pg_tblspc/{tablespace}/{version}/{database}")
        };
        let Some(map) = self.file(&format!("{directory}/pg_filenode.map")).await? else { return Ok(()) };
        let Some(file) = mapped_file(&map, NamingCatalog::Class) else { return Ok(()) };
        book.begin_database(database, tablespace);
        let class = RelationLocator { tablespace, database, relfilenode: file };
        self.note_moved(NamingCatalog::Class, class);
        self.read_catalog(book, NamingCatalog::Class, class, &directory).await?;
        let row = book.class_before(super::RelationId { database, oid: NamingCatalog::Namespace.oid() }, Lsn::MAX);
        let file = row.map_or(NamingCatalog::Namespace.oid(), |row: &ClassRow| row.relfilenode);
        let namespace = RelationLocator { tablespace, database, relfilenode: file };
        self.note_moved(NamingCatalog::Namespace, namespace);
        self.read_catalog(book, NamingCatalog::Namespace, namespace, &directory).await
    }

    fn note_moved(&mut self, catalog: NamingCatalog, locator: RelationLocator) {
        if locator.relfilenode != catalog.oid() {
            self.moved.insert(locator, catalog);
        }
    }

    async fn read_catalog(
        &mut self,
        book: &mut CatalogBook,
        catalog: NamingCatalog,
        locator: RelationLocator,
        directory: &str,
    ) -> Result<()> {
        for segment in 0.. {
            let suffix = if segment == 0 { String::new() } else { format!(".{segment}") };
            let path = format!("{directory}/{}{suffix}", locator.relfilenode);
            let Some(bytes) = self.file(&path).await? else { break };
            let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
            for (page, number) in pages.iter().zip(0_u32..) {
                let block = segment * PAGES_PER_RELATION_SEGMENT + number;
                self.read_page(book, catalog, locator.database, block, page).await?;
            }
        }
        Ok(())
    }

    async fn read_page(
        &mut self,
        book: &mut CatalogBook,
        catalog: NamingCatalog,
        database: Oid,
        block: u32,
        page: &Page,
    ) -> Result<()> {
        // Torn, or damaged: whatever it would say may be wrong.
        if self.manifest.data_checksums && matches!(verify_page(page, block), PageVerdict::Invalid { .. }) {
            return Ok(());
        }
        for row in heap_page::rows(page) {
            if catalog == NamingCatalog::Class && !is_of_interest(row.data, self.major) {
                continue;
            }
            let (inserted, deleted) = (self.fate(row.inserted).await?, self.fate(row.deleted).await?);
            let place = RowPlace { block, offset: row.offset };
            book.base_row(database, catalog, place, row.data, inserted, deleted);
        }
        Ok(())
    }

    async fn fate(&mut self, hint: Hint) -> Result<Fate> {
        const COMMITTED: u8 = 1;
        const ABORTED: u8 = 2;
        let xid = match hint {
            Hint::Committed => return Ok(Fate::Committed),
            Hint::Invalid => return Ok(Fate::Never),
            Hint::Ask(xid) => xid,
        };
        Ok(match self.status_of(xid).await? {
            COMMITTED => Fate::Committed,
            ABORTED => Fate::Never,
            _ => Fate::Pending(xid),
        })
    }

    /// Two bits of `pg_xact`; zero, under way, where it does not reach so far.
    async fn status_of(&mut self, xid: TransactionId) -> Result<u8> {
        let (number, within) = (xid.as_u32() / TRANSACTIONS_PER_FILE, xid.as_u32() % TRANSACTIONS_PER_FILE);
        if !self.status.contains_key(&number) {
            let bytes = self.file(&format!("pg_xact/{number:04X}")).await?.unwrap_or_default();
            self.status.insert(number, bytes);
        }
        let at = usize::try_from(within / TRANSACTIONS_PER_BYTE).unwrap_or(usize::MAX);
        let byte = self.status.get(&number).and_then(|bytes| bytes.get(at)).copied().unwrap_or(0);
        Ok(byte >> (within % TRANSACTIONS_PER_BYTE * 2) & 0x3)
    }

    /// A whole file of the backup. None where it has none of that name.
    async fn file(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let at = self.files.maps.partition_point(|map| map.first.as_str() <= path);
        let Some(index) = at.checked_sub(1) else { return Ok(None) };
        if !self.maps.contains_key(&index) {
            let Some(listed) = self.files.maps.get(index) else { return Ok(None) };
            let loaded = MapFiles::load(self.lineage, listed).await?;
            // Files that belong together stand in few maps; no more of them are kept.
            if self.maps.len() >= 4 {
                self.maps.clear();
            }
            self.maps.insert(index, loaded);
        }
        let Some(map) = self.maps.get(&index) else { return Ok(None) };
        let Ok(found) = map.files.binary_search_by(|file| file.path.as_str().cmp(path)) else { return Ok(None) };
        match map.files.get(found) {
            Some(file) => read_file(self.lineage, &map.packs, file).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What users made, and of the system catalogs those that hold what users put there, or that may have moved.
fn is_of_interest(data: &[u8], major: MajorVersion) -> bool {
    named(data).is_some_and(|(oid, _)| {
        let own = oid >= FIRST_NORMAL_OID || oid == NamingCatalog::Namespace.oid() || LARGE_OBJECTS.contains(&oid);
        own || ClassRow::parse(data, major).is_some_and(|row| row.namespace != PG_CATALOG)
    })
}

async fn read_file(lineage: &LineageStore, packs: &[PackId], file: &FileEntry) -> Result<Vec<u8>> {
    let extents = stream::iter(file.extents.iter().copied()).map(async |extent| {
        let frame = match extent {
            Extent::Zeros { bytes } => return Ok(vec![0; usize::try_from(bytes).unwrap_or(0)]),
            Extent::Frame(frame) => frame,
        };
        let damaged = || Error::Damaged {
            object: file.path.to_string(),
            reason: "has an extent outside of its frame".to_owned(),
        };
        let pack = usize::try_from(frame.pack).ok().and_then(|pack| packs.get(pack)).ok_or_else(damaged)?;
        let end = frame.offset + u64::from(frame.stored_bytes);
        let content = read_frame(lineage, pack, frame.offset, end).await?;
        let (at, bytes) = (usize::try_from(frame.at), usize::try_from(frame.bytes));
        let range = at.ok().zip(bytes.ok()).and_then(|(at, bytes)| Some(at..at.checked_add(bytes)?));
        range.and_then(|range| content.get(range)).map(<[u8]>::to_vec).ok_or_else(damaged)
    });
    extents.buffered(PARALLEL_READS).try_concat().await
}
