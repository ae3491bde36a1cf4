//! How far archiving is: the one place where the rest of the agent learns what is sealed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr::postgres::{Lsn, SegmentName, TimelineId};
use pitr::repository::hash::ContentHash;
use pitr::repository::lease::WalPosition;
use tokio::sync::{Notify, watch};

use super::stored_segments::StoredSegments;
use crate::postgres::Endpoint;

/// How many landmarks are remembered; whoever waits for one asks within seconds of its record.
const LANDMARKS: usize = 4096;

/// A record that somebody may be waiting for, as the decoder saw it on its way to the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landmark {
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
    pub end_lsn: Lsn,
    pub kind: LandmarkKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LandmarkKind {
    RestorePoint {
        name: String,
        time: DateTime<Utc>,
    },
    /// `XLOG_BACKUP_END` of the backup that started at this LSN.
    BackupEnd {
        start_lsn: Lsn,
    },
}

/// What is known of the stream at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Up to where the server has flushed WAL.
    pub server: Option<WalPosition>,
    pub received: Option<WalPosition>,
    /// Up to where every byte is durable in the repository.
    pub sealed: Option<WalPosition>,
    /// Time of the newest commit or abort up to `sealed`.
    pub sealed_commit_time: Option<DateTime<Utc>>,
    pub connected: bool,
    /// Nothing is streamed: the server's `archive_command` hands the WAL over.
    pub pushed: bool,
    /// The server that the WAL comes from, where the connection string names several.
    pub endpoint: Option<Endpoint>,
    /// Uploads do not get on.
    pub stalled: bool,
    /// Why the stream or the uploads do not get on, while they do not.
    pub problem: Option<String>,
    /// Why markers or summaries of what is sealed do not get on, while they do not.
    pub findings_problem: Option<String>,
}

/// Waiting was in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    #[error("not sealed in time")]
    TimedOut,
    #[error("the agent is stopping")]
    Stopping,
}

/// Shared by the archiver, which writes it, and all who wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ArchiveProgress {
    progress: watch::Sender<Progress>,
    landmarks: Arc<Mutex<VecDeque<Landmark>>>,
    flush: Arc<Notify>,
    stored: StoredSegments,
    wanted: watch::Sender<Lsn>,
}

impl Default for ArchiveProgress {
    fn default() -> Self {
        Self {
            progress: watch::Sender::new(Progress::default()),
            landmarks: Arc::default(),
            flush: Arc::new(Notify::new()),
            stored: StoredSegments::default(),
            wanted: watch::Sender::new(Lsn::INVALID),
        }
    }
}

impl ArchiveProgress {
    #[must_use]
    pub fn now(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// For the archiver only.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    /// For the archiver only: called when the decoder has passed the record, before it is sealed. After a broken connection
    /// it passes some again.
    pub fn record_landmark(&self, landmark: Landmark) {
        {
            let mut landmarks = self.landmarks.lock().unwrap_or_else(PoisonError::into_inner);
            if landmarks.contains(&landmark) {
                return;
            }
            if landmarks.len() == LANDMARKS {
                landmarks.pop_front();
            }
            landmarks.push_back(landmark);
        }
        self.progress.send_modify(|_| ());
    }

    /// The landmark whose record ends at `end_lsn`, if the decoder has passed it.
    #[must_use]
    pub fn landmark(&self, end_lsn: Lsn) -> Option<Landmark> {
        let landmarks = self.landmarks.lock().unwrap_or_else(PoisonError::into_inner);
        landmarks.iter().rev().find(|landmark| landmark.end_lsn == end_lsn).cloned()
    }

    /// Asks the archiver to upload what it holds without waiting for `flush_interval`.
    pub fn request_flush(&self) {
        self.flush.notify_one();
    }

    /// For the archiver only: resolves when somebody asked for a flush.
    pub async fn flush_requested(&self) {
        self.flush.notified().await;
    }

    /// The segments of which we know that they are durable.
    #[must_use]
    pub fn stored_segments(&self) -> &StoredSegments {
        &self.stored
    }

    /// For those who store: a whole segment is durable.
    pub fn record_stored(&self, segment: SegmentName, hash: ContentHash) {
        self.stored.insert(segment, hash);
        self.progress.send_modify(|_| ());
    }

    /// The furthest position that anybody waits, or has waited, for.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Lsn> {
        self.wanted.subscribe()
    }

    fn want(&self, lsn: Lsn) {
        self.wanted.send_if_modified(|wanted| {
            let further = lsn > *wanted;
            *wanted = lsn.max(*wanted);
            further
        });
    }

    /// Waits for the landmark whose record ends at `end_lsn`.
    ///
    /// # Errors
    /// The decoder did not come by in time.
    pub async fn wait_landmark(&self, end_lsn: Lsn, timeout: Duration) -> Result<Landmark, WaitError> {
        self.want(end_lsn);
        let mut changes = self.progress.subscribe();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(landmark) = self.landmark(end_lsn) {
                    return Ok(landmark);
                }
                changes.changed().await.map_err(|_| WaitError::Stopping)?;
            }
        };
        tokio::time::timeout(timeout, found).await.unwrap_or(Err(WaitError::TimedOut))
    }

    /// Waits until everything before `lsn` is sealed, whatever the timeline that got there.
    ///
    /// # Errors
    /// It was not sealed in time.
    pub async fn wait_sealed(&self, lsn: Lsn, timeout: Duration) -> Result<WalPosition, WaitError> {
        self.want(lsn);
        let mut changes = self.progress.subscribe();
        let sealed = async {
            loop {
                if let Some(sealed) = changes.borrow_and_update().sealed
                    && sealed.lsn >= lsn
                {
                    return Ok(sealed);
                }
                changes.changed().await.map_err(|_| WaitError::Stopping)?;
            }
        };
        tokio::time::timeout(timeout, sealed).await.unwrap_or(Err(WaitError::TimedOut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wakes_whoever_waits_for_a_position() {
        let progress = ArchiveProgress::default();
        let waiter = {
            let progress = progress.clone();
            async move { progress.wait_sealed(Lsn::new(100), Duration::from_secs(5)).await }
        };
        let advance = async {
            for lsn in [50, 100] {
                let sealed = WalPosition { timeline: TimelineId::FIRST, lsn: Lsn::new(lsn) };
                progress.update(|p| p.sealed = Some(sealed));
                tokio::task::yield_now().await;
            }
        };
        let (waited, ()) = tokio::join!(waiter, advance);
        assert_eq!(waited.map(|sealed| sealed.lsn), Ok(Lsn::new(100)));
        let late = progress.wait_sealed(Lsn::new(101), Duration::from_secs(5)).await;
        assert_eq!(late, Err(WaitError::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn finds_a_landmark_by_the_end_of_its_record() {
        let progress = ArchiveProgress::default();
        let landmark = Landmark {
            timeline: TimelineId::FIRST,
            start_lsn: Lsn::new(0x28),
            end_lsn: Lsn::new(0x90),
            kind: LandmarkKind::BackupEnd { start_lsn: Lsn::new(0x8) },
        };
        progress.record_landmark(landmark.clone());
        assert_eq!(progress.wait_landmark(Lsn::new(0x90), Duration::from_secs(1)).await, Ok(landmark));
        assert_eq!(progress.wait_landmark(Lsn::new(0x91), Duration::from_secs(1)).await, Err(WaitError::TimedOut));
    }
}
