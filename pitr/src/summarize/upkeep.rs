//! What a lineage lacks in summaries, and how it comes to them.
//!
//! Summaries are looked for by what is listed. The listing of WAL is restricted to logs that summaries do not cover, so
//! that a look costs little however long the archive is.

use std::collections::BTreeMap;

use super::coverage::{Coverage, Stretch, Wanted};
use super::folding::{self, Fold};
use crate::postgres::history::TimelineHistory;
use crate::postgres::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};
use crate::repository::layout::SummaryKey;
use crate::repository::summary_store::{ListedSummary, PutSummary, ReadSummary};
use crate::repository::{Error, FoundRestorePoint, Result, SummaryStore, WalStore, found_restore_point};
use crate::wal_summary::{MAX_FOLDED_BYTES, MomentKind, WalSummary, fold, to_bytes};

/// What is known of one timeline.
#[derive(Clone, Debug)]
pub struct TimelineSurvey {
    pub timeline: TimelineId,
    /// First byte that is its own.
    pub begin: Lsn,
    /// Where other timelines left it.
    pub switches: Vec<Lsn>,
    pub stored: Vec<ListedSummary>,
    /// What none of them covers, by rising position.
    pub missing: Vec<Stretch>,
}

/// A look at all timelines.
#[derive(Clone, Debug)]
pub struct Survey {
    pub segment_size: WalSegmentSize,
    /// By rising number.
    pub timelines: Vec<TimelineSurvey>,
}

impl Survey {
    /// Looks at what is listed. `counts` says whether a summary that is listed counts.
    ///
    /// # Errors
    /// The store fails, or a history file cannot be read.
    pub async fn take(wal: &WalStore, counts: impl Fn(SummaryKey) -> bool) -> Result<Self> {
        let segment_size = wal.lineage().lineage().wal_segment_size;
        let summaries = SummaryStore::new(wal.lineage().clone());
        let timelines = wal.timelines().await?;
        let (begins, switches) = borders(wal, &timelines).await?;
        let mut surveyed = Vec::new();
        for timeline in timelines {
            let mut stored = summaries.list(timeline).await?;
            stored.retain(|listed| counts(listed.key));
            let ranges = stretches(&stored);
            let begin = begins.get(&timeline).copied().unwrap_or(Lsn::INVALID);
            let left = switches.get(&timeline).cloned().unwrap_or_default();
            let segments = segments_without(wal, timeline, &ranges.iter().copied().collect(), segment_size).await?;
            let switches = stored_switches(wal, timeline, &ranges, &left, segment_size).await?;
            let missing = Wanted { segment_size, begin, switches, segments }.missing(&ranges);
            surveyed.push(TimelineSurvey { timeline, begin, switches: left, stored, missing });
        }
        Ok(Self { segment_size, timelines: surveyed })
    }
}

impl TimelineSurvey {
    /// What can be folded.
    #[must_use]
    pub fn folds(&self, segment_size: WalSegmentSize) -> Vec<Fold> {
        folding::plan(&stretches(&self.stored), &self.switches, segment_size)
    }

    /// Summaries that lie within larger ones, with these.
    #[must_use]
    pub fn superfluous(&self) -> Vec<(Stretch, Stretch)> {
        folding::superfluous(&stretches(&self.stored), &self.switches)
    }

    #[must_use]
    pub const fn key(&self, stretch: Stretch) -> SummaryKey {
        SummaryKey { tli: self.timeline, from: stretch.from, to: stretch.to }
    }
}

fn stretches(stored: &[ListedSummary]) -> Vec<Stretch> {
    stored.iter().map(|listed| Stretch { from: listed.key.from, to: listed.key.to }).collect()
}

type Borders = (BTreeMap<TimelineId, Lsn>, BTreeMap<TimelineId, Vec<Lsn>>);

