//! What damage takes away: what could be restored if nothing were damaged, less what can be.

use std::collections::BTreeSet;

use super::damage::{Damage, Harm};
use super::report::BackupVerdict;
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::BackupId;
use crate::repository::catalog::{Catalog, Gap, LsnRange, Moment, Window};

/// Moments that cannot be reached: behind `from`, and before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    pub timeline: TimelineId,
    /// The last moment before that can be reached, or the beginning of what could be.
    pub from: Moment,
    /// The first moment behind that can be reached, or the end of what could be.
    pub to: Moment,
    /// Names of the markers between.
    pub markers: Vec<String>,
}

/// What damage takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub ranges: Vec<LostRange>,
    pub backups: Vec<BackupId>,
    /// Markers whose moment may be reached, and which do not name it any more.
    pub markers: Vec<String>,
}

impl Loss {
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.ranges.is_empty() && self.backups.is_empty() && self.markers.is_empty()
    }
}

/// The catalog as it is worth, and what is lost against what it would be without damage. `holes` are those that nothing
/// explains.
pub(super) fn assess(
    catalog: &Catalog,
    holes: &[Gap],
    damages: &[Damage],
    verdicts: &[BackupVerdict],
) -> (Catalog, Loss) {
    let whole = undamaged(catalog, holes);
    let harmed: BTreeSet<&BackupId> =
        verdicts.iter().filter(|verdict| !verdict.is_whole()).map(|verdict| &verdict.id).collect();
    let left = remaining(catalog, damages, &harmed);
    let mut loss = Loss { ranges: lost_ranges(&whole, &left), ..Loss::default() };
    loss.backups.extend(harmed.into_iter().cloned());
    for damage in damages {
        match &damage.harm {
            Harm::Manifest(id) => loss.backups.push(id.clone()),
            Harm::Marker(marker) => loss.markers.push(marker.name.clone()),
            _ => {}
        }
    }
    loss.backups.sort();
    loss.backups.dedup();
    loss.markers.sort();
    loss.markers.dedup();
    (left, loss)
}

/// With the holes filled.
fn undamaged(catalog: &Catalog, holes: &[Gap]) -> Catalog {
    let mut whole = catalog.clone();
    let size = whole.segment_size();
    for hole in holes {
        let Some(to) = hole.to_lsn else { continue };
        if let Some(timeline) = whole.timelines.get_mut(&hole.timeline) {
            timeline.wal.add_segments(size.segment_of(hole.from_lsn), size.segment_before(to));
        }
    }
    whole
}

/// Without what is damaged.
fn remaining(catalog: &Catalog, damages: &[Damage], harmed: &BTreeSet<&BackupId>) -> Catalog {
    let mut left = catalog.clone();
    let size = left.segment_size();
    left.backups.retain(|backup| !harmed.contains(&backup.id));
    for damage in damages {
        match &damage.harm {
            Harm::Segment { name, from } => {
                let Some(number) = name.number(size) else { continue };
                let Some(timeline) = left.timelines.get_mut(&name.tli()) else { continue };
                let wal = &mut timeline.wal;
                let (start, covered) = (size.start_of(number), wal.covered_to(number));
                let was_whole = wal.is_whole(number);
                wal.remove_segment(number);
                // An object that cannot be read at all leaves what its tails hold; records that cannot be read end both.
                if *from > start || !was_whole {
                    let ranges: Vec<LsnRange> =
                        wal.tails().filter(|(own, _)| *own == number).flat_map(|(_, ranges)| ranges.to_vec()).collect();
                    ranges.into_iter().for_each(|range| wal.remove_tail(number, range));
                    // Within the segment by the limits above.
                    let _ = wal.add_tail(number, LsnRange { from: start, to: (*from).min(covered) });
                }
            }
            Harm::Tail { segment, from, to } => {
                let Some(number) = segment.number(size) else { continue };
                if let Some(timeline) = left.timelines.get_mut(&segment.tli()) {
                    timeline.wal.remove_tail(number, LsnRange { from: *from, to: *to });
                }
            }
            Harm::History(tli) => {
                if let Some(timeline) = left.timelines.get_mut(tli) {
                    timeline.path = None;
                }
            }
            Harm::None | Harm::Manifest(_) | Harm::Marker(_) => {}
        }
    }
    left
}

fn lost_ranges(whole: &Catalog, left: &Catalog) -> Vec<LostRange> {
    let mut lost: Vec<LostRange> = Vec::new();
    for window in whole.windows() {
        let Ok(path) = whole.path(window.timeline) else { continue };
        for range in subtract(&window, &reachable(left, path)) {
            let markers = whole.markers.iter().map(|known| &known.marker).filter(|marker| {
                path.contains(marker.timeline, marker.lsn) && marker.lsn >= range.0.lsn && marker.lsn < range.1.lsn
            });
            let markers = markers.map(|marker| marker.name.clone()).collect();
            let range = LostRange { timeline: window.timeline, from: range.0, to: range.1, markers };
            if !lost.contains(&range) {
                lost.push(range);
            }
        }
    }
    lost
}

/// What of `path` can be reached, also as a part of the history of another timeline.
fn reachable(left: &Catalog, path: &TimelinePath) -> Vec<Window> {
    let mut windows = Vec::new();
    for step in path.steps() {
        let Ok(own) = left.path(step.tli) else { continue };
        for mut window in left.windows_on(own) {
            if let Some(end) = step.end.filter(|end| *end < window.to.lsn) {
                window.to = Moment { lsn: end, time: None };
            }
            if window.from.lsn <= window.to.lsn {
                windows.push(window);
            }
        }
    }
    windows.sort_by_key(|window| window.from.lsn);
    windows
}

fn subtract(window: &Window, reachable: &[Window]) -> Vec<(Moment, Moment)> {
    let mut lost = Vec::new();
    let mut position = window.from;
    let mut nothing_before = true;
    for other in reachable {
        if other.to.lsn < window.from.lsn || other.from.lsn > window.to.lsn {
            continue;
        }
        if other.from.lsn > position.lsn {
            lost.push((position, other.from));
        }
        if other.to.lsn > position.lsn || nothing_before {
            position = Moment { lsn: other.to.lsn.max(position.lsn), time: other.to.time };
        }
        nothing_before = false;
    }
    if position.lsn < window.to.lsn || nothing_before {
        lost.push((position, window.to));
    }
    lost
}

/// The explained and the unexplained holes of a catalog.
pub(super) fn holes(catalog: &Catalog) -> (Vec<Gap>, Vec<Gap>) {
    catalog.gaps().into_iter().partition(|gap| gap.noticed.is_some())
}

/// Where the last transaction of a window is known, its time is that of the window's end.
pub(super) fn tell_end(ranges: &mut [LostRange], end: Lsn, time: chrono::DateTime<chrono::Utc>) {
    for range in ranges {
        if range.from.lsn == end && range.from.time.is_none() {
            range.from.time = Some(time);
        }
        if range.to.lsn == end && range.to.time.is_none() {
            range.to.time = Some(time);
        }
    }
}
