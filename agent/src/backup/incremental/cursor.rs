//! Goes through the maps of a parent in the order of paths, in step with the copy. A few maps are read ahead.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, stream};
use pitr::lookup::{BackupFiles, ListedMap, MapFiles};
use pitr::repository::LineageStore;
use pitr::repository::backup::{Extent, FileEntry, StoredPath};
use pitr::repository::hash::ContentHash;
use pitr::restore;
use pitr::wal_summary::ChangedBlocks;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::packs::Packs;

/// Maps read at once, and maps that wait.
const READS: usize = 3;
const AHEAD: usize = 1;

/// A backup whose pages are shared.
#[derive(Clone, Debug)]
pub struct Parent {
    pub files: Arc<BackupFiles>,
    /// What WAL changed since; none where that is not known, and pages are compared.
    pub changes: Option<Arc<ChangedBlocks>>,
}

impl Parent {
    /// The maps that are there as long as the parent is, with their sizes.
    #[must_use]
    pub fn maps(&self) -> HashSet<ContentHash> {
        self.files.maps.iter().map(|map| map.hash).collect()
    }
}

/// Blocking: for the threads that copy.
#[derive(Debug)]
pub struct ParentCursor {
    pub changes: Option<Arc<ChangedBlocks>>,
    /// Those that were not received yet.
    listed: VecDeque<ListedMap>,
    received: mpsc::Receiver<restore::Result<MapFiles>>,
    /// Files that nobody has asked for yet.
    files: VecDeque<FileEntry>,
    packs: Arc<Packs>,
    _reader: AbortOnDropHandle<()>,
}

impl ParentCursor {
    /// Begins to read. Must be called within the runtime.
    #[must_use]
    pub fn start(lineage: LineageStore, parent: &Parent, packs: Arc<Packs>) -> Self {
        let (sender, received) = mpsc::channel(AHEAD);
        let maps = parent.files.maps.clone();
        let listed = maps.iter().cloned().collect();
        let reader = tokio::spawn(async move {
            let lineage = &lineage;
            let reads = stream::iter(maps).map(|map| async move { MapFiles::load(lineage, &map).await });
            let mut reads = std::pin::pin!(reads.buffered(READS));
            while let Some(read) = reads.next().await {
                let failed = read.is_err();
                if sender.send(read).await.is_err() || failed {
                    return;
                }
            }
        });
        let reader = AbortOnDropHandle::new(reader);
        Self { changes: parent.changes.clone(), listed, received, files: VecDeque::new(), packs, _reader: reader }
    }

    /// The files from `first` to `last`, both included, in order. Whoever asks goes forward.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn take(&mut self, first: &StoredPath, last: &StoredPath) -> restore::Result<VecDeque<FileEntry>> {
        while self.listed.front().is_some_and(|map| map.first <= *last) {
            self.listed.pop_front();
            // The sender ends early only with an error, which was received.
            let Some(map) = self.received.blocking_recv() else { break };
            let MapFiles { packs, files } = map?;
            let numbers: Vec<u32> = packs.iter().map(|pack| self.packs.number(pack)).collect();
            self.files.extend(files.into_iter().filter(|file| file.path >= *first).map(|mut file| {
                for extent in &mut file.extents {
                    if let Extent::Frame(frame) = extent {
                        frame.pack = numbers.get(frame.pack as usize).copied().unwrap_or(u32::MAX);
                    }
                }
                file
            }));
        }
        let rest = self.files.partition_point(|file| file.path <= *last);
        let rest = self.files.split_off(rest);
        let mut wanted = std::mem::replace(&mut self.files, rest);
        wanted.retain(|file| file.path >= *first);
        Ok(wanted)
    }
}
