//! Proves that everything has its summary, and builds what has none.
//!
//! Every summary is read. One that cannot be used counts as missing; it goes once what it covered has been built. So a
//! repair can be interrupted at any point and begun again. Several segments are read at once, each by itself.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::coverage::{self, Coverage, Stretch};
use super::stored::{Built, StoredSummaries};
use super::upkeep::{Survey, TimelineSurvey, found_restore_points};
use crate::postgres::TimelineId;
use crate::repository::layout::SummaryKey;
use crate::repository::lease::Lease;
use crate::repository::summary_store::ReadSummary;
use crate::repository::{Result, SummaryStore, WalStore};

/// Requests under way at once while summaries are read.
const PARALLEL_READS: usize = 8;
/// Stretches that are read in one go: as many as are folded into one.
const RUN: usize = 64;
/// So many segments at the end of the WAL are left to a running agent.
const LEFT_TO_AGENT: u64 = 8;

/// A summary that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableSummary {
    pub stretch: Stretch,
    /// An older decoder made it; otherwise it is damaged.
    pub outdated: bool,
    pub reason: String,
}

/// A stretch without a summary, because the stored WAL does not yield one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    pub stretch: Stretch,
    pub reason: String,
}

/// One timeline, after everything that was to be done was done.
#[derive(Clone, Debug)]
pub struct VerifiedTimeline {
    pub timeline: TimelineId,
    /// Summaries that can be used, as they were found.
    pub usable: u64,
    pub unusable: Vec<UnusableSummary>,
    /// What had no summary, by rising position.
    pub missing: Vec<Stretch>,
    /// What is left to the agent that runs, or cannot be finished before more WAL is stored.
    pub pending: Vec<Stretch>,
    /// Of what was missing.
    pub built: u64,
    pub damaged: Vec<DamagedStretch>,
}

