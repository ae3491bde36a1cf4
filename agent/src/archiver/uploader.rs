//! Stores what the assembler hands over, a few at once, and says up to where everything is durable.
//!
//! A put that fails is tried again for as long as it takes: nothing is dropped, and nothing is sealed before all that stands
//! before it. Compressing is bounded by the cores there are, and putting by the bytes that wait for the store: a store far away
//! takes several segments at once, in the memory of one that was not compressed yet.
//!
//! What a whole segment or a folded tail makes superfluous is deleted after that is durable; what could not be
//! deleted is garbage beside its segment, never a lie.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::lease::WalPosition;
use pitr::repository::wal_store::{PreparedWal, Tail};
use pitr::repository::{self, WalStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::Instant;

use super::assembler::{Upload, UploadKind};
use super::backoff::Backoff;
use super::error::ArchiverError;
use super::problems::{Place, Problems};
use super::progress::ArchiveProgress;
use crate::error_text::in_full;

/// Uploads under way at once: enough to hide the latency of a store.
pub(super) const IN_FLIGHT: usize = 8;
/// Of those, so many are compressed at once at most: each holds its plain bytes.
const MAX_PREPARING: usize = 3;
/// Compressed bytes that may wait for the store; one upload may always.
const PUT_BYTES: u32 = 32 << 20;
/// After so long without an upload coming to its end they are said to be stalled.
const STALLED_AFTER: Duration = Duration::from_secs(5);
const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(super) struct Uploader {
    pub wal: WalStore,
    pub timeline: TimelineId,
    pub progress: ArchiveProgress,
    pub problems: Problems,
    /// A put that takes longer is taken for lost and tried again.
    pub put_timeout: Duration,
}

/// What bounds the memory of uploads.
struct Room {
    preparing: Arc<Semaphore>,
    bytes: Semaphore,
}

impl Room {
    fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            preparing: Arc::new(Semaphore::new(cores.clamp(2, MAX_PREPARING))),
            bytes: Semaphore::new(PUT_BYTES as usize),
        }
    }

    /// The next upload, once it may be prepared.
    async fn admit(&self, uploads: &mut mpsc::Receiver<Upload>) -> Option<(Upload, Option<OwnedSemaphorePermit>)> {
        // It is closed by nobody.
        let place = Arc::clone(&self.preparing).acquire_owned().await.ok();
        Some((uploads.recv().await?, place))
    }

    /// Waits until so many compressed bytes may be put.
    async fn put(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.bytes.acquire_many(u32::try_from(bytes).unwrap_or(PUT_BYTES).min(PUT_BYTES)).await.ok()
    }
}

/// What was stored.
struct Stored {
    end: Lsn,
    commit_time: Option<DateTime<Utc>>,
    superfluous: Vec<Tail>,
}

impl Uploader {
    /// Works until there is nothing more to come and everything is stored. `sealed` gets the end of what is durable.
    ///
    /// # Errors
    /// The repository holds other content in the place of what was to be stored.
    pub(super) async fn run(
        self,
        mut uploads: mpsc::Receiver<Upload>,
        sealed: watch::Sender<Lsn>,
    ) -> Result<(), ArchiverError> {
        let room = Room::new();
        let mut in_flight = FuturesOrdered::new();
        let mut superfluous: Vec<Tail> = Vec::new();
        let mut deletion = FuturesUnordered::new();
        let mut open = true;
        let mut since = Instant::now();
        loop {
            if deletion.is_empty() && !superfluous.is_empty() {
                deletion.push(delete_tails(&self.wal, std::mem::take(&mut superfluous), self.put_timeout));
            }
            let idle = in_flight.is_empty();
            tokio::select! {
                admitted = room.admit(&mut uploads), if open && in_flight.len() < IN_FLIGHT => match admitted {
                    Some((upload, place)) => {
                        if idle {
                            since = Instant::now();
                        }
                        in_flight.push_back(self.store(upload, place, &room));
                    }
                    None => open = false,
                },
                Some(stored) = in_flight.next(), if !idle => {
                    let stored = stored?;
                    since = Instant::now();
                    self.seal(&stored, &sealed);
                    superfluous.extend(stored.superfluous);
                }
                () = tokio::time::sleep_until(since + STALLED_AFTER), if !idle && !self.progress.now().stalled => {
                    self.progress.update(|progress| progress.stalled = true);
                    let text = format!("uploads do not get on for {} s", STALLED_AFTER.as_secs());
                    tracing::warn!("{text}");
                }
                Some(()) = deletion.next(), if !deletion.is_empty() => {}
                else => return Ok(()),
            }
        }
    }

