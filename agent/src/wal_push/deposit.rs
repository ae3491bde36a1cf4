//! Puts one file of `pg_wal` into the repository: proved, create-only, durable before anybody is told.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr::api::WalPushRequest;
use pitr::buffers::BufferPool;
use pitr::clock::Clock;
use pitr::postgres::{SegmentName, WalFileName};
use pitr::repository::hash::ContentHash;
use pitr::repository::wal_store::{PreparedWal, StoredSegment};
use pitr::repository::{self, WalStore};
use tokio::sync::{mpsc, watch};

use super::error::PushError;
use super::file_hashes::FileHashes;
use super::source_file::SourceFile;
use super::verify::{self, ClusterFacts, Refusal, Verdict};
use crate::archiver::ArchiveProgress;

/// How long a segment that the stream is about to store is left to it.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// More of them would be at a segment of 16 MiB for less than they take to begin.
const MAX_THREADS: usize = 4;

/// A segment that is durable, for whoever follows the WAL in archive mode.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub name: SegmentName,
    /// Where it was read just now.
    pub content: Option<Bytes>,
}

/// What a file is stored with. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Deposit {
    pub wal: WalStore,
    pub pg_wal: PathBuf,
    pub progress: ArchiveProgress,
    /// Whether we hold the lease: without it nothing is stored.
    pub may_store: watch::Receiver<bool>,
    /// Gets every segment in archive mode; none where the stream follows the WAL.
    pub arrivals: Option<mpsc::Sender<Arrival>>,
    files: FileHashes,
}

/// A file that is durable.
#[derive(Debug)]
pub(crate) struct Deposited {
    /// The same content was there already.
    pub found: bool,
    pub arrival: Option<Arrival>,
}

impl Deposited {
    const fn file(found: bool) -> Self {
        Self { found, arrival: None }
    }
}

impl Deposit {
    pub(crate) fn new(
        wal: &WalStore,
        pg_wal: PathBuf,
        progress: ArchiveProgress,
        may_store: watch::Receiver<bool>,
        arrivals: Option<mpsc::Sender<Arrival>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        // The server waits for each segment by itself.
        let wal = wal.clone().with_threads(cores.min(MAX_THREADS));
        Self { wal, pg_wal, progress, may_store, arrivals, files: FileHashes::new(clock) }
    }

    /// Hashes the server's file of a segment that the stream has stored, before anybody asks for it. False where that would
    /// help nobody.
    pub(super) async fn hash_ahead(&self, segment: SegmentName) -> bool {
        let (path, files) = (self.path(segment.to_string()), self.files.clone());
        let size = self.wal.lineage().lineage().wal_segment_size;
        let hashing = blocking(move || {
            let file = SourceFile::open(&path)?;
            let worth = file.bytes() == size.as_u64() && files.would_keep(&file)?;
            if worth {
                files.hash(segment, &file, size)?;
            }
            Ok(worth)
        });
        // Whoever asks for it is told what is wrong with it.
        hashing.await.unwrap_or(false)
    }

    /// Stores what a client asks for.
    ///
    /// # Errors
    /// It is not the file that it should be, other content is stored in its place, or the store fails.
    pub(super) async fn push(&self, request: &WalPushRequest) -> Result<Deposited, PushError> {
        let name: WalFileName = request.name.parse()?;
        let (request, pg_wal) = (request.clone(), self.pg_wal.clone());
        let file = blocking(move || SourceFile::of_request(&request, &pg_wal)).await?;
        self.store(name, file).await
    }

    /// Stores a file of the server's `pg_wal` that nobody pushes, although it should be stored.
    ///
    /// # Errors
    /// As [`Deposit::push`].
    pub(crate) async fn fetch(&self, name: SegmentName) -> Result<Deposited, PushError> {
        let path = self.pg_wal.join(name.to_string());
        let file = blocking(move || SourceFile::open(&path)).await?;
        self.store(WalFileName::Segment(name), file).await
    }