impl VerifiedTimeline {
    /// How many stretches have no summary now, and should have one.
    #[must_use]
    pub fn lacking(&self) -> u64 {
        (self.missing.len() as u64).saturating_sub(self.built)
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Reading { done: u64, total: u64 },
    Building { done: u64, total: u64 },
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Build what is missing.
    pub repair: bool,
    /// Segments that are read at once.
    pub jobs: usize,
    pub now: DateTime<Utc>,
}

/// Looks at all timelines, and builds what is missing where that is wanted.
///
/// # Errors
/// The store fails.
pub async fn verify_summaries(
    wal: &WalStore,
    order: Order,
    mut progress: impl FnMut(Step),
) -> Result<Vec<VerifiedTimeline>> {
    let lease = match wal.lineage().get::<Lease>(&wal.lineage().layout().lease()).await {
        Ok(lease) => Some(lease).filter(|lease| lease.expires > order.now),
        Err(error) if error.is_not_found() || error.is_corruption() => None,
        Err(error) => return Err(error),
    };
    let listed = Survey::take(wal, |_| true).await?;
    let unusable = unusable(wal, &listed, &mut progress).await?;
    let keys: BTreeSet<SummaryKey> = unusable.iter().map(|(key, _)| *key).collect();
    let survey = if keys.is_empty() { listed } else { Survey::take(wal, |key| !keys.contains(&key)).await? };
    let mut timelines = Vec::new();
    for timeline in &survey.timelines {
        let (pending, missing) = split_pending(timeline, &survey, lease.as_ref());
        let own = unusable.iter().filter(|(key, _)| key.tli == timeline.timeline);
        timelines.push(VerifiedTimeline {
            timeline: timeline.timeline,
            usable: timeline.stored.len() as u64,
            unusable: own.map(|(_, unusable)| unusable.clone()).collect(),
            missing,
            pending,
            built: 0,
            damaged: Vec::new(),
        });
    }
    if order.repair {
        repair(wal, &survey, &mut timelines, order.jobs, progress).await?;
    }
    Ok(timelines)
}

/// Reads every summary; gives those that cannot be used.
async fn unusable(
    wal: &WalStore,
    survey: &Survey,
    progress: &mut impl FnMut(Step),
) -> Result<Vec<(SummaryKey, UnusableSummary)>> {
    let store = SummaryStore::new(wal.lineage().clone());
    let keys: Vec<SummaryKey> =
        survey.timelines.iter().flat_map(|timeline| timeline.stored.iter().map(|listed| listed.key)).collect();
    let total = keys.len() as u64;
    let mut reads = stream::iter(keys.into_iter().map(|key| {
        let store = store.clone();
        async move { (key, store.read(key).await) }
    }))
    .buffered(PARALLEL_READS);
    let (mut found, mut done) = (Vec::new(), 0);
    while let Some((key, read)) = reads.next().await {
        done += 1;
        progress(Step::Reading { done, total });
        match read {
            Ok(ReadSummary::Usable(_)) => {}
            Ok(ReadSummary::Unusable { outdated, reason }) => {
                let stretch = Stretch { from: key.from, to: key.to };
                found.push((key, UnusableSummary { stretch, outdated, reason }));
            }
            // Folded between the two looks.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What is left to a running agent, and what is missing.
fn split_pending(timeline: &TimelineSurvey, survey: &Survey, lease: Option<&Lease>) -> (Vec<Stretch>, Vec<Stretch>) {
    let sealed = lease.and_then(|lease| lease.sealed).filter(|sealed| sealed.timeline == timeline.timeline);
    let left = LEFT_TO_AGENT.saturating_mul(survey.segment_size.as_u64());
    timeline.missing.iter().partition(|stretch| sealed.is_some_and(|sealed| stretch.to.advance(left) > sealed.lsn))
}

async fn repair(
    wal: &WalStore,
    survey: &Survey,
    timelines: &mut [VerifiedTimeline],
    jobs: usize,
    mut progress: impl FnMut(Step),
) -> Result<()> {
    let total = timelines.iter().map(|timeline| timeline.missing.len() as u64).sum();
    let mut done = 0;
    for (surveyed, verified) in survey.timelines.iter().zip(timelines) {
        let runs = coverage::runs(&verified.missing, RUN);
        let work = runs.into_iter().map(|run| build_run(wal.clone(), surveyed, run));
        let mut work = stream::iter(work).map(StreamExt::boxed).flatten_unordered(jobs.max(1));
        while let Some(outcome) = work.try_next().await? {
            done += 1;
            progress(Step::Building { done, total });
            match outcome {
                Outcome::Built => verified.built += 1,
                Outcome::Damaged(damaged) => verified.damaged.push(damaged),
                Outcome::Unfinished(stretch) => verified.pending.push(stretch),
            }
        }
        let pending: BTreeSet<Stretch> = verified.pending.iter().copied().collect();
        verified.missing.retain(|stretch| !pending.contains(stretch));
        verified.damaged.sort_by_key(|damaged| damaged.stretch);
        remove_replaced(wal, surveyed.timeline, verified).await?;
    }
    Ok(())
}

enum Outcome {
    Built,
    Damaged(DamagedStretch),
    Unfinished(Stretch),
}

/// The markers of restore points come before the summary that names them.
fn build_run(
    wal: WalStore,
    timeline: &TimelineSurvey,
    run: Vec<Stretch>,
) -> impl stream::Stream<Item = Result<Outcome>> + Send + use<> {
    let (tli, begin) = (timeline.timeline, timeline.begin);
    let store = SummaryStore::new(wal.lineage().clone());
    stream::once(async move { StoredSummaries::new(wal, tli, begin, run) })
        .map_ok(move |summaries| {
            stream::try_unfold((summaries, store.clone()), async |(mut summaries, store)| {
                let Some(built) = summaries.next().await? else { return Ok(None) };
                let outcome = match built {
                    Built::Summary(summary) => {
                        for point in found_restore_points(&summary) {
                            point.record(store.lineage()).await?;
                        }
                        store.put(&store.prepare(*summary).await?).await?;
                        Outcome::Built
                    }
                    Built::Damaged { stretch, reason } => Outcome::Damaged(DamagedStretch { stretch, reason }),
                    Built::Unfinished(stretch) => Outcome::Unfinished(stretch),
                };
                Ok(Some((outcome, (summaries, store))))
            })
        })
        .try_flatten()
}

/// Unusable summaries go once everything that they covered has another; those of single segments were replaced.
async fn remove_replaced(wal: &WalStore, tli: TimelineId, verified: &VerifiedTimeline) -> Result<()> {
    let store = SummaryStore::new(wal.lineage().clone());
    let key = |stretch: Stretch| SummaryKey { tli, from: stretch.from, to: stretch.to };
    let damaged: BTreeSet<Stretch> = verified.damaged.iter().map(|damaged| damaged.stretch).collect();
    let built: BTreeSet<Stretch> =
        verified.missing.iter().filter(|stretch| !damaged.contains(stretch)).copied().collect();
    let listed = store.list(tli).await?;
    let unusable: BTreeSet<Stretch> = verified.unusable.iter().map(|unusable| unusable.stretch).collect();
    let stretches = listed.iter().map(|listed| Stretch { from: listed.key.from, to: listed.key.to });
    let coverage: Coverage =
        stretches.filter(|stretch| built.contains(stretch) || !unusable.contains(stretch)).collect();
    let gone: Vec<SummaryKey> = unusable
        .iter()
        .filter(|stretch| !built.contains(stretch) && coverage.covers(**stretch))
        .map(|stretch| key(*stretch))
        .collect();
    store.delete(&gone).await
}