    fn seal(&self, stored: &Stored, sealed: &watch::Sender<Lsn>) {
        sealed.send_replace(stored.end);
        self.problems.clear(Place::Upload);
        let position = WalPosition { timeline: self.timeline, lsn: stored.end };
        self.progress.update(|progress| {
            progress.sealed = Some(position);
            progress.stalled = false;
            if stored.commit_time.is_some() {
                progress.sealed_commit_time = stored.commit_time;
            }
        });
    }

    async fn store(
        &self,
        upload: Upload,
        place: Option<OwnedSemaphorePermit>,
        room: &Room,
    ) -> Result<Stored, ArchiverError> {
        // The turn goes when what it was for is stored.
        let Upload { what, end, commit_time, turn: _turn } = upload;
        let segment = match &what {
            UploadKind::Segment(whole) => Some(whole.name),
            UploadKind::Tail(_) => None,
        };
        let (prepared, superfluous) = self.prepare(what).await?;
        let _bytes = room.put(prepared.stored_bytes()).await;
        drop(place);
        store_for_sure(&self.wal, &prepared, self.put_timeout, &self.problems).await?;
        if let Some(segment) = segment {
            self.progress.record_stored(segment, prepared.plain_hash());
        }
        Ok(Stored { end, commit_time, superfluous })
    }

    /// Hashes and compresses; the plain bytes are gone afterwards.
    async fn prepare(&self, what: UploadKind) -> Result<(PreparedWal, Vec<Tail>), ArchiverError> {
        let wal = self.wal.clone();
        let prepare = move || -> Result<_, repository::Error> {
            Ok(match what {
                UploadKind::Tail(part) => (wal.prepare_tail(part.tail, &part.content)?, part.replaces),
                UploadKind::Segment(whole) => {
                    (wal.prepare_segment(whole.name, whole.facts.major, &whole.content)?, whole.tails)
                }
            })
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        prepared.map_err(|error| ArchiverError::Broken(error.to_string()))?.map_err(ArchiverError::from)
    }
}

/// Puts the object, again and again until it is there.
///
/// # Errors
/// Other content is there already.
pub(super) async fn store_for_sure(
    wal: &WalStore,
    prepared: &PreparedWal,
    timeout: Duration,
    problems: &Problems,
) -> Result<(), ArchiverError> {
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
    let mut attempts = 1_u32;
    loop {
        let text = match tokio::time::timeout(timeout, wal.put(prepared)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error @ repository::Error::Conflict { .. })) => return Err(ArchiverError::Conflict(error)),
            Ok(Err(error)) => in_full(&error),
            Err(_) => format!("could not put \"{}\": no answer within {} s", prepared.key(), timeout.as_secs()),
        };
        tracing::warn!(key = %prepared.key(), attempts, error = %text, "WAL could not be stored yet; it is tried again");
        problems.set(Place::Upload, Some(text));
        attempts = attempts.saturating_add(1);
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Removes tails that nothing needs. A failure is left to the next start of the agent.
pub(super) async fn delete_tails(wal: &WalStore, tails: Vec<Tail>, timeout: Duration) {
    let text = match tokio::time::timeout(timeout, wal.delete_tails(&tails)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => in_full(&error),
        Err(_) => format!("no answer within {} s", timeout.as_secs()),
    };
    tracing::warn!(tails = tails.len(), error = %text, "tails that are not needed could not be deleted");
}