    async fn store(&self, name: WalFileName, file: SourceFile) -> Result<Deposited, PushError> {
        match name {
            WalFileName::Segment(segment) => self.store_segment(segment, file).await,
            WalFileName::History(tli) => {
                let content = self.read_text(&name, file).await?;
                verify::verify_history(tli, &content).map_err(|refusal| refused(&name, refusal))?;
                let prepared = self.wal.prepare_history(tli, &content);
                self.put(&name, prepared).await.map(Deposited::file)
            }
            WalFileName::BackupHistory { segment, .. } => {
                let content = self.read_text(&name, file).await?;
                verify::verify_backup_history(segment, &content).map_err(|refusal| refused(&name, refusal))?;
                let prepared = self.wal.prepare_archived_file(name, &content);
                self.put(&name, prepared).await.map(Deposited::file)
            }
            WalFileName::Partial(segment) => {
                let facts = self.facts().map_err(|refusal| refused(&name, refusal))?;
                facts.check_size(file.bytes()).map_err(|refusal| refused(&name, refusal))?;
                let content = self.read(Arc::new(file)).await?;
                facts.verify_partial(segment, &content).map_err(|refusal| refused(&name, refusal))?;
                let wal = self.wal.clone();
                let prepared = blocking(move || Ok(wal.prepare_archived_file(name, &content))).await?;
                self.put(&name, prepared).await.map(Deposited::file)
            }
        }
    }

    async fn store_segment(&self, segment: SegmentName, file: SourceFile) -> Result<Deposited, PushError> {
        let name = WalFileName::Segment(segment);
        let facts = self.facts().map_err(|refusal| refused(&name, refusal))?;
        facts.check_size(file.bytes()).map_err(|refusal| refused(&name, refusal))?;
        let (is_stored, comes) = (self.stored(segment).is_some(), self.comes(segment, facts));
        let file = Arc::new(file);
        if is_stored || comes {
            let (files, hashed) = (self.files.clone(), Arc::clone(&file));
            let hashing = blocking(move || files.hash(segment, &hashed, facts.segment_size));
            // What the stream does not get done in time is done here.
            let waiting = tokio::time::timeout(STREAM_PATIENCE, self.await_stream(segment, facts));
            let (found, _) = tokio::join!(hashing, waiting);
            if let Some(stored) = self.stored(segment) {
                return self.compare(segment, stored, found?);
            }
        }
        let content = self.read(file).await?;
        let (wal, bytes) = (self.wal.clone(), content.clone());
        let preparing = blocking(move || Ok(wal.prepare_segment(segment, facts.major, &bytes)));
        let (prepared, verified) = tokio::join!(preparing, self.verify(segment, facts, content.clone()));
        verified?;
        let prepared = prepared?;
        let hash = prepared.as_ref().ok().map(PreparedWal::plain_hash);
        let created = self.put(&name, prepared).await?;
        if let Some(hash) = hash {
            self.progress.record_stored(segment, hash);
        }
        let arrival = Some(Arrival { name: segment, content: Some(content) });
        Ok(Deposited { found: !created, arrival })
    }

    /// What we remember of a stored segment was durable when we noted it.
    fn compare(&self, segment: SegmentName, stored: ContentHash, found: ContentHash) -> Result<Deposited, PushError> {
        if stored == found {
            return Ok(Deposited { found: true, arrival: Some(Arrival { name: segment, content: None }) });
        }
        let key = self.wal.lineage().layout().segment(segment);
        let reason = format!("content with hash {stored} is stored, content with hash {found} was to be");
        Err(PushError::of_repository(&segment.to_string(), repository::Error::Conflict { key, reason }))
    }

