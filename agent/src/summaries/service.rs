//! The service: recorder and upkeep, until it is told to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pitr::repository::LineageStore;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::recorder::Recorder;
use super::trouble::Trouble;
use super::upkeep::Upkeep;
use crate::archiver::{ArchiveProgress, Finding, Findings};
use crate::mark::Claims;

/// Between two looks for what is missing.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Stores what the archiver finds, and builds what is missing.
#[derive(Debug)]
pub struct SummaryService {
    recorder: Recorder,
    upkeep: Upkeep,
    told: mpsc::Receiver<Finding>,
}

impl SummaryService {
    /// `findings` and `told` are the two ends of what the archiver tells.
    #[must_use]
    pub fn new(
        lineage: LineageStore,
        progress: ArchiveProgress,
        claims: Claims,
        findings: Findings,
        told: mpsc::Receiver<Finding>,
    ) -> Self {
        let trouble = Trouble::new(progress.clone());
        let recorder = Recorder { lineage, progress, claims, trouble, passed: Arc::default() };
        let upkeep = Upkeep::new(recorder.clone(), findings, LOOK_EVERY);
        Self { recorder, upkeep, told }
    }

    /// Looks for what is missing more often.
    #[must_use]
    pub const fn look_every(mut self, interval: Duration) -> Self {
        self.upkeep.interval = interval;
        self
    }

    /// # Errors
    /// Never.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Infallible> {
        let Self { recorder, upkeep, told } = self;
        let recording = async {
            recorder.run(told).await;
            // Nobody tells anything any more: the archiver ended.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = recording => {}
            () = upkeep.run() => {}
        }
        Ok(())
    }
}
