//! WAL of one lineage: segments, tails and history files, put and read back.
//!
//! Nothing that stands is ever replaced. A put of what is there already succeeds when the content is the same and is
//! [`Error::Conflict`] when it is not: two servers, or one that lost what it had written, then claim the same place in
//! history. A read never delivers bytes whose hash is not the one in the object's header.
//!
//! At most one segment and its compressed form are in memory for each call. Hashing and zstd run on blocking threads; what
//! they work in is kept for the next call ([`WalStore::forget_unused_buffers`]).

use bytes::Bytes;

use super::document::Document;
use super::envelope;
use super::error::{Error, Result};
use super::hash::ContentHash;
use super::layout::LineageLayout;
use super::store::LineageStore;
use super::wal_object::{ArchivedFileHeader, HistoryHeader, SegmentHeader, TailHeader};
use crate::buffers::{BufferPool, PooledBuffer};
use crate::codec::{self, Compressor};
use crate::postgres::{Lsn, MajorVersion, SegmentName, TimelineId, WalFileName};
use crate::storage::{ByteRange, ErrorKind, ObjectKey, ObjectStoreExt, Payload, PutMode};

mod reading;
#[cfg(test)]
mod tests;

pub use reading::{StoredSegment, WalLog};

/// A history file has a line for each ancestor; no cluster has so many.
const MAX_HISTORY_BYTES: u64 = 16 << 20;
/// zstd gains 12 % more at level 3 for three times the work.
const DEFAULT_LEVEL: i32 = 1;
/// Content from this size on is worth a buffer that is kept, and threads.
const LARGE_BYTES: usize = 1 << 20;
/// Where the header of an object of ours ends, at the latest, in nearly all cases.
const HEADER_GUESS_BYTES: u64 = 4096;

/// A part of an open segment that stands as an object of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tail {
    pub segment: SegmentName,
    pub from: Lsn,
    pub to: Lsn,
}

/// An object of WAL, compressed and ready to be put, as often as it takes.
#[derive(Clone, Debug)]
pub struct PreparedWal {
    key: ObjectKey,
    object: Bytes,
    plain_bytes: u64,
    plain_hash: ContentHash,
    kind: WalKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalKind {
    Segment,
    Tail,
    History,
    ArchivedFile,
}

impl PreparedWal {
    #[must_use]
    pub const fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Size of the object.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.object.len() as u64
    }

    #[must_use]
    pub const fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Hash of the plain content.
    #[must_use]
    pub const fn plain_hash(&self) -> ContentHash {
        self.plain_hash
    }
}

/// The WAL of a lineage.
#[derive(Clone, Debug)]
pub struct WalStore {
    lineage: LineageStore,
    level: i32,
    threads: usize,
    /// For plain content, all of it written.
    contents: BufferPool,
    /// For compressed content: larger, and seldom filled.
    compressed: BufferPool,
}

impl WalStore {
    #[must_use]
    pub fn new(lineage: LineageStore) -> Self {
        let (contents, compressed) = (BufferPool::default(), BufferPool::default());
        Self { lineage, level: DEFAULT_LEVEL, threads: 1, contents, compressed }
    }

    /// Compresses what is put from now on by another level of zstd.
    #[must_use]
    pub const fn with_compression_level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// Hashes and compresses a segment with so many threads at once: for whoever waits for a single one. Its content stands
    /// in as many frames then.
    #[must_use]
    pub const fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Where segments are best held that are to be prepared.
    #[must_use]
    pub const fn contents(&self) -> &BufferPool {
        &self.contents
    }

    /// Gives back to the system what was not used since this was last called.
    pub fn forget_unused_buffers(&self) {
        self.contents.forget_unused();
        self.compressed.forget_unused();
    }

    #[must_use]
    pub const fn lineage(&self) -> &LineageStore {
        &self.lineage
    }

    fn layout(&self) -> &LineageLayout {
        self.lineage.layout()
    }

    /// A whole segment, validated by the caller. Blocks: hashes and compresses.
    ///
    /// # Errors
    /// The content has not the size of a segment, or the name does not exist with that size.
    pub fn prepare_segment(&self, name: SegmentName, major: MajorVersion, content: &[u8]) -> Result<PreparedWal> {
        let key = self.layout().segment(name);
        let size = self.lineage.lineage().wal_segment_size;
        let Some(number) = name.number(size).filter(|_| content.len() as u64 == size.as_u64()) else {
            let reason = format!("{} bytes are no segment of {} bytes", content.len(), size.as_u64());
            return Err(Error::Corrupt { key, reason });
        };
        let header = |blake3| SegmentHeader {
            system_identifier: self.lineage.lineage().lineage.system_identifier(),
            timeline: name.tli(),
            segment: name.to_string(),
            start_lsn: size.start_of(number),
            wal_segment_size: size,
            postgres_major: major.as_u16(),
            bytes: content.len() as u64,
            blake3,
        };
        self.prepare(key, WalKind::Segment, header, content)
    }

