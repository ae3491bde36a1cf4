//! Goes through the maps of a parent, or the records of an interrupted backup, in the order of paths and in step with the copy.
//! A few are read ahead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, stream};
use pitr::lookup::{BackupFiles, InterruptedFiles, ListedMap, ListedRecord, MapFiles, Record};
use pitr::repository::LineageStore;
use pitr::repository::backup::{BackupId, Extent, PackId, StoredPath};
use pitr::restore;
use pitr::wal_summary::ChangedBlocks;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::packs::Packs;
use super::parent_file::{ParentFile, PiecedExtents};

/// Maps read at once, and maps that wait.
const READS: usize = 3;
const AHEAD: usize = 1;

/// A backup whose pages are shared.
#[derive(Clone, Debug)]
pub struct Parent {
    pub files: ParentFiles,
    /// What WAL changed since; none where that is not known, and pages are compared.
    pub changes: Option<Arc<ChangedBlocks>>,
}

/// What a parent is made of.
#[derive(Clone, Debug)]
pub enum ParentFiles {
    Complete(Arc<BackupFiles>),
    Interrupted(Arc<InterruptedFiles>),
}

impl Parent {
    /// Sizes of all packs that it names.
    #[must_use]
    pub fn packs(&self) -> &BTreeMap<PackId, u64> {
        match &self.files {
            ParentFiles::Complete(files) => &files.packs,
            ParentFiles::Interrupted(files) => &files.packs,
        }
    }

    /// The maps that are there as long as the parent is.
    #[must_use]
    pub fn maps(&self) -> &[ListedMap] {
        match &self.files {
            ParentFiles::Complete(files) => &files.maps,
            ParentFiles::Interrupted(_) => &[],
        }
    }

    #[must_use]
    pub const fn is_interrupted(&self) -> bool {
        matches!(self.files, ParentFiles::Interrupted(_))
    }

    fn listed(&self) -> VecDeque<Listed> {
        match &self.files {
            ParentFiles::Complete(files) => files.maps.iter().cloned().map(Listed::Map).collect(),
            ParentFiles::Interrupted(files) => {
                let of = |record: &ListedRecord| Listed::Record(files.header.id.clone(), record.clone());
                files.records.iter().map(of).collect()
            }
        }
    }
}

/// A map, or a record of an interrupted backup.
#[derive(Clone, Debug)]
enum Listed {
    Map(ListedMap),
    Record(BackupId, ListedRecord),
}

impl Listed {
    const fn first(&self) -> &StoredPath {
        match self {
            Self::Map(map) => &map.first,
            Self::Record(_, record) => &record.first,
        }
    }

    async fn load(self, lineage: &LineageStore) -> restore::Result<Loaded> {
        match self {
            Self::Map(map) => {
                let MapFiles { packs, files } = MapFiles::load(lineage, &map).await?;
                let whole = |file: pitr::repository::backup::FileEntry| (file.path, 0, file.extents);
                Ok(Loaded { packs, pieces: files.into_iter().map(whole).collect() })
            }
            Self::Record(backup, ListedRecord { number, .. }) => {
                let record = Record::load(lineage, &backup, number).await?;
                let pieces = record.pieces.into_iter().map(|piece| (piece.path, piece.from, piece.extents));
                let packs = record.packs.into_iter().map(|(pack, _)| pack).collect();
                Ok(Loaded { packs, pieces: pieces.collect() })
            }
        }
    }
}

/// Pieces of files, each with where it begins; a whole file is one piece.
#[derive(Debug)]
struct Loaded {
    packs: Vec<PackId>,
    pieces: Vec<(StoredPath, u64, Vec<Extent>)>,
}

/// Blocking: for the threads that copy.
#[derive(Debug)]
pub struct ParentCursor {
    pub changes: Option<Arc<ChangedBlocks>>,
    /// Those that were not received yet.
    listed: VecDeque<Listed>,
    received: mpsc::Receiver<restore::Result<Loaded>>,
    /// Files that nobody has asked for yet.
    files: BTreeMap<StoredPath, Vec<PiecedExtents>>,
    packs: Arc<Packs>,
    _reader: AbortOnDropHandle<()>,
}

impl ParentCursor {
    /// Begins to read. Must be called within the runtime.
    #[must_use]
    pub fn start(lineage: LineageStore, parent: &Parent, packs: Arc<Packs>) -> Self {
        let (sender, received) = mpsc::channel(AHEAD);
        let listed = parent.listed();
        let wanted = listed.clone();
        let reader = tokio::spawn(async move {
            let lineage = &lineage;
            let reads = stream::iter(wanted).map(|listed| listed.load(lineage));
            let mut reads = std::pin::pin!(reads.buffered(READS));
            while let Some(read) = reads.next().await {
                let failed = read.is_err();
                if sender.send(read).await.is_err() || failed {
                    return;
                }
            }
        });
        let reader = AbortOnDropHandle::new(reader);
        Self { changes: parent.changes.clone(), listed, received, files: BTreeMap::new(), packs, _reader: reader }
    }

    /// The files from `first` to `last`, both included. Whoever asks goes forward.
    ///
    /// # Errors
    /// A map or record cannot be read.
    pub fn take(&mut self, first: &StoredPath, last: &StoredPath) -> restore::Result<BTreeMap<StoredPath, ParentFile>> {
        while self.listed.front().is_some_and(|listed| listed.first() <= last) {
            self.listed.pop_front();
            // The sender ends early only with an error, which was received.
            let Some(loaded) = self.received.blocking_recv() else { break };
            let Loaded { packs, pieces } = loaded?;
            let numbers: Vec<u32> = packs.iter().map(|pack| self.packs.number(pack)).collect();
            for (path, from, mut extents) in pieces.into_iter().filter(|(path, ..)| path >= first) {
                for extent in &mut extents {
                    if let Extent::Frame(frame) = extent {
                        frame.pack = numbers.get(frame.pack as usize).copied().unwrap_or(u32::MAX);
                    }
                }
                self.files.entry(path).or_default().push(PiecedExtents { from, extents });
            }
        }
        let mut rest = self.files.split_off(last);
        let at_last = rest.remove_entry(last);
        let wanted = std::mem::replace(&mut self.files, rest).into_iter().chain(at_last);
        let wanted = wanted.filter(|(path, _)| path >= first);
        Ok(wanted.map(|(path, pieces)| (path, ParentFile::new(pieces))).collect())
    }
}
