//! What stops being reachable, and which holes a deletion leaves.

use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::catalog::{Catalog, Gap, Moment, Window, timeline_of_end};

/// A range of moments that could be restored to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMoments {
    /// The timeline of its end.
    pub timeline: TimelineId,
    pub from: Moment,
    pub to: Moment,
}

/// What can be reached by `before` and not by `after`.
pub(super) fn lost_moments(before: &Catalog, after: &Catalog) -> Vec<LostMoments> {
    let mut lost: Vec<LostMoments> = Vec::new();
    for path in before.timelines.values().filter(|known| !known.wal.is_empty()).filter_map(|known| known.path.as_ref())
    {
        let left = after.windows_on(path);
        for window in before.windows_on(path) {
            for moments in without(path, &window, &left) {
                let told = lost.iter().any(|known| {
                    (known.timeline, known.from.lsn, known.to.lsn)
                        == (moments.timeline, moments.from.lsn, moments.to.lsn)
                });
                if !told {
                    lost.push(moments);
                }
            }
        }
    }
    lost.sort_by_key(|moments| (moments.timeline, moments.from.lsn));
    lost
}

/// The parts of `window` that none of `left` has.
fn without(path: &TimelinePath, window: &Window, left: &[Window]) -> Vec<LostMoments> {
    let mut parts = Vec::new();
    let mut position = window.from;
    for other in left.iter().filter(|other| other.to.lsn > window.from.lsn && other.from.lsn < window.to.lsn) {
        if other.from.lsn > position.lsn {
            parts.push((position, other.from));
        }
        if other.to.lsn > position.lsn {
            position = other.to;
        }
    }
    if position.lsn < window.to.lsn {
        parts.push((position, window.to));
    }
    let timeline = |lsn: Lsn| timeline_of_end(path, lsn);
    parts.into_iter().map(|(from, to)| LostMoments { timeline: timeline(to.lsn), from, to }).collect()
}

/// Holes that are not there yet.
pub(super) fn new_holes(before: &Catalog, after: &Catalog) -> Vec<Gap> {
    let known = before.gaps();
    let is_new = |gap: &Gap| {
        !known
            .iter()
            .any(|known| (known.timeline, known.from_lsn, known.to_lsn) == (gap.timeline, gap.from_lsn, gap.to_lsn))
    };
    after.gaps().into_iter().filter(|gap| gap.to_lsn.is_some()).filter(is_new).collect()
}
