//! What a backup that was interrupted has stored, by its own records.
//!
//! Nothing of it is trusted that is not proven here: each record is whole, and each pack that any of them names is in the store
//! with the size that it had.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use crate::repository::backup::{
    BackupId, CorruptPage, Extent, Intent, PackId, ProgressHeader, ProgressLine, StoredPath,
};
use crate::repository::hash::ContentHash;
use crate::repository::{self, LineageObject, LineageStore};
use crate::restore::enveloped_lines::{self, LineSink, LinesHeader, json};
use crate::restore::files::extents_size;
use crate::restore::{Error, Result};

/// Requests under way at once.
const PARALLEL: usize = 8;

/// A backup with an intent and records, and without a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptedBackup {
    pub id: BackupId,
    /// The backup that it shared pages with.
    pub parent: Option<BackupId>,
    /// When it put its last record.
    pub active: DateTime<Utc>,
    /// Of its records; not empty.
    pub numbers: BTreeSet<u32>,
}

/// All interrupted backups that began after `after`, oldest first. One whose intent cannot be read is none.
///
/// # Errors
/// The store fails.
pub async fn interrupted_backups(
    lineage: &LineageStore,
    after: Option<&BackupId>,
) -> repository::Result<Vec<InterruptedBackup>> {
    #[derive(Default)]
    struct Found {
        intent: bool,
        complete: bool,
        records: BTreeMap<u32, DateTime<Utc>>,
    }
    let mut found: BTreeMap<BackupId, Found> = BTreeMap::new();
    let prefix = lineage.layout().backups();
    let mut listed = lineage.store().list(&prefix);
    while let Some(meta) = listed.try_next().await? {
        match lineage.layout().classify(&meta.key) {
            Some(LineageObject::Intent(id)) => found.entry(id).or_default().intent = true,
            Some(LineageObject::Manifest(id)) => found.entry(id).or_default().complete = true,
            Some(LineageObject::Progress { backup, number }) => {
                found.entry(backup).or_default().records.insert(number, meta.modified);
            }
            _ => {}
        }
    }
    let mut interrupted = Vec::new();
    for (id, Found { intent, complete, records }) in found {
        let Some(active) = records.values().max().copied() else { continue };
        if complete || !intent || after.is_some_and(|after| id <= *after) {
            continue;
        }
        match lineage.get::<Intent>(&lineage.layout().intent(&id)).await {
            Ok(Intent { parent, .. }) => {
                interrupted.push(InterruptedBackup { id, parent, active, numbers: records.into_keys().collect() });
            }
            Err(error) if error.is_not_found() || error.is_corruption() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(interrupted)
}

impl InterruptedBackup {
    /// The header of the newest record; as an error in words, why there is none that can be used.
    ///
    /// # Errors
    /// The store fails.
    pub async fn newest_record(
        &self,
        lineage: &LineageStore,
    ) -> repository::Result<std::result::Result<ProgressHeader, String>> {
        let Some(number) = self.numbers.last() else { return Ok(Err("it has no records".to_owned())) };
        match Record::load(lineage, &self.id, *number).await {
            Ok(record) => Ok(Ok(record.header)),
            Err(Error::Repository(error)) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

/// Some bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub path: StoredPath,
    pub from: u64,
    pub extents: Vec<Extent>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub header: ProgressHeader,
    /// With their sizes, as extents number them.
    pub packs: Vec<(PackId, u64)>,
    /// By path and position.
    pub pieces: Vec<Piece>,
    pub corrupt_pages: Vec<CorruptPage>,
}

#[derive(Default)]
struct RecordLines {
    packs: Vec<(PackId, u64)>,
    pieces: Vec<Piece>,
    corrupt_pages: Vec<CorruptPage>,
}

impl LinesHeader for ProgressHeader {
    fn lines_bytes(&self) -> u64 {
        self.bytes
    }

    fn lines_hash(&self) -> ContentHash {
        self.blake3
    }
}

impl LineSink for RecordLines {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match json(line)? {
            ProgressLine::Pack { id, bytes } => self.packs.push((id, bytes)),
            ProgressLine::Corrupt { path, block } => self.corrupt_pages.push(CorruptPage { path, block }),
            ProgressLine::Piece { path, from, extents } => {
                let bytes = extents_size(&path, &extents, self.packs.len())?;
                from.checked_add(bytes).ok_or("has a piece without bounds")?;
                if self.pieces.last().is_some_and(|last| (&last.path, last.from) >= (&path, from)) {
                    return Err("has pieces that are not in order".to_owned());
                }
                self.pieces.push(Piece { path, from, extents });
            }
        }
        Ok(())
    }
}

impl Record {
    /// # Errors
    /// The repository fails, or the record is missing, damaged or that of another backup.
    pub async fn load(lineage: &LineageStore, backup: &BackupId, number: u32) -> Result<Self> {
        let key = lineage.layout().progress(backup, number);
        let (header, lines): (ProgressHeader, RecordLines) =
            enveloped_lines::read(lineage.store(), &key, RecordLines::default()).await?;
        if (&header.id, header.number) != (backup, number) {
            return Err(Error::Damaged { object: key.to_string(), reason: "is another record".to_owned() });
        }
        let RecordLines { packs, pieces, corrupt_pages } = lines;
        Ok(Self { header, packs, pieces, corrupt_pages })
    }
}

/// A record that can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRecord {
    pub number: u32,
    /// Path of its first piece.
    pub first: StoredPath,
}

/// What all records of an interrupted backup say of packs, and where each of them begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterruptedFiles {
    /// Of the newest record.
    pub header: ProgressHeader,
    /// Size of each pack's object.
    pub packs: BTreeMap<PackId, u64>,
    /// In the order of their first paths.
    pub records: Vec<ListedRecord>,
    pub corrupt_pages: Vec<CorruptPage>,
}

impl InterruptedFiles {
    /// # Errors
    /// The repository fails, a record is missing or damaged, or a pack is not in the store as it was.
    pub async fn load(lineage: &LineageStore, backup: &InterruptedBackup) -> Result<Self> {
        if !backup.numbers.iter().copied().eq(0..u32::try_from(backup.numbers.len()).unwrap_or(u32::MAX)) {
            let object = lineage.layout().backup(&backup.id).to_string();
            return Err(Error::Damaged { object, reason: "lacks a record".to_owned() });
        }
        let reads: Vec<_> =
            backup.numbers.iter().map(async |number| Record::load(lineage, &backup.id, *number).await).collect();
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        let mut found: Option<Self> = None;
        while let Some(Record { header, packs, pieces, corrupt_pages }) = reads.try_next().await? {
            let damaged = |reason: &str| Error::Damaged {
                object: lineage.layout().progress(&header.id, header.number).to_string(),
                reason: reason.to_owned(),
            };
            let files = found.get_or_insert_with(|| Self {
                header: header.clone(),
                packs: BTreeMap::new(),
                records: Vec::new(),
                corrupt_pages: Vec::new(),
            });
            if !goes_on(&files.header, &header) {
                return Err(damaged("is not of the same backup as those before"));
            }
            for (id, bytes) in packs {
                if *files.packs.entry(id).or_insert(bytes) != bytes {
                    return Err(damaged("says another size of a pack than those before"));
                }
            }
            let first = pieces.into_iter().next().map(|piece| piece.path);
            files.records.extend(first.map(|first| ListedRecord { number: header.number, first }));
            files.corrupt_pages.extend(corrupt_pages);
            files.header = header;
        }
        let Some(mut files) = found else {
            let object = lineage.layout().progress(&backup.id, 0).to_string();
            return Err(Error::Damaged { object, reason: "is missing".to_owned() });
        };
        files.records.sort_by(|a, b| (&a.first, a.number).cmp(&(&b.first, b.number)));
        files.look_for_packs(lineage).await?;
        Ok(files)
    }

    async fn look_for_packs(&self, lineage: &LineageStore) -> Result<()> {
        let writers: BTreeSet<&BackupId> = self.packs.keys().map(|pack| &pack.backup).collect();
        let mut missing = self.packs.clone();
        for writer in writers {
            let prefix = lineage.layout().packs(writer);
            let mut listed = lineage.store().list(&prefix);
            while let Some(meta) = listed.try_next().await.map_err(repository::Error::from)? {
                let Some(LineageObject::Pack(pack)) = lineage.layout().classify(&meta.key) else { continue };
                let Some(bytes) = missing.remove(&pack) else { continue };
                if meta.size_bytes != bytes {
                    let reason = format!("has {} bytes instead of {bytes}", meta.size_bytes);
                    return Err(Error::Damaged { object: meta.key.to_string(), reason });
                }
            }
        }
        match missing.keys().next() {
            None => Ok(()),
            Some(pack) => {
                let object = lineage.layout().pack(pack).to_string();
                Err(Error::Damaged { object, reason: "is missing".to_owned() })
            }
        }
    }
}

fn goes_on(before: &ProgressHeader, header: &ProgressHeader) -> bool {
    let same = |header: &ProgressHeader| {
        (header.timeline, header.start_lsn, header.catalog_version, header.control_version, header.data_checksums)
    };
    same(before) == same(header) && header.start_lsn <= header.end_lsn && before.end_lsn <= header.end_lsn
}

#[cfg(test)]
mod tests;
