//! What the rest of the agent sees of a backup that runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr::api::{BackupJob, BackupPhase, BackupState};
use pitr::repository::backup::BackupId;
use tokio::sync::watch;

use super::copy::CopyProgress;
use super::error::BackupError;
use crate::error_text::in_full;

const REFRESH: Duration = Duration::from_millis(500);

/// Publishes one backup's progress.
#[derive(Clone, Debug)]
pub struct JobReporter {
    job: watch::Sender<Option<BackupJob>>,
}

impl JobReporter {
    #[must_use]
    pub const fn new(job: watch::Sender<Option<BackupJob>>) -> Self {
        Self { job }
    }

    /// A new backup takes the place of the last one.
    pub fn begin(&self, id: &BackupId, started: DateTime<Utc>) -> BackupJob {
        let job = BackupJob {
            id: id.clone(),
            state: BackupState::Running,
            phase: BackupPhase::Starting,
            started,
            finished: None,
            timeline: None,
            files_done: 0,
            files_total: 0,
            bytes_done: 0,
            bytes_total: 0,
            new_bytes: 0,
            corrupt_pages: 0,
            resumes: None,
            resumed_bytes: 0,
            error: None,
        };
        self.job.send_replace(Some(job.clone()));
        job
    }

    pub fn update(&self, change: impl FnOnce(&mut BackupJob)) {
        self.job.send_modify(|job| {
            if let Some(job) = job {
                change(job);
            }
        });
    }

    pub fn phase(&self, phase: BackupPhase) {
        self.update(|job| job.phase = phase);
    }

    /// Shows `progress` for as long as it is polled.
    pub async fn follow(&self, progress: Arc<CopyProgress>) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval(REFRESH);
        loop {
            ticks.tick().await;
            self.show(&progress);
        }
    }

    pub fn show(&self, progress: &CopyProgress) {
        self.update(|job| {
            job.files_done = progress.files.load(Ordering::Relaxed);
            job.bytes_done = progress.bytes.load(Ordering::Relaxed);
            job.new_bytes = progress.stored_bytes.load(Ordering::Relaxed);
            job.corrupt_pages = progress.corrupt_pages.load(Ordering::Relaxed);
        });
    }

    pub fn complete(&self, finished: DateTime<Utc>) {
        self.update(|job| {
            job.state = BackupState::Complete;
            job.finished = Some(finished);
        });
    }

    pub fn fail(&self, error: &BackupError, finished: DateTime<Utc>) {
        let unharmed = "earlier backups and the archiving of WAL are not affected";
        self.update(|job| {
            job.state = BackupState::Failed;
            job.finished = Some(finished);
            job.error = Some(format!("{}; {unharmed}", in_full(error)));
        });
    }
}
