//! From contiguous bytes to what is stored: tails of the open segment, and whole segments.
//!
//! Chunks come through a bounded queue; work goes out through another, of one place. While that is taken, the open segment
//! just grows and the next tail holds more; only a segment that is complete waits for its turn, and then nothing is taken
//! from the queue. Where commits wait, new bytes are handed over at once, but no tail while another one is on its way: whatever
//! comes meanwhile goes together into the next, so that the store's latency bounds how many there are. A chunk (at most 128 KiB) is checked and decoded in well under a millisecond, so it is done in place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use pitr::buffers::BufferPool;
use pitr::postgres::{Lsn, SegmentNumber};
use pitr::wal_summary::WalSummary;
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::ArchiverError;
use super::findings::Findings;
use super::open_segment::{OpenSegment, StoredPart, StreamFacts, TailPart, WholeSegment};
use super::problems::{Place, Problems};
use super::progress::{ArchiveProgress, Landmark};
use super::record_scan::{Listener, RecordScan};

/// How long a request for a flush goes on to count. The server sends a record that nobody committed only when its WAL
/// writer has come by, within three times `wal_writer_delay`.
const HURRY: Duration = Duration::from_millis(700);

/// Tails on their way at once where commits wait for them.
const TAILS_AT_ONCE: usize = 1;

/// WAL as it came.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub start: Lsn,
    pub bytes: Bytes,
}

/// When new bytes of the open segment become a tail.
#[derive(Clone, Debug)]
pub(super) enum Pace {
    /// So long after they came.
    Every(Duration),
    /// As soon as one of these is free: each tail that is on its way has one.
    AtOnce(Arc<Semaphore>),
}

impl Pace {
    pub(super) fn at_once() -> Self {
        Self::AtOnce(Arc::new(Semaphore::new(TAILS_AT_ONCE)))
    }
}

/// Something to be stored; together, in order, without a hole.
#[derive(Debug)]
pub(super) struct Upload {
    pub what: UploadKind,
    /// Where it ends.
    pub end: Lsn,
    /// Time of the last commit or abort before its end.
    pub commit_time: Option<DateTime<Utc>>,
    /// Given back when it is stored.
    pub turn: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) enum UploadKind {
    Tail(TailPart),
    Segment(WholeSegment),
}

#[derive(Debug)]
pub(super) struct Assembler {
    pub facts: StreamFacts,
    pub progress: ArchiveProgress,
    pub problems: Problems,
    pub pace: Pace,
    pub findings: Findings,
    /// Where segments are put together.
    pub buffers: BufferPool,
}

/// Tells those who wait for records, and those who keep what is found.
#[derive(Clone, Debug)]
pub(super) struct Heralds {
    pub progress: ArchiveProgress,
    pub findings: Findings,
}

impl Listener for Heralds {
    fn landmark(&mut self, landmark: Landmark) {
        if let Some(point) = landmark.restore_point() {
            self.findings.restore_point(point);
        }
        self.progress.record_landmark(landmark);
    }

    fn summary(&mut self, summary: Box<WalSummary>) {
        self.findings.summary(summary);
    }
}

impl Assembler {
    /// Works until the queue ends, and hands over what is left then. `first` is the segment that the stream starts with,
    /// and `scan` has read what comes before it.
    ///
    /// # Errors
    /// The bytes are not what they must be. Nothing of the chunk in question was handed over.
    pub(super) async fn run(
        self,
        scan: RecordScan,
        first: SegmentNumber,
        stored: StoredPart,
        mut chunks: mpsc::Receiver<Chunk>,
        uploads: mpsc::Sender<Upload>,
    ) -> Result<(), ArchiverError> {
        let mut state = State {
            segment: OpenSegment::new(self.facts, first, stored, &self.buffers),
            number: first,
            scan,
            heralds: Heralds { progress: self.progress.clone(), findings: self.findings.clone() },
            flush_at: None,
            hurry_until: None,
            assembler: &self,
        };
        loop {
            let flush_at = state.flush_at;
            tokio::select! {
                chunk = chunks.recv() => match chunk {
                    Some(chunk) => state.take(&chunk, &uploads).await?,
                    None => break,
                },
                () = self.progress.flush_requested() => state.flush_soon(),
                place = due(flush_at, &self.pace, &uploads), if flush_at.is_some() => {
                    let Some((place, turn)) = place else { break };
                    state.hand_over_tail(place, turn);
                }
            }
        }
        if let Ok(place) = uploads.reserve().await {
            state.hand_over_tail(place, None);
        }
        Ok(())
    }
}