    /// A part of a segment that is still open. Blocks: hashes and compresses.
    ///
    /// # Errors
    /// The range is not within the segment, or has not the size of the content.
    pub fn prepare_tail(&self, tail: Tail, content: &[u8]) -> Result<PreparedWal> {
        let key = self.layout().tail(tail.segment, tail.from, tail.to);
        if !self.is_tail(tail) || tail.to.distance_from(tail.from) != Some(content.len() as u64) {
            let reason = format!("{} bytes are not this part of the segment", content.len());
            return Err(Error::Corrupt { key, reason });
        }
        let header = |blake3| TailHeader {
            system_identifier: self.lineage.lineage().lineage.system_identifier(),
            timeline: tail.segment.tli(),
            segment: tail.segment.to_string(),
            wal_segment_size: self.lineage.lineage().wal_segment_size,
            from_lsn: tail.from,
            to_lsn: tail.to,
            bytes: content.len() as u64,
            blake3,
        };
        self.prepare(key, WalKind::Tail, header, content)
    }

    /// The history file of a timeline, as the server has it. Blocks.
    ///
    /// # Errors
    /// zstd's own, which small buffers do not provoke.
    pub fn prepare_history(&self, tli: TimelineId, content: &[u8]) -> Result<PreparedWal> {
        let header = |blake3| HistoryHeader {
            system_identifier: self.lineage.lineage().lineage.system_identifier(),
            timeline: tli,
            bytes: content.len() as u64,
            blake3,
        };
        self.prepare(self.layout().history(tli), WalKind::History, header, content)
    }

    /// A backup history file or a partial segment, as the server archives it. Blocks.
    ///
    /// # Errors
    /// zstd's own, which buffers of this size do not provoke.
    pub fn prepare_archived_file(&self, name: WalFileName, content: &[u8]) -> Result<PreparedWal> {
        let timeline = match name {
            WalFileName::History(tli) => tli,
            WalFileName::Segment(segment)
            | WalFileName::BackupHistory { segment, .. }
            | WalFileName::Partial(segment) => segment.tli(),
        };
        let header = |blake3| ArchivedFileHeader {
            system_identifier: self.lineage.lineage().lineage.system_identifier(),
            timeline,
            file: name.to_string(),
            bytes: content.len() as u64,
            blake3,
        };
        self.prepare(self.layout().wal_file(name), WalKind::ArchivedFile, header, content)
    }

