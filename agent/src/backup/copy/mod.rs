//! From the files of a listing to packs and maps in the repository.
//!
//! ```text
//! listing ─▶ maps, units ─▶ N threads: read → verify, hash → zstd → pack ─▶ uploads ─▶ repository
//!                                         └────────▶ extents ─▶ map ────────┘
//! ```
//! Threads take pieces of work in the order of paths. What is in memory is bounded: a frame and an open pack for each
//! thread, the packs on their way, the maps that have pieces at work, and the listing.
//!
//! Failure model: the first failure of a thread or of the store ends the whole copy. What has been stored by then is garbage
//! that no manifest names; the [`Ledger`] tells what of it another backup could use.

mod error;
mod filenode_map;
pub(super) mod frame;
mod ledger;
mod live_frames;
mod maps;
mod pace;
mod pack_writer;
mod page_check;
mod plan;
mod sample_reader;
mod shared;
mod sharing;
mod source;
#[cfg(test)]
mod tests;
mod upload;
mod worker;

pub use error::CopyError;
pub use ledger::{Batch, Ledger};
pub use page_check::{InsertLsn, PageCheck};
pub use shared::{CopiedFiles, CopyProgress, MapSummary, TablespaceCopy};
pub use upload::Stored;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::Bytes;
use pitr::codec::Compressor;
use pitr::repository::LineageStore;
use pitr::repository::backup::{BackupId, FileEntry, StoredPath};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::incremental::cursor::{Parent, ParentCursor};
use super::incremental::hashes::ParentHashes;
use super::incremental::packs::Packs;
use super::incremental::sample::Sample;
use super::listing::FileList;
use frame::{Extents, FrameBuffer};
use live_frames::LiveBytes;
use maps::MapWriter;
use pace::Pace;
use pack_writer::PackWriter;
use pitr::repository::backup::pack::FRAME_BYTES;
use shared::{CopyState, Shared};
use sharing::{Feed, Sharing};
use upload::{UploadQueue, Uploader};
use worker::Worker;

/// How a copy is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySettings {
    pub threads: usize,
    pub compression_level: i32,
    /// Packs in memory at the same time, filling or on their way; at least one more than threads.
    pub pack_buffers: usize,
    /// Bytes a second that go to the repository, at most.
    pub bandwidth_limit: Option<u64>,
    /// A database that is being dropped is waited for; so long between two of many looks.
    pub drop_pause: Duration,
}

/// A file that is not on the disk.
#[derive(Clone, Debug)]
pub struct GivenFile {
    pub path: StoredPath,
    pub mode: u32,
    pub mtime: i64,
    pub content: Bytes,
}

/// One backup's way into the repository.
#[derive(Debug)]
pub struct Copier {
    lineage: LineageStore,
    packs: Arc<Packs>,
    settings: CopySettings,
    next_pack: Arc<AtomicU32>,
    progress: Arc<CopyProgress>,
    ledger: Arc<Ledger>,
    queue: UploadQueue,
    uploader: AbortOnDropHandle<Result<Stored, CopyError>>,
    cancel: CancellationToken,
}

impl Copier {
    /// Begins to take up packs and maps. `cancel` ends everything.
    #[must_use]
    pub fn start(
        lineage: LineageStore,
        backup: BackupId,
        settings: CopySettings,
        progress: Arc<CopyProgress>,
        cancel: &CancellationToken,
    ) -> Self {
        let cancel = cancel.child_token();
        let buffers = settings.pack_buffers.max(settings.threads + 1);
        let stored_bytes = Arc::clone(&progress.stored_bytes);
        let packs = Arc::new(Packs::new(backup));
        let ledger = Arc::new(Ledger::new(Arc::clone(&packs)));
        let (queue, uploader) =
            upload::queue(lineage.clone(), buffers, stored_bytes, Arc::clone(&ledger), cancel.clone());
        let uploader = AbortOnDropHandle::new(tokio::spawn(run_uploader(uploader, cancel.clone())));
        Self { lineage, packs, settings, next_pack: Arc::default(), progress, ledger, queue, uploader, cancel }
    }

