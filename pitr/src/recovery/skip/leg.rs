//! Which summary speaks of which part of a path.

use crate::postgres::Lsn;
use crate::postgres::history::TimelinePath;
use crate::repository::layout::SummaryKey;

/// A part of a path: what starts in it is in one summary, or in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    pub from: Lsn,
    pub to: Lsn,
    pub summary: Option<SummaryKey>,
}

/// The legs from `from` to `to` along `path`, without a hole. Of summaries that overlap, as a fold does with those that it
/// was made of, the one is taken that reaches furthest.
///
/// A summary that goes on behind the position at which its timeline was left tells of records that are not on the path; it
/// is of no use.
#[must_use]
pub fn legs(summaries: &[SummaryKey], path: &TimelinePath, from: Lsn, to: Lsn) -> Vec<Leg> {
    let on_path = |key: &&SummaryKey| {
        let step = path.step(key.tli);
        step.is_some_and(|step| step.begin <= key.from && step.end.is_none_or(|end| key.to <= end))
    };
    let mut usable: Vec<SummaryKey> = summaries.iter().filter(on_path).copied().collect();
    usable.retain(|key| key.from < to && key.to > from);
    usable.sort_unstable_by_key(|key| (key.from, key.to));
    let mut legs = Vec::new();
    let mut next = usable.into_iter().peekable();
    let mut furthest: Option<SummaryKey> = None;
    let mut position = from;
    while position < to {
        while let Some(key) = next.next_if(|key| key.from <= position) {
            furthest = furthest.filter(|known| known.to >= key.to).or(Some(key));
        }
        let summary = furthest.filter(|key| key.to > position);
        let end = summary.map(|key| key.to).or_else(|| next.peek().map(|key| key.from)).unwrap_or(to).min(to);
        legs.push(Leg { from: position, to: end, summary });
        position = end;
    }
    legs
}