/// Where timelines begin, and where others left them.
async fn borders(wal: &WalStore, timelines: &[TimelineId]) -> Result<Borders> {
    let mut begins = BTreeMap::new();
    let mut left: BTreeMap<TimelineId, Vec<Lsn>> = BTreeMap::new();
    for timeline in timelines.iter().copied().filter(|timeline| *timeline != TimelineId::FIRST) {
        let file = match wal.read_history(timeline).await {
            Ok(file) => file,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let history = TimelineHistory::parse(timeline, &file).map_err(|error| Error::Corrupt {
            key: wal.lineage().layout().history(timeline),
            reason: error.to_string(),
        })?;
        begins.insert(timeline, history.begin());
        if let Some(parent) = history.parent() {
            left.entry(parent).or_default().push(history.begin());
        }
    }
    Ok((begins, left))
}

/// Whole segments in logs that are not wholly covered.
async fn segments_without(
    wal: &WalStore,
    timeline: TimelineId,
    coverage: &Coverage,
    size: WalSegmentSize,
) -> Result<Vec<SegmentNumber>> {
    let mut segments = Vec::new();
    for log in wal.logs(timeline).await? {
        let first = u64::from(log).saturating_mul(size.segments_per_log());
        let from = size.start_of(SegmentNumber::new(first));
        let to = size.start_of(SegmentNumber::new(first.saturating_add(size.segments_per_log())));
        if !coverage.covers(Stretch { from, to }) {
            let listed = wal.log(timeline, log).await?;
            segments.extend(listed.segments.iter().filter_map(|name| name.number(size)));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The switches that have no summary of their own and up to which the timeline's WAL is stored.
async fn stored_switches(
    wal: &WalStore,
    timeline: TimelineId,
    ranges: &[Stretch],
    switches: &[Lsn],
    size: WalSegmentSize,
) -> Result<Vec<Lsn>> {
    let mut stored = Vec::new();
    for switch in switches.iter().copied() {
        let number = size.segment_of(switch);
        let name = number.name(timeline, size);
        if size.offset_of(switch) == 0 || ranges.iter().any(|range| range.to == switch) {
            continue;
        }
        let listed = wal.log(timeline, name.log()).await?;
        if listed.segments.contains(&name) || listed.tails_end(name, size.start_of(number)) >= switch {
            stored.push(switch);
        }
    }
    Ok(stored)
}

/// The restore points that a summary names.
#[must_use]
pub fn found_restore_points(summary: &WalSummary) -> Vec<FoundRestorePoint> {
    let points = summary.moments.iter().filter_map(|moment| match &moment.kind {
        MomentKind::RestorePoint { name, time } => Some(FoundRestorePoint {
            timeline: summary.timeline,
            lsn: moment.lsn,
            end_lsn: moment.end_lsn,
            name: found_restore_point::name_of(name.as_bytes()),
            time: *time,
        }),
        _ => None,
    });
    points.collect()
}

/// What became of a fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    Done,
    /// It would be larger than what is worth folding.
    TooLarge,
    /// One of its parts cannot be used.
    Unusable(Stretch),
}

/// Makes one summary of several: the larger one is durable before the smaller ones go. Memory is bounded by the sizes of the
/// parts, each of which was small enough to be made.
///
/// # Errors
/// The store fails; what was made so far is garbage beside its parts, never a lie.
pub async fn fold_into_one(summaries: &SummaryStore, timeline: TimelineId, fold_of: &Fold) -> Result<Folded> {
    let key = |stretch: Stretch| SummaryKey { tli: timeline, from: stretch.from, to: stretch.to };
    let mut whole: Option<WalSummary> = None;
    for part in &fold_of.parts {
        let summary = match summaries.read(key(*part)).await {
            Ok(ReadSummary::Usable(summary)) => *summary,
            Ok(ReadSummary::Unusable { .. }) => return Ok(Folded::Unusable(*part)),
            Err(error) if error.is_not_found() => return Ok(Folded::Unusable(*part)),
            Err(error) => return Err(error),
        };
        let joined = tokio::task::spawn_blocking(move || join(whole, summary)).await;
        match joined {
            Ok(Joined::Whole(joined)) => whole = Some(*joined),
            Ok(Joined::TooLarge) => return Ok(Folded::TooLarge),
            Ok(Joined::Apart) | Err(_) => return Ok(Folded::Unusable(*part)),
        }
    }
    let Some(whole) = whole else { return Ok(Folded::TooLarge) };
    let prepared = summaries.prepare(whole).await?;
    match summaries.put(&prepared).await? {
        PutSummary::Created | PutSummary::Same | PutSummary::Replaced => {
            let parts: Vec<_> = fold_of.parts.iter().copied().map(key).collect();
            summaries.delete(&parts).await?;
            Ok(Folded::Done)
        }
        PutSummary::LeftNewer => Ok(Folded::TooLarge),
    }
}

enum Joined {
    Whole(Box<WalSummary>),
    TooLarge,
    Apart,
}

fn join(whole: Option<WalSummary>, part: WalSummary) -> Joined {
    let joined = match whole {
        None => Ok(part),
        Some(whole) => fold(&[whole, part]),
    };
    match joined {
        Err(_) => Joined::Apart,
        // What is folded only grows, but for what cancels out: a little more is borne on the way.
        Ok(joined) => match to_bytes(&joined) {
            Ok(bytes) if bytes.len() as u64 <= MAX_FOLDED_BYTES => Joined::Whole(Box::new(joined)),
            _ => Joined::TooLarge,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::TransactionId;
    use crate::repository::wal_store::Tail;
    use crate::summarize::testing::{SEGMENT, size, store, time, wal, writer};
    use crate::summarize::verify::{Order, verify_summaries};
    use crate::summarize::{Built, StoredSummaries};

    const FIRST: TimelineId = TimelineId::FIRST;

    async fn survey(wal: &WalStore) -> TimelineSurvey {
        Survey::take(wal, |_| true).await.unwrap().timelines.remove(0)
    }

    async fn repair(wal: &WalStore) -> u64 {
        let order = Order { repair: true, jobs: 3, now: time() };
        verify_summaries(wal, order, |_| ()).await.unwrap().iter().map(|timeline| timeline.built).sum()
    }

    fn segments(numbers: std::ops::Range<u64>) -> Stretch {
        Stretch { from: Lsn::new(numbers.start * SEGMENT), to: Lsn::new(numbers.end * SEGMENT) }
    }

    /// WAL from segment 60 on, up to the middle of 130.
    async fn archive() -> WalStore {
        let (wal, mut writer) = (wal().await, writer(60));
        let mut xid = 700;
        while writer.position().as_u64() < 130 * SEGMENT + SEGMENT / 2 {
            writer.commit(TransactionId::new(xid), time());
            writer.filler(100_000);
            xid += 1;
        }
        store(&wal, &writer).await;
        wal
    }

    async fn built(wal: &WalStore, stretch: Stretch) -> WalSummary {
        let mut summaries = StoredSummaries::new(wal.clone(), FIRST, Lsn::INVALID, vec![stretch]).unwrap();
        let Some(Built::Summary(summary)) = summaries.next().await.unwrap() else { panic!("{stretch:?}") };
        *summary
    }

    #[tokio::test]
    async fn what_is_missing_is_built_and_neighbours_are_folded() {
        let wal = archive().await;
        let summaries = SummaryStore::new(wal.lineage().clone());
        assert_eq!(survey(&wal).await.missing.len(), 70);
        assert_eq!(repair(&wal).await, 70);
        assert_eq!(survey(&wal).await.missing, []);
        let folds = survey(&wal).await.folds(size());
        let fold = folds.first().unwrap();
        assert_eq!(fold.into, segments(64..128));
        assert_eq!(fold_into_one(&summaries, FIRST, fold).await.unwrap(), Folded::Done);

        let after = survey(&wal).await;
        assert_eq!((after.missing.len(), after.stored.len(), after.folds(size()).len()), (0, 4 + 1 + 2, 0));
        let ReadSummary::Usable(folded) = summaries.read(after.key(fold.into)).await.unwrap() else { panic!() };
        let mut commits = 0;
        for number in 64..128 {
            commits += built(&wal, segments(number..number + 1)).await.times.commits.map_or(0, |ends| ends.count);
        }
        assert!(commits > 500, "{commits}");
        assert_eq!(folded.times.commits.unwrap().count, commits);
        assert_eq!(repair(&wal).await, 0);
    }

    #[tokio::test]
    async fn a_fold_that_was_interrupted_leaves_nothing_missing_and_its_parts_superfluous() {
        let wal = archive().await;
        let summaries = SummaryStore::new(wal.lineage().clone());
        repair(&wal).await;
        let fold = survey(&wal).await.folds(size()).remove(0);
        fold_into_one(&summaries, FIRST, &fold).await.unwrap();
        // As after a crash between the larger object and the deletion of the smaller ones.
        for number in 100..110 {
            let prepared = summaries.prepare(built(&wal, segments(number..number + 1)).await).await.unwrap();
            summaries.put(&prepared).await.unwrap();
        }
        let after = survey(&wal).await;
        assert_eq!((after.missing.len(), after.folds(size()).len()), (0, 0));
        let superfluous = after.superfluous();
        assert_eq!(superfluous.len(), 10);
        assert!(superfluous.iter().all(|(_, larger)| *larger == fold.into));
    }

    #[tokio::test]
    async fn an_unusable_fold_is_taken_apart_by_a_repair() {
        let wal = archive().await;
        let summaries = SummaryStore::new(wal.lineage().clone());
        repair(&wal).await;
        let fold = survey(&wal).await.folds(size()).remove(0);
        fold_into_one(&summaries, FIRST, &fold).await.unwrap();
        let key = SummaryKey { tli: FIRST, from: fold.into.from, to: fold.into.to };
        let object = wal.lineage().layout().summary(key);
        let overwrite = crate::storage::PutMode::Overwrite;
        wal.lineage().store().put(&object, b"no summary".to_vec().into(), overwrite).await.unwrap();
        assert_eq!(repair(&wal).await, 64);
        let after = survey(&wal).await;
        assert_eq!((after.missing.len(), after.stored.len()), (0, 70));
        assert!(after.stored.iter().all(|listed| listed.key != key));
    }

    #[tokio::test]
    async fn a_timeline_that_was_left_wants_a_summary_that_ends_there() {
        let wal = archive().await;
        let switch = Lsn::new(130 * SEGMENT + SEGMENT / 4);
        let next = TimelineId::new(2).unwrap();
        let history = format!("1\t{switch}\tno recovery target specified\n");
        wal.put(&wal.prepare_history(next, history.as_bytes()).unwrap()).await.unwrap();
        let name = size().segment_of(switch).name(next, size());
        let from = Lsn::new(130 * SEGMENT);
        let tail = Tail { segment: name, from, to: from.advance(8192) };
        wal.put(&wal.prepare_tail(tail, &[0; 8192]).unwrap()).await.unwrap();
        let missing = survey(&wal).await.missing;
        assert_eq!(missing.last(), Some(&Stretch { from, to: switch }));
        assert_eq!(missing.len(), 71);
    }
}
