//! How the pages that changed since the parent are found.

use std::path::Path;
use std::time::Duration;

use pitr::lookup::{WalChanges, changed_blocks};
use pitr::postgres::data_directory::{EntryKind, classify};
use pitr::postgres::relation::Fork;
use pitr::postgres::{ControlFile, Lsn, TimelineId, WalSegmentSize};
use pitr::repository::backup::{BackupId, BackupManifest, CorruptPage, ProgressHeader};
use pitr::repository::catalog::{Catalog, LsnRange};
use pitr::repository::{LineageStore, Result};
use pitr::wal_summary::{ChangedBlocks, RelationChanges};

use super::reading::conclusive;
use crate::archiver::ArchiveProgress;

/// Runs of blocks in memory, of eight bytes each. Where there are more, neighbours are joined over what lies between.
const MAX_RUNS: usize = 2 << 20;
/// Header of a segment's first page: no record begins in it.
const LONG_HEADER_BYTES: u32 = 40;

/// What has to be known of an earlier backup to tell what changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
    /// WAL that was written before it had read all of its pages ends here, and is in the repository.
    pub stop_lsn: Lsn,
    pub catalog_version: u32,
    pub control_version: u32,
    pub data_checksums: bool,
    pub corrupt_pages: Vec<CorruptPage>,
}

impl From<&BackupManifest> for Origin {
    fn from(manifest: &BackupManifest) -> Self {
        Self {
            id: manifest.id.clone(),
            timeline: manifest.timeline,
            start_lsn: manifest.start_lsn,
            stop_lsn: manifest.stop_lsn,
            catalog_version: manifest.catalog_version,
            control_version: manifest.control_version,
            data_checksums: manifest.data_checksums,
            corrupt_pages: manifest.corrupt_pages.clone(),
        }
    }
}

impl Origin {
    #[must_use]
    pub fn interrupted(header: &ProgressHeader, corrupt_pages: &[CorruptPage]) -> Self {
        Self {
            id: header.id.clone(),
            timeline: header.timeline,
            start_lsn: header.start_lsn,
            stop_lsn: header.end_lsn,
            catalog_version: header.catalog_version,
            control_version: header.control_version,
            data_checksums: header.data_checksums,
            corrupt_pages: corrupt_pages.to_vec(),
        }
    }
}

/// Where a backup's pages stand in relation to its parent's.
#[derive(Debug)]
pub struct Since<'a> {
    pub lineage: &'a LineageStore,
    pub catalog: &'a Catalog,
    pub archive: &'a ArchiveProgress,
    pub control: &'a ControlFile,
    /// The new backup's redo position.
    pub start_lsn: Lsn,
    /// How long WAL may take to get to the repository.
    pub patience: Duration,
}

impl Since<'_> {
    /// What WAL changed from the parent's redo position to this backup's; as an error in words, why that is not known. Memory
    /// is bounded to what is left where `share` such answers are held at once.
    ///
    /// # Errors
    /// The store fails.
    pub async fn changes(&self, parent: &Origin, share: usize) -> Result<std::result::Result<ChangedBlocks, String>> {
        if let Err(reason) = self.same_server(parent) {
            return Ok(Err(reason));
        }
        let Ok(path) = self.catalog.path(self.control.tli) else {
            return Ok(Err(format!("the history of timeline {} is not in the repository", self.control.tli)));
        };
        if !path.contains(parent.timeline, parent.stop_lsn) {
            let (id, timeline) = (&parent.id, parent.timeline);
            return Ok(Err(format!(
                "backup {id} on timeline {timeline} is not on the way to timeline {}",
                self.control.tli
            )));
        }
        let to = first_possible_record(self.start_lsn, self.catalog.segment_size());
        let range = LsnRange { from: parent.start_lsn, to };
        if range.from > range.to {
            return Ok(Err(format!("backup {} began at {}, behind this one", parent.id, range.from)));
        }
        self.archive.request_flush();
        if self.archive.wait_sealed(to, self.patience).await.is_err() {
            return Ok(Err(format!("the WAL up to {to} is not in the repository yet")));
        }
        let mut changes = match changed_blocks(self.lineage, self.catalog, path, range, MAX_RUNS / share.max(1)).await?
        {
            WalChanges::Known { blocks, .. } => *blocks,
            WalChanges::Unknown { reason } => return Ok(Err(reason)),
        };
        if let Err(reason) = conclusive(&changes) {
            return Ok(Err(reason));
        }
        add_corrupt_pages(&mut changes, parent);
        Ok(Ok(changes))
    }

    fn same_server(&self, parent: &Origin) -> std::result::Result<(), String> {
        let control = self.control;
        if parent.catalog_version != control.catalog_version || parent.control_version != control.control_version {
            return Err("the server's version has changed".to_owned());
        }
        if parent.data_checksums != control.data_checksums {
            return Err("data checksums were turned on or off".to_owned());
        }
        Ok(())
    }
}

/// A position before which nothing can start that starts behind the one given, but may be sealed earlier.
fn first_possible_record(lsn: Lsn, size: WalSegmentSize) -> Lsn {
    if size.offset_of(lsn) <= LONG_HEADER_BYTES { size.start_of(size.segment_of(lsn)) } else { lsn }
}

/// What was corrupt is read again, so that it is reported again, or taken over whole.
fn add_corrupt_pages(changes: &mut ChangedBlocks, parent: &Origin) {
    for page in &parent.corrupt_pages {
        if let EntryKind::Relation(file) = classify(Path::new(page.path.as_str()), false)
            && file.fork == Fork::Main
        {
            let mut again = ChangedBlocks::default();
            let blocks = std::iter::once(page.block).collect();
            again.relations.insert((file.relation, file.fork), RelationChanges { limit: None, blocks });
            changes.append(&again);
        }
    }
}