/// Waits for the moment, then for room; none when nobody takes uploads any more.
async fn due<'a>(
    at: Option<Instant>,
    pace: &Pace,
    uploads: &'a mpsc::Sender<Upload>,
) -> Option<(Permit<'a, Upload>, Option<OwnedSemaphorePermit>)> {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
    let turn = match pace {
        Pace::Every(_) => None,
        Pace::AtOnce(turns) => Some(Arc::clone(turns).acquire_owned().await.ok()?),
    };
    Some((uploads.reserve().await.ok()?, turn))
}

struct State<'a> {
    assembler: &'a Assembler,
    number: SegmentNumber,
    segment: OpenSegment,
    scan: RecordScan,
    heralds: Heralds,
    /// When the bytes that no tail holds are to become one.
    flush_at: Option<Instant>,
    /// Until then somebody waits for bytes that are about to come.
    hurry_until: Option<Instant>,
}

impl State<'_> {
    async fn take(&mut self, chunk: &Chunk, uploads: &mpsc::Sender<Upload>) -> Result<(), ArchiverError> {
        let expected = self.segment.position();
        if chunk.start != expected {
            return Err(ArchiverError::Broken(format!("WAL from {} where {expected} was to come", chunk.start)));
        }
        let mut rest: &[u8] = &chunk.bytes;
        while !rest.is_empty() {
            let start = self.segment.position();
            let taken = self.segment.feed(rest)?;
            let (piece, after) = rest.split_at_checked(taken).unwrap_or((rest, &[]));
            self.scan(start, piece);
            rest = after;
            if self.segment.is_complete() && self.complete(uploads).await?.is_none() {
                return Ok(());
            }
        }
        if !self.segment.has_news() {
            self.tell_commit_time();
        } else {
            let now = Instant::now();
            let hurry = self.hurry_until.is_some_and(|until| now <= until);
            let due = match self.assembler.pace {
                Pace::Every(interval) if !hurry => now + interval,
                Pace::Every(_) | Pace::AtOnce(_) => now,
            };
            self.flush_at = Some(self.flush_at.map_or(due, |at| at.min(due)));
        }
        Ok(())
    }

    /// All that was read so far was sealed before this connection.
    fn tell_commit_time(&self) {
        let time = self.scan.commit_time();
        let known = self.assembler.progress.now().sealed_commit_time;
        if time > known {
            self.assembler.progress.update(|progress| progress.sealed_commit_time = time);
        }
    }

    fn scan(&mut self, start: Lsn, bytes: &[u8]) {
        if let Err(error) = self.scan.feed(start, bytes, &mut self.heralds) {
            tracing::warn!(%error, "WAL from the server cannot be decoded; it is stored as it is");
            let text = format!("WAL from the server cannot be decoded: {error}");
            self.assembler.problems.set(Place::Archive, Some(text));
        }
    }

    /// Hands over the whole segment and begins the next one; none when nobody takes uploads any more.
    async fn complete(&mut self, uploads: &mpsc::Sender<Upload>) -> Result<Option<()>, ArchiverError> {
        let facts = self.assembler.facts;
        let start = facts.segment_size.start_of(self.number);
        self.number = self.number.next();
        let next = OpenSegment::new(facts, self.number, StoredPart::default(), &self.assembler.buffers);
        let whole = std::mem::replace(&mut self.segment, next).finish()?;
        if whole.facts.zero_from.is_some() && self.scan.explains_zeros(start) == Some(false) {
            return Err(ArchiverError::UnexplainedZeros { segment: whole.name });
        }
        self.flush_at = None;
        let end = whole.end;
        let upload = Upload { what: UploadKind::Segment(whole), end, commit_time: self.scan.commit_time(), turn: None };
        Ok(uploads.send(upload).await.ok())
    }

    /// Somebody waits. Where the bytes in question have not arrived yet, they are handed over as soon as they do.
    fn flush_soon(&mut self) {
        let now = Instant::now();
        self.hurry_until = Some(now + HURRY);
        if self.segment.has_news() {
            self.flush_at = Some(now);
        }
    }

    fn hand_over_tail(&mut self, place: Permit<'_, Upload>, turn: Option<OwnedSemaphorePermit>) {
        self.flush_at = None;
        if let Some(part) = self.segment.next_tail() {
            let end = part.tail.to;
            place.send(Upload { what: UploadKind::Tail(part), end, commit_time: self.scan.commit_time(), turn });
        }
    }
}
