//! Stores findings one after the other, each once the WAL that it was found in is sealed.
//!
//! A marker is tried until it is there. A summary that cannot be stored is given up after some tries: the upkeep builds it
//! again. So the order holds: a summary is put after the markers of its restore points.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::lease::WalPosition;
use pitr::repository::summary_store::PutSummary;
use pitr::repository::{self, FoundRestorePoint, LineageStore, Recorded, SummaryStore};
use pitr::wal_summary::WalSummary;
use tokio::sync::mpsc;

use super::trouble::{Trouble, Work};
use crate::archiver::{ArchiveProgress, Backoff, Finding};
use crate::error_text::in_full;
use crate::mark::Claims;

const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(30);
/// Tries of one summary.
const TRIES: u32 = 4;

/// Stores what is found. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    pub lineage: LineageStore,
    pub progress: ArchiveProgress,
    pub claims: Claims,
    pub trouble: Trouble,
    /// Up to where summaries were dealt with.
    pub passed: Arc<Mutex<Option<WalPosition>>>,
}

impl Recorder {
    /// Works until nobody tells anything any more.
    pub(super) async fn run(&self, mut findings: mpsc::Receiver<Finding>) {
        while let Some(finding) = findings.recv().await {
            match finding {
                Finding::RestorePoint(point) => {
                    self.sealed(point.timeline, point.end_lsn).await;
                    self.mark_for_sure(&point).await;
                }
                Finding::Summary(summary, room) => {
                    let (timeline, lsn) = (summary.timeline, summary.to);
                    self.sealed(timeline, lsn).await;
                    self.store(*summary).await;
                    drop(room);
                    *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = Some(WalPosition { timeline, lsn });
                }
            }
        }
    }

    /// Waits until the WAL up to `lsn` is durable. A later timeline begins only after that of the one before is stored.
    async fn sealed(&self, timeline: TimelineId, lsn: Lsn) {
        let mut changes = self.progress.subscribe();
        let is_sealed =
            |sealed: WalPosition| sealed.timeline > timeline || (sealed.timeline == timeline && sealed.lsn >= lsn);
        // The archiver's progress lives as long as `self`.
        drop(changes.wait_for(|progress| progress.sealed.is_some_and(is_sealed)).await);
    }

    /// # Errors
    /// The repository fails.
    pub(super) async fn mark(&self, point: &FoundRestorePoint) -> Result<(), repository::Error> {
        self.claims.settled(point.end_lsn).await;
        if point.record(&self.lineage).await? == Recorded::Created {
            tracing::info!(marker = point.name, lsn = %point.lsn, tli = %point.timeline, "restore point discovered");
        }
        Ok(())
    }

    async fn mark_for_sure(&self, point: &FoundRestorePoint) {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        while let Err(error) = self.mark(point).await {
            let text = format!("the restore point \"{}\" is not recorded yet: {}", point.name, in_full(&error));
            tracing::warn!(lsn = %point.lsn, error = %in_full(&error), "a restore point could not be recorded yet; it is tried again");
            self.trouble.set(Work::Recording, Some(text));
            tokio::time::sleep(backoff.next()).await;
        }
        self.trouble.set(Work::Recording, None);
    }

    async fn store(&self, summary: WalSummary) {
        let (timeline, from) = (summary.timeline, summary.from);
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        let mut tries = 0;
        let given_up = loop {
            match self.put(summary.clone()).await {
                Ok(_) => break None,
                Err(error) => {
                    tries += 1;
                    if tries >= TRIES || matches!(error, repository::Error::Conflict { .. }) {
                        break Some(in_full(&error));
                    }
                }
            }
            tokio::time::sleep(backoff.next()).await;
        };
        if let Some(error) = &given_up {
            tracing::warn!(%timeline, %from, %error, "a WAL summary could not be stored; it will be built again");
        }
        self.trouble.set(Work::Recording, given_up.map(|error| format!("WAL summaries cannot be stored: {error}")));
    }

    /// # Errors
    /// The repository fails, or holds another summary of the same range.
    pub(super) async fn put(&self, summary: WalSummary) -> Result<PutSummary, repository::Error> {
        let store = SummaryStore::new(self.lineage.clone());
        store.put(&store.prepare(summary).await?).await
    }
}
