//! What the decoder found on the way, for those who store it beside the WAL.
//!
//! Telling never waits: neither the stream nor the uploads depend on what becomes of a finding. What there is no room for is
//! lost here and found again in the stored WAL; a segment of which something was lost gets no summary on this way.

use std::sync::{Arc, Mutex, PoisonError};

use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::FoundRestorePoint;
use pitr::repository::lease::WalPosition;
use pitr::wal_summary::WalSummary;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// Findings that may wait.
const WAITING: usize = 1024;
/// Summaries among them: each takes up to some hundred KiB of memory.
const WAITING_SUMMARIES: usize = 8;

/// Something that was found in WAL that is not sealed yet.
#[derive(Debug)]
pub enum Finding {
    RestorePoint(FoundRestorePoint),
    /// The summary of a segment; all its restore points were told before.
    Summary(Box<WalSummary>, OwnedSemaphorePermit),
}

/// The door for the archiver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Findings {
    sender: Option<mpsc::Sender<Finding>>,
    summaries: Arc<Semaphore>,
    /// The last finding that was lost.
    lost: Arc<Mutex<Option<WalPosition>>>,
    /// Where the stream that is being read began.
    begun: Arc<Mutex<Option<WalPosition>>>,
    another_timeline: Arc<Notify>,
}

impl Findings {
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Finding>) {
        let (sender, findings) = mpsc::channel(WAITING);
        (Self { sender: Some(sender), ..Self::nobody() }, findings)
    }

    /// For an archiver whose findings nobody wants.
    #[must_use]
    pub fn nobody() -> Self {
        let summaries = Arc::new(Semaphore::new(WAITING_SUMMARIES));
        Self { sender: None, summaries, lost: Arc::default(), begun: Arc::default(), another_timeline: Arc::default() }
    }

    /// From here on everything that is received is told, but for what is lost.
    pub fn begin(&self, at: WalPosition) {
        let before = self.begun.lock().unwrap_or_else(PoisonError::into_inner).replace(at);
        if before.is_none_or(|before| before.timeline != at.timeline) {
            self.another_timeline.notify_one();
        }
    }

    /// Resolves when a stream of another timeline than before has begun, or the first one.
    pub async fn timeline_begun(&self) {
        self.another_timeline.notified().await;
    }

    #[must_use]
    pub fn begun(&self) -> Option<WalPosition> {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn restore_point(&self, point: FoundRestorePoint) {
        let (timeline, lsn) = (point.timeline, point.lsn);
        if !self.tell(Finding::RestorePoint(point)) {
            *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(WalPosition { timeline, lsn });
        }
    }

    pub(super) fn summary(&self, summary: Box<WalSummary>) {
        if self.has_lost(summary.timeline, summary.from, summary.to) {
            return;
        }
        let (timeline, from) = (summary.timeline, summary.from);
        let told = match Arc::clone(&self.summaries).try_acquire_owned() {
            Ok(room) => self.tell(Finding::Summary(summary, room)),
            Err(_) => false,
        };
        if !told {
            tracing::debug!(%timeline, %from, "a WAL summary is left to be built later");
        }
    }

    fn has_lost(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> bool {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.timeline == timeline && from <= lost.lsn && lost.lsn < to)
    }

    fn tell(&self, finding: Finding) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.try_send(finding).is_ok())
    }
}
