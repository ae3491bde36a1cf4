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

/// Holes that are not there yet, as the lease lets them be seen, and as they will be seen once it is renewed: it may be behind
/// now, and what is missing behind what it calls sealed passes for the end of the WAL.
pub(super) fn new_holes(before: &Catalog, after: &Catalog) -> Vec<Gap> {
    let without_lease = |catalog: &Catalog| Catalog { lease: None, ..catalog.clone() };
    let mut holes = holes_of_one_view(before, after);
    for hole in holes_of_one_view(&without_lease(before), &without_lease(after)) {
        if !holes.iter().any(|known| place(known) == place(&hole)) {
            holes.push(hole);
        }
    }
    holes
}

fn holes_of_one_view(before: &Catalog, after: &Catalog) -> Vec<Gap> {
    let known = before.gaps();
    let is_new = |gap: &Gap| !known.iter().any(|known| place(known) == place(gap));
    after.gaps().into_iter().filter(|gap| gap.to_lsn.is_some()).filter(is_new).collect()
}

const fn place(gap: &Gap) -> (TimelineId, Lsn, Option<Lsn>) {
    (gap.timeline, gap.from_lsn, gap.to_lsn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::catalog::testing::{MIB, backup, catalog, lease, lsn};

    #[test]
    fn a_lease_that_is_behind_hides_no_hole() {
        let with = |segments: &[u64]| {
            catalog()
                .with_timeline(1, &[], segments.iter().copied(), None)
                .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
                .with_lease(lease(1, 3 * MIB, 0))
        };
        let holes = new_holes(&with(&[2, 3, 4, 5, 6]), &with(&[2, 3, 6]));
        assert_eq!(
            holes.iter().map(|hole| (hole.from_lsn, hole.to_lsn)).collect::<Vec<_>>(),
            [(lsn(4 * MIB), Some(lsn(6 * MIB)))]
        );
    }
}
