//! Stretches of WAL that are checked in one go. Pure.

use crate::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use crate::repository::catalog::{Catalog, DurableWal, LsnRange};
use crate::repository::layout::SummaryKey;

/// Segments that are checked in one go where no larger summary asks for more.
const RUN: u64 = 64;

/// Consecutive segments of one timeline of which something is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WalTask {
    pub(super) timeline: TimelineId,
    pub(super) first: SegmentNumber,
    /// Included.
    pub(super) last: SegmentNumber,
    /// First byte that is the timeline's own.
    pub(super) begin: Lsn,
    /// The parent's last segment before the timeline begins: its last record may end here.
    pub(super) lead_in: Option<SegmentName>,
    /// Stored summaries of what is within, by where they begin.
    pub(super) summaries: Vec<SummaryKey>,
}

impl WalTask {
    pub(super) fn segments(&self) -> u64 {
        self.last.as_u64() - self.first.as_u64() + 1
    }
}

/// All WAL of `catalog` in the segments from `range.from` to before `range.to`, cut so that every summary lies within one task. `summaries` are those of one timeline
/// after the other, in any order; those within larger ones are left out.
pub(super) fn tasks(catalog: &Catalog, summaries: &[SummaryKey], range: LsnRange) -> Vec<WalTask> {
    let size = catalog.segment_size();
    let mut tasks = Vec::new();
    for (tli, timeline) in &catalog.timelines {
        let begin = timeline.path.as_ref().and_then(|path| path.steps().last()).map_or(Lsn::INVALID, |step| step.begin);
        let own = largest(summaries.iter().copied().filter(|summary| summary.tli == *tli).collect());
        for (first, last) in stored_runs(&timeline.wal) {
            let (first, last) = (first.max(size.segment_of(range.from)), last.min(size.segment_before(range.to)));
            if first > last {
                continue;
            }
            for mut task in cut(*tli, begin, first, last, &own, size) {
                let parent = timeline.path.as_ref().filter(|_| task.first == size.segment_of(begin));
                task.lead_in = parent.and_then(|path| {
                    let before = task.first.as_u64().checked_sub(1).map(SegmentNumber::new)?;
                    let source = path.tli_of_segment(before, size);
                    (source != *tli).then(|| before.name(source, size))
                });
                tasks.push(task);
            }
        }
    }
    tasks
}

/// Runs of segments of which the first byte is stored, whole or open.
fn stored_runs(wal: &DurableWal) -> Vec<(SegmentNumber, SegmentNumber)> {
    let mut all = wal.clone();
    wal.tails().for_each(|(segment, _)| all.add_segment(segment));
    all.whole_runs().collect()
}

/// Without those that lie within another.
fn largest(mut summaries: Vec<SummaryKey>) -> Vec<SummaryKey> {
    summaries.sort_by_key(|summary| (summary.from, std::cmp::Reverse(summary.to)));
    let mut kept: Vec<SummaryKey> = Vec::new();
    for summary in summaries {
        if kept.last().is_none_or(|last| last.to < summary.to) {
            kept.push(summary);
        }
    }
    kept
}

fn cut(
    timeline: TimelineId,
    begin: Lsn,
    first: SegmentNumber,
    last: SegmentNumber,
    summaries: &[SummaryKey],
    size: WalSegmentSize,
) -> Vec<WalTask> {
    let mut tasks = Vec::new();
    let mut from = first;
    while from <= last {
        // As far as any summary reaches that begins before the end, but not beyond what is stored.
        let aligned = (from.as_u64() / RUN + 1).saturating_mul(RUN).saturating_sub(1);
        let mut end = SegmentNumber::new(aligned).min(last);
        let inside = |end: SegmentNumber| {
            move |summary: &&SummaryKey| summary.from >= size.start_of(from) && size.segment_of(summary.from) <= end
        };
        while let Some(next) = summaries
            .iter()
            .filter(inside(end))
            .map(|summary| size.segment_before(summary.to).min(last))
            .max()
            .filter(|next| *next > end)
        {
            end = next;
        }
        let own = summaries.iter().filter(inside(end)).filter(|summary| summary.to <= size.end_of(end));
        tasks.push(WalTask {
            timeline,
            begin,
            first: from,
            last: end,
            lead_in: None,
            summaries: own.copied().collect(),
        });
        from = end.next();
    }
    tasks
}