    fn prepare<T: Document>(
        &self,
        key: ObjectKey,
        kind: WalKind,
        header: impl FnOnce(ContentHash) -> T,
        content: &[u8],
    ) -> Result<PreparedWal> {
        let prepared = if self.threads > 1 && content.len() >= LARGE_BYTES {
            self.press_at_once(content)
        } else {
            self.press(content).map(|frame| (ContentHash::of(content), vec![frame]))
        };
        let (plain_hash, frames) = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => return Err(Error::Corrupt { key, reason }),
        };
        let mut object = envelope::header(&header(plain_hash));
        object.reserve_exact(frames.iter().map(|frame| frame.len()).sum());
        frames.iter().for_each(|frame| object.extend_from_slice(frame));
        Ok(PreparedWal { key, object: object.into(), plain_bytes: content.len() as u64, plain_hash, kind })
    }

    /// One frame.
    fn press(&self, content: &[u8]) -> std::result::Result<PooledBuffer, String> {
        let mut frame = if content.len() < LARGE_BYTES {
            BufferPool::default().take(0)
        } else {
            self.compressed.take(codec::frame_bound(content.len()))
        };
        let compressed = Compressor::new(self.level).and_then(|mut zstd| zstd.append(content, &mut frame));
        compressed.map(|_| frame).map_err(|error| error.to_string())
    }

    /// The hash, and a frame by each thread.
    fn press_at_once(&self, content: &[u8]) -> std::result::Result<(ContentHash, Vec<PooledBuffer>), String> {
        let crashed = |_| "a thread that compresses crashed".to_owned();
        std::thread::scope(|scope| {
            let pieces = content.chunks(content.len().div_ceil(self.threads));
            let pressing: Vec<_> = pieces.map(|piece| scope.spawn(|| self.press(piece))).collect();
            let hash = ContentHash::of(content);
            let frames = pressing.into_iter().map(|thread| thread.join().map_err(crashed).flatten());
            Ok((hash, frames.collect::<std::result::Result<_, _>>()?))
        })
    }

    /// Stores the object; durable when this returns. True when it was not there before.
    ///
    /// # Errors
    /// [`Error::Conflict`] where other content has its place; the store fails.
    pub async fn put(&self, prepared: &PreparedWal) -> Result<bool> {
        let payload = Payload::from(prepared.object.clone());
        match self.lineage.store().put(&prepared.key, payload, PutMode::CreateNew).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.compare(prepared).await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Proves that what stands in place of `prepared` has the same content, by its header first.
    async fn compare(&self, prepared: &PreparedWal) -> Result<()> {
        let stored = self.stored_identity(prepared).await?;
        if stored != (prepared.plain_bytes, prepared.plain_hash) {
            let reason = format!(
                "{} bytes with hash {} are stored, {} bytes with hash {} were to be",
                stored.0, stored.1, prepared.plain_bytes, prepared.plain_hash
            );
            return Err(Error::Conflict { key: prepared.key.clone(), reason });
        }
        // A right header says nothing of what stands behind it.
        let limit = self.object_limit(prepared.plain_bytes);
        let object = self.lineage.store().get_bytes(&prepared.key, limit).await?;
        let (key, size, hash) = (prepared.key.clone(), prepared.plain_bytes, prepared.plain_hash);
        blocking(move || {
            let frames = envelope::header_bytes(&object).ok().and_then(|length| object.get(length..));
            check_content(&key, frames.unwrap_or_default(), size, hash).map(|_| ())
        })
        .await
    }

    async fn stored_identity(&self, prepared: &PreparedWal) -> Result<(u64, ContentHash)> {
        let key = &prepared.key;
        let store = self.lineage.store();
        let size = store.head(key).await?.size_bytes;
        let damaged = |source| Error::Envelope { key: key.clone(), source };
        let read = async |bytes: u64| match ByteRange::new(0, bytes.min(size)) {
            Some(range) => store.get_range(key, range).await.map_err(Error::from),
            None => Ok(Bytes::new()),
        };
        let mut head = read(HEADER_GUESS_BYTES).await?;
        let length = envelope::header_bytes(&head).map_err(damaged)?;
        if length > head.len() {
            head = read(length as u64).await?;
        }
        match prepared.kind {
            WalKind::Segment => envelope::open::<SegmentHeader>(&head).map(|(h, _)| (h.bytes, h.blake3)),
            WalKind::Tail => envelope::open::<TailHeader>(&head).map(|(h, _)| (h.bytes, h.blake3)),
            WalKind::History => envelope::open::<HistoryHeader>(&head).map(|(h, _)| (h.bytes, h.blake3)),
            WalKind::ArchivedFile => envelope::open::<ArchivedFileHeader>(&head).map(|(h, _)| (h.bytes, h.blake3)),
        }
        .map_err(damaged)
    }

    /// Removes tails, after what covers them is durable.
    ///
    /// # Errors
    /// The store fails; some may then be gone.
    pub async fn delete_tails(&self, tails: &[Tail]) -> Result<()> {
        if tails.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = tails.iter().map(|tail| self.layout().tail(tail.segment, tail.from, tail.to)).collect();
        Ok(self.lineage.store().delete(&keys).await?)
    }

    /// No object of `plain_bytes` content is larger.
    fn object_limit(&self, plain_bytes: u64) -> u64 {
        plain_bytes.saturating_add(plain_bytes / 64).saturating_add(envelope::MAX_HEADER_BYTES as u64 + (64 << 10))
    }

    fn is_tail(&self, tail: Tail) -> bool {
        let size = self.lineage.lineage().wal_segment_size;
        tail.segment.number(size).is_some_and(|number| {
            size.start_of(number) <= tail.from && tail.from < tail.to && tail.to <= size.end_of(number)
        })
    }
}

/// The content of zstd frames, if it is what a header promised.
fn check_content(key: &ObjectKey, frames: &[u8], bytes: u64, hash: ContentHash) -> Result<Vec<u8>> {
    let corrupt = |reason: String| Error::Corrupt { key: key.clone(), reason };
    let content = codec::decompress(frames, bytes).map_err(|error| corrupt(error.to_string()))?;
    if content.len() as u64 != bytes {
        return Err(corrupt(format!("it holds {} bytes, its header says {bytes}", content.len())));
    }
    if ContentHash::of(&content) != hash {
        return Err(corrupt("its content has not the hash in its header".to_owned()));
    }
    Ok(content)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down refuses the work.
            Err(_) => Err(crate::storage::Error::new(
                ErrorKind::Cancelled,
                crate::storage::Operation::Get,
                "wal",
                "the runtime is shutting down",
            )
            .into()),
        },
    }
}