    async fn verify(&self, segment: SegmentName, facts: ClusterFacts, content: Bytes) -> Result<(), PushError> {
        let name = WalFileName::Segment(segment);
        let refuse = move |refusal| refused(&name, refusal);
        let bytes = content.clone();
        match blocking(move || facts.verify(segment, &bytes).map_err(refuse)).await? {
            Verdict::Sound(_) => Ok(()),
            Verdict::AsksForPrevious(_) => {
                let before = segment.number(facts.segment_size).and_then(|number| number.as_u64().checked_sub(1));
                let before = before.ok_or_else(|| refuse(Refusal::ImpossibleName))?;
                let previous = pitr::postgres::SegmentNumber::new(before).name(segment.tli(), facts.segment_size);
                let bytes = self.previous(previous).await?;
                blocking(move || facts.verify_behind(previous, &bytes, &content).map_err(refuse)).await
            }
        }
    }

    /// The segment before, from the repository, else from the server.
    async fn previous(&self, name: SegmentName) -> Result<Bytes, PushError> {
        match self.wal.read_segment(name).await {
            Ok(Some(StoredSegment::Whole(bytes))) => return Ok(bytes),
            Ok(_) => {}
            Err(error) => return Err(PushError::of_repository(&name.to_string(), error)),
        }
        let path = self.pg_wal.join(name.to_string());
        let buffers = self.wal.contents().clone();
        blocking(move || SourceFile::open(&path)?.read(&buffers)).await
    }

    /// Hash of the content that is durable under this name.
    fn stored(&self, segment: SegmentName) -> Option<ContentHash> {
        self.progress.stored_segments().hash(segment)
    }

    /// Whether the stream is about to store this segment. Compressing it here too would only take its time.
    fn comes(&self, segment: SegmentName, facts: ClusterFacts) -> bool {
        let Some(number) = segment.number(facts.segment_size).filter(|_| self.arrivals.is_none()) else { return false };
        let (start, end) = (facts.segment_size.start_of(number), facts.segment_size.end_of(number));
        let now = self.progress.now();
        let at_it = now.received.is_some_and(|at| at.timeline == segment.tli() && at.lsn > start);
        let passed = now.sealed.is_some_and(|at| at.timeline != segment.tli() || at.lsn >= end);
        now.connected && !now.stalled && at_it && !passed
    }

    /// Until it is stored, or does not come after all.
    async fn await_stream(&self, segment: SegmentName, facts: ClusterFacts) {
        let mut changes = self.progress.subscribe();
        loop {
            changes.mark_unchanged();
            if self.stored(segment).is_some() || !self.comes(segment, facts) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn read(&self, file: Arc<SourceFile>) -> Result<Bytes, PushError> {
        let buffers = self.wal.contents().clone();
        blocking(move || file.read(&buffers)).await
    }

    async fn read_text(&self, name: &WalFileName, file: SourceFile) -> Result<Bytes, PushError> {
        verify::check_text_size(file.bytes()).map_err(|refusal| refused(name, refusal))?;
        blocking(move || file.read(&BufferPool::default())).await
    }

    /// True when it was not there before.
    async fn put(&self, name: &WalFileName, prepared: repository::Result<PreparedWal>) -> Result<bool, PushError> {
        let failed = |error| PushError::of_repository(&name.to_string(), error);
        let prepared = prepared.map_err(failed)?;
        if !*self.may_store.borrow() {
            return Err(PushError::NoLease);
        }
        self.wal.put(&prepared).await.map_err(failed)
    }

    fn facts(&self) -> Result<ClusterFacts, Refusal> {
        let lineage = self.wal.lineage().lineage();
        Ok(ClusterFacts {
            system_identifier: lineage.lineage.system_identifier(),
            major: lineage.postgres_version.major().ok_or(Refusal::Version)?,
            segment_size: lineage.wal_segment_size,
        })
    }

    /// The server's file of that name.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.pg_wal.join(name)
    }
}

fn refused(name: &WalFileName, source: Refusal) -> PushError {
    PushError::Refused { name: name.to_string(), source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PushError> + Send + 'static,
) -> Result<T, PushError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(PushError::Broken(error.to_string())),
    }
}