    /// What is stored so far.
    #[must_use]
    pub const fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Copies all files of the list from below `data_directory`, but for what `parents` have: what several of them have is taken
    /// from the first. It can be done again where a parent turned out to be of no use.
    ///
    /// # Errors
    /// The first failure of a thread or of the store.
    pub async fn copy_files(
        &mut self,
        data_directory: PathBuf,
        files: Arc<FileList>,
        page_check: PageCheck,
        parents: &[Parent],
        sample: Option<Sample>,
    ) -> Result<CopiedFiles, CopyError> {
        let cursor = |parent| ParentCursor::start(self.lineage.clone(), parent, Arc::clone(&self.packs));
        self.ledger.begin(parents);
        let cancel = self.cancel.child_token();
        let feed = Feed { cursors: parents.iter().map(cursor).collect(), ..Feed::default() };
        let shared = Arc::new(Shared {
            data_directory,
            files,
            packs: Arc::clone(&self.packs),
            sharing: Sharing { sample, ..self.sharing(parents) },
            compression_level: self.settings.compression_level,
            page_check,
            pace: self.settings.bandwidth_limit.map(Pace::new),
            uploads: self.queue.clone(),
            next_pack: Arc::clone(&self.next_pack),
            ledger: Arc::clone(&self.ledger),
            progress: Arc::clone(&self.progress),
            cancel: cancel.clone(),
            drop_pause: self.settings.drop_pause,
            state: CopyState::new(feed),
        });
        // Threads cannot be aborted: when this future is dropped, they see the token.
        let stop_threads = cancel.clone().drop_guard();
        let mut workers = JoinSet::new();
        for _ in 0..self.settings.threads.max(1) {
            let worker = Worker::new(Arc::clone(&shared))?;
            workers.spawn_blocking(move || worker.run());
        }
        let mut failure = None;
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended.unwrap_or_else(|error| Err(CopyError::Broken(error.to_string()))) {
                // The first one tells why; the others were stopped by it.
                failure.get_or_insert(error);
                cancel.cancel();
            }
        }
        if let Some(error) = failure {
            return Err(self.cause(error).await);
        }
        stop_threads.disarm();
        Ok(shared.take_done())
    }

    fn sharing(&self, parents: &[Parent]) -> Sharing {
        let maps = || parents.iter().flat_map(Parent::maps);
        let packs = parents.iter().flat_map(Parent::packs);
        let sizes = packs.map(|(id, bytes)| (id.clone(), *bytes)).collect();
        let hashes = ParentHashes::new(self.lineage.clone(), Arc::clone(&self.packs), sizes);
        Sharing {
            known_maps: maps().map(|map| map.hash).collect(),
            map_bytes: maps().map(|map| (map.hash, map.stored_bytes)).collect(),
            hashes: (!parents.is_empty()).then_some(hashes),
            sample: None,
        }
    }

    /// Stores files that are in memory, as a map of their own. They come in the order of their paths.
    ///
    /// # Errors
    /// zstd or the store fails.
    pub async fn copy_given(&mut self, files: Vec<GivenFile>) -> Result<TablespaceCopy, CopyError> {
        let number = self.next_pack.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (queue, packs, level) = (self.queue.clone(), Arc::clone(&self.packs), self.settings.compression_level);
        let work = tokio::task::spawn_blocking(move || pack_given(&files, number, &packs, level, &queue));
        match work.await.unwrap_or_else(|error| Err(CopyError::Broken(error.to_string()))) {
            Ok(copied) => Ok(copied),
            Err(error) => Err(self.cause(error).await),
        }
    }

    /// Why a thread was told to stop: the store's failure, if it was that.
    async fn cause(&mut self, error: CopyError) -> CopyError {
        if !matches!(error, CopyError::Cancelled) {
            return error;
        }
        match (&mut self.uploader).await {
            Ok(Err(failure)) => failure,
            _ => error,
        }
    }

    /// Waits until everything is stored.
    ///
    /// # Errors
    /// The store fails.
    pub async fn finish(self) -> Result<Stored, CopyError> {
        drop(self.queue);
        self.uploader.await.unwrap_or_else(|error| Err(CopyError::Broken(error.to_string())))
    }
}

async fn run_uploader(uploader: Uploader, cancel: CancellationToken) -> Result<Stored, CopyError> {
    let result = uploader.run().await;
    if result.is_err() {
        cancel.cancel();
    }
    result
}

fn pack_given(
    files: &[GivenFile],
    number: u32,
    packs: &Packs,
    compression_level: i32,
    queue: &UploadQueue,
) -> Result<TablespaceCopy, CopyError> {
    let permit = queue.acquire_pack()?;
    let mut compressor = Compressor::new(compression_level)?;
    let mut pack = PackWriter::new(packs.id(number));
    let mut map = MapWriter::new(None);
    for file in files {
        let mut frame = FrameBuffer::default();
        let mut extents = Extents::new();
        for chunk in file.content.chunks(FRAME_BYTES) {
            frame.tail(chunk.len()).copy_from_slice(chunk);
            frame.keep(chunk.len(), 0, &mut extents);
            let (plain, blocks) = frame.content();
            if !plain.is_empty() {
                let place = pack.append(&mut compressor, plain, blocks)?;
                frame.settle(&place, |_, settle| settle(&mut extents));
            }
        }
        let size = file.content.len() as u64;
        map.add(FileEntry { path: file.path.clone(), size, mode: file.mode, mtime: file.mtime, extents });
    }
    queue.pack(pack.finish(), permit)?;
    let map = map.finish(packs, &HashSet::new(), &mut compressor)?;
    let mut live = LiveBytes::default();
    map.frames.iter().for_each(|frame| live.add(*frame));
    let (hash, files, file_bytes) = (map.hash, map.files, map.file_bytes);
    let stored_bytes = map.object.iter().flatten().map(|chunk| chunk.len() as u64).sum();
    // Every backup has its own, among the paths of others: none can be shared.
    let summary = MapSummary { hash, first: None, files, file_bytes, stored_bytes };
    queue.map(map)?;
    Ok(TablespaceCopy { maps: vec![summary], live_bytes: live.by_pack(packs) })
}
