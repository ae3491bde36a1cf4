//! Builds what is missing from stored WAL, and folds what is there.
//!
//! Slowly: it works a quarter of the time at most. What the stream is about to bring is left to it. Where WAL cannot be
//! decoded there is no summary, and that is said; it is not tried again before the next start of the agent.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::lease::WalPosition;
use pitr::repository::summary_store::ReadSummary;
use pitr::repository::{self, SummaryStore, WalStore};
use pitr::summarize::upkeep::{Folded, fold_into_one};
use pitr::summarize::{Built, StoredSummaries, Stretch, Survey, TimelineSurvey, coverage, found_restore_points};
use pitr::wal_summary::WalSummary;
use tokio::time::Instant;

use super::recorder::Recorder;
use super::trouble::Work;
use crate::archiver::Findings;
use crate::error_text::in_full;

/// Rest after a piece of work, as a multiple of what it took.
const REST: u32 = 3;
/// Stretches that are read in one go.
const RUN: usize = 64;
/// How long the stream may take to begin.
const STREAM_PATIENCE: Duration = Duration::from_secs(60);
/// Where nothing was archived since the last look, so many are left out.
const IDLE_LOOKS: u32 = 12;

#[derive(Debug)]
pub(super) struct Upkeep {
    recorder: Recorder,
    findings: Findings,
    pub interval: Duration,
    wal: WalStore,
    summaries: SummaryStore,
    /// WAL that cannot be decoded.
    hopeless: BTreeSet<(TimelineId, Stretch)>,
    /// What would be too large, or has parts that cannot be used.
    unfoldable: BTreeSet<(TimelineId, Stretch)>,
}

impl Upkeep {
    pub(super) fn new(recorder: Recorder, findings: Findings, interval: Duration) -> Self {
        let wal = WalStore::new(recorder.lineage.clone());
        let summaries = SummaryStore::new(recorder.lineage.clone());
        Self { recorder, findings, interval, wal, summaries, hopeless: BTreeSet::new(), unfoldable: BTreeSet::new() }
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        // Before the stream has begun it is not known what it will bring. It need not begin: WAL comes by other ways too.
        tokio::select! {
            () = self.findings.timeline_begun() => {}
            () = tokio::time::sleep(STREAM_PATIENCE) => {}
        }
        let mut seen: Option<WalPosition> = None;
        let mut idle = 0;
        loop {
            let sealed = self.recorder.progress.now().sealed;
            idle = if sealed == seen { idle + 1 } else { 0 };
            if idle == 0 || idle >= IDLE_LOOKS {
                idle = 0;
                let looked = self.look().await;
                let trouble = looked.as_ref().err().map(|error| in_full(error));
                if let Some(error) = &trouble {
                    tracing::warn!(%error, "WAL summaries could not be looked after; it is tried again");
                }
                seen = sealed.filter(|_| trouble.is_none());
                self.tell(trouble);
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = self.findings.timeline_begun() => seen = None,
            }
        }
    }

    fn tell(&self, error: Option<String>) {
        let failed = error.map(|error| format!("WAL summaries cannot be looked after: {error}"));
        let hopeless = self.hopeless.iter().next().map(|(timeline, stretch)| {
            format!(
                "{} segments have no WAL summary because they cannot be decoded, the first at {} on timeline {timeline}",
                self.hopeless.len(),
                stretch.from
            )
        });
        self.recorder.trouble.set(Work::Upkeep, failed.or(hopeless));
    }

    async fn look(&mut self) -> Result<(), repository::Error> {
        let survey = Survey::take(&self.wal, |_| true).await?;
        for timeline in survey.timelines.iter().rev() {
            let missing: Vec<Stretch> = self.missing(timeline);
            // What is newest is wanted first.
            for run in coverage::runs(&missing, RUN).into_iter().rev() {
                self.build(timeline, run).await?;
            }
        }
        let survey = Survey::take(&self.wal, |_| true).await?;
        for timeline in &survey.timelines {
            self.remove_superfluous(timeline).await?;
            self.fold(timeline, &survey).await?;
        }
        Ok(())
    }

    /// What the stream does not bring by itself.
    fn missing(&self, timeline: &TimelineSurvey) -> Vec<Stretch> {
        let passed = *self.recorder.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = self.findings.begun();
        let horizon = match begun {
            Some(begun) if begun.timeline == timeline.timeline => {
                let passed = passed.filter(|passed| passed.timeline == begun.timeline);
                passed.map_or(begun.lsn, |passed| passed.lsn.max(begun.lsn))
            }
            _ => Lsn::MAX,
        };
        let missing = timeline.missing.iter().filter(|stretch| stretch.to <= horizon);
        missing.filter(|stretch| !self.hopeless.contains(&(timeline.timeline, **stretch))).copied().collect()
    }

    async fn build(&mut self, timeline: &TimelineSurvey, run: Vec<Stretch>) -> Result<(), repository::Error> {
        let tli = timeline.timeline;
        let mut stored = StoredSummaries::new(self.wal.clone(), tli, timeline.begin, run)?;
        loop {
            let begun = Instant::now();
            match stored.next().await? {
                None => return Ok(()),
                Some(Built::Summary(summary)) => self.store(*summary).await?,
                Some(Built::Damaged { stretch, reason }) => {
                    tracing::warn!(%tli, from = %stretch.from, to = %stretch.to, reason, "stored WAL cannot be summarized");
                    self.hopeless.insert((tli, stretch));
                }
                Some(Built::Unfinished(_)) => {}
            }
            tokio::time::sleep(begun.elapsed() * REST).await;
        }
    }

    async fn store(&self, summary: WalSummary) -> Result<(), repository::Error> {
        for point in found_restore_points(&summary) {
            self.recorder.mark(&point).await?;
        }
        let (timeline, from) = (summary.timeline, summary.from);
        self.recorder.put(summary).await?;
        tracing::info!(%timeline, %from, "a missing WAL summary was built from stored WAL");
        Ok(())
    }

    /// A crash between the two steps of a fold leaves its parts. They go once it is known that it can be read.
    async fn remove_superfluous(&self, timeline: &TimelineSurvey) -> Result<(), repository::Error> {
        let superfluous = timeline.superfluous();
        let mut rest = superfluous.as_slice();
        while let Some((_, larger)) = rest.first() {
            let (within, after) = rest.split_at(rest.iter().take_while(|(_, other)| other == larger).count());
            let usable = matches!(self.summaries.read(timeline.key(*larger)).await?, ReadSummary::Usable(_));
            if usable {
                let keys: Vec<_> = within.iter().map(|(smaller, _)| timeline.key(*smaller)).collect();
                self.summaries.delete(&keys).await?;
            }
            rest = after;
        }
        Ok(())
    }

    async fn fold(&mut self, timeline: &TimelineSurvey, survey: &Survey) -> Result<(), repository::Error> {
        let tli = timeline.timeline;
        for fold in timeline.folds(survey.segment_size) {
            if self.unfoldable.contains(&(tli, fold.into)) {
                continue;
            }
            let begun = Instant::now();
            match fold_into_one(&self.summaries, tli, &fold).await? {
                Folded::Done => {
                    tracing::info!(%tli, from = %fold.into.from, to = %fold.into.to, "WAL summaries folded");
                }
                Folded::TooLarge | Folded::Unusable(_) => {
                    self.unfoldable.insert((tli, fold.into));
                }
            }
            tokio::time::sleep(begun.elapsed() * REST).await;
        }
        Ok(())
    }
}
