//! From a target to what is looked for in which WAL, as far as the catalog alone can tell.

use chrono::{DateTime, Utc};

use super::error::{Nearest, PlanError};
use super::plan::PlanWarning;
use super::request::{PlanRequest, SeveralMarkers};
use super::scan::Goal;
use super::target::{MarkerRef, MarkerSide, RecoveryTarget, TargetTimeline};
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, TimelineId, TransactionId};
use crate::repository::backup::{BackupId, BackupManifest};
use crate::repository::catalog::{Catalog, Moment, NoPath, timeline_of_end};
use crate::repository::marker::FinishedMarker;

/// The way to a target, and the backups to try.
#[derive(Clone, Debug, PartialEq)]
pub struct Aim {
    pub asked: RecoveryTarget,
    pub path: TimelinePath,
    pub goal: Goal,
    /// Best first; never empty.
    pub backups: Vec<BackupManifest>,
    pub warnings: Vec<PlanWarning>,
}

/// Where the target is, before any WAL was read.
enum Place {
    /// Wherever the goal finds it.
    Found(Goal),
    /// Behind everything that ends up to here.
    EndsAt { goal: Goal, end: Lsn },
}

impl Aim {
    /// Chooses path, goal and backups.
    ///
    /// # Errors
    /// What the catalog alone rules out.
    pub fn take(catalog: &Catalog, request: &PlanRequest, now: DateTime<Utc>) -> Result<Self, PlanError> {
        refuse_odd_combinations(request)?;
        if catalog.backups.is_empty() {
            return Err(PlanError::NoBackup {
                incomplete: catalog.incomplete.len(),
                damaged: catalog.damaged.iter().filter(|object| object.key.ends_with("/manifest.json")).count(),
            });
        }
        let mut path = chosen_path(catalog, request)?.clone();
        let mut warnings = Vec::new();
        let place = place(catalog, request, &path, now, &mut warnings)?;
        let goal = match place {
            Place::Found(goal) => goal,
            Place::EndsAt { goal, end } => {
                path = path_to(catalog, path, end);
                goal
            }
        };
        let backups = backups(catalog, request, &path, &place, &mut warnings)?;
        let goal = match (&request.target, backups.first()) {
            (RecoveryTarget::Immediate, Some(backup)) => Goal::FirstEnd(backup.stop_lsn),
            _ => goal,
        };
        let aim = Self { asked: request.target.clone(), path, goal, backups, warnings };
        aim.refuse_missing_wal(catalog, &place)?;
        Ok(aim)
    }

    /// A position that is known beforehand must be reached without a hole.
    fn refuse_missing_wal(&self, catalog: &Catalog, place: &Place) -> Result<(), PlanError> {
        let Some(backup) = self.backups.first() else { return Ok(()) };
        let reach = catalog.reach(&self.path, backup.start_lsn);
        let target = self.asked.to_string();
        match (place, reach.missing) {
            (Place::EndsAt { end, .. }, _) if reach.end >= *end => Ok(()),
            (Place::EndsAt { .. } | Place::Found(Goal::End), Some(missing)) => {
                let nearest = nearest_lsn(catalog, &self.path, missing.from);
                Err(PlanError::Gap { target, missing, nearest })
            }
            (Place::EndsAt { .. }, None) => Err(PlanError::BeyondEnd { target, end: reach.end }),
            (Place::Found(_), _) => Ok(()),
        }
    }
}

fn refuse_odd_combinations(request: &PlanRequest) -> Result<(), PlanError> {
    let exact =
        matches!(request.target, RecoveryTarget::Time { .. } | RecoveryTarget::Lsn { .. } | RecoveryTarget::Xid { .. });
    if request.exclusive && !exact {
        return Err(PlanError::Usage("--exclusive goes with a time, an LSN or a transaction"));
    }
    Ok(())
}

fn chosen_path<'a>(catalog: &'a Catalog, request: &PlanRequest) -> Result<&'a TimelinePath, PlanError> {
    let named = match &request.backup {
        Some(id) => Some(named_backup(catalog, id)?),
        None => None,
    };
    let timeline = match request.timeline {
        TargetTimeline::Id(timeline) => Some(timeline),
        TargetTimeline::Latest => catalog.default_timeline(),
        TargetTimeline::Current => named.or_else(|| catalog.backups.last()).map(|backup| backup.timeline),
    };
    let timeline = timeline.unwrap_or(TimelineId::FIRST);
    catalog.path(timeline).map_err(|fault| match fault {
        NoPath::Unknown(timeline) => {
            PlanError::UnknownTimeline { timeline, known: catalog.timelines.keys().copied().collect() }
        }
        NoPath::NoHistory(timeline) => PlanError::NoHistory { timeline },
    })
}

/// `path`, or, where its own files do not reach the position, the way that ends on the timeline on which that was written:
/// a timeline that has just begun may have no copy yet of the segment in which it begins.
fn path_to(catalog: &Catalog, path: TimelinePath, end: Lsn) -> TimelinePath {
    let segment = catalog.segment_size().start_of(catalog.segment_size().segment_before(end));
    let reaches = |path: &TimelinePath| catalog.reach(path, segment).end >= end;
    match catalog.path(timeline_of_end(&path, end)) {
        Ok(owner) if !reaches(&path) && reaches(owner) => owner.clone(),
        _ => path,
    }
}

fn place(
    catalog: &Catalog,
    request: &PlanRequest,
    path: &TimelinePath,
    now: DateTime<Utc>,
    warnings: &mut Vec<PlanWarning>,
) -> Result<Place, PlanError> {
    Ok(match &request.target {
        RecoveryTarget::Latest => Place::Found(Goal::End),
        // The backup's end takes the place of this once the backup is chosen.
        RecoveryTarget::Immediate => Place::Found(Goal::FirstEnd(Lsn::INVALID)),
        RecoveryTarget::Time { time } if *time > now => {
            return Err(PlanError::InTheFuture { target: request.target.to_string(), now });
        }
        RecoveryTarget::Time { time } => Place::Found(Goal::Time { time: *time, exclusive: request.exclusive }),
        // The server, exclusive, stops before the record that starts at the position or behind; a record that starts before
        // it and ends behind it is not wanted either way.
        RecoveryTarget::Lsn { lsn } => Place::EndsAt { goal: Goal::Lsn(*lsn), end: *lsn },
        RecoveryTarget::Xid { xid } => {
            let low = TransactionId::new((*xid & u64::from(u32::MAX)) as u32);
            Place::Found(Goal::Xid { xid: low, exclusive: request.exclusive })
        }
        RecoveryTarget::Marker { side, marker } => {
            let found = find_marker(catalog, request, path, marker, warnings)?;
            let (lsn, end) = match (side, &found.finish) {
                (MarkerSide::Before, _) => (found.marker.lsn, found.marker.end_lsn),
                (MarkerSide::After, Some(finish)) if path.contains(finish.timeline, finish.end_lsn) => {
                    (finish.lsn, finish.end_lsn)
                }
                (MarkerSide::After, Some(finish)) => {
                    let name = format!("{} (its finish)", marker.name);
                    let at = vec![(finish.timeline, finish.lsn)];
                    return Err(PlanError::MarkerElsewhere { name, timeline: path.tli(), at });
                }
                (MarkerSide::After, None) => return Err(PlanError::MarkerNotFinished { name: marker.to_string() }),
            };
            Place::EndsAt { goal: Goal::Record(lsn), end }
        }
    })
}

/// The marker, if it is the only one of its name in the history of the path, or if the newest is wanted.
fn find_marker<'a>(
    catalog: &'a Catalog,
    request: &PlanRequest,
    path: &TimelinePath,
    wanted: &MarkerRef,
    warnings: &mut Vec<PlanWarning>,
) -> Result<&'a FinishedMarker, PlanError> {
    // What pg_create_restore_point() returned is the end; whoever notes that down means the same marker.
    let at_position = |m: &&FinishedMarker| wanted.lsn.is_none_or(|lsn| m.marker.lsn == lsn || m.marker.end_lsn == lsn);
    let all: Vec<_> = catalog.markers.iter().filter(|m| m.marker.name == wanted.name).filter(at_position).collect();
    let on_path: Vec<_> = all.iter().copied().filter(|m| path.contains(m.marker.timeline, m.marker.end_lsn)).collect();
    match (on_path.as_slice(), request.several_markers) {
        ([one], _) => Ok(one),
        ([.., newest], SeveralMarkers::TakeNewest) => {
            warnings.push(PlanWarning::NewestOfSeveralMarkers { count: on_path.len() as u64 });
            Ok(newest)
        }
        ([_, _, ..], SeveralMarkers::Refuse) => {
            let markers = on_path.into_iter().cloned().collect();
            Err(PlanError::AmbiguousMarker { name: wanted.name.clone(), markers })
        }
        ([], _) if all.is_empty() => {
            Err(PlanError::NoSuchMarker { name: wanted.to_string(), similar: similar_names(catalog, &wanted.name) })
        }
        ([], _) => {
            let at = all.iter().map(|m| (m.marker.timeline, m.marker.lsn)).collect();
            Err(PlanError::MarkerElsewhere { name: wanted.to_string(), timeline: path.tli(), at })
        }
    }
}

fn similar_names(catalog: &Catalog, name: &str) -> Vec<String> {
    let mut names: Vec<_> = catalog.markers.iter().map(|m| m.marker.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut scored: Vec<_> = names.iter().map(|known| (strsim::jaro_winkler(known, name), *known)).collect();
    scored.retain(|(score, _)| *score > 0.85);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().map(|(_, known)| known.to_owned()).collect()
}

fn named_backup<'a>(catalog: &'a Catalog, id: &BackupId) -> Result<&'a BackupManifest, PlanError> {
    catalog.backup(id).ok_or_else(|| PlanError::NoSuchBackup {
        id: id.clone(),
        newest: catalog.backups.last().map(|backup| backup.id.clone()),
    })
}

fn backups(
    catalog: &Catalog,
    request: &PlanRequest,
    path: &TimelinePath,
    place: &Place,
    warnings: &mut Vec<PlanWarning>,
) -> Result<Vec<BackupManifest>, PlanError> {
    let target = request.target.to_string();
    if let Some(id) = &request.backup {
        let backup = named_backup(catalog, id)?;
        catalog.check_backup(backup, path).map_err(|fault| PlanError::UnusableBackup { id: id.clone(), fault })?;
        if !serves(backup, place) {
            return Err(PlanError::BeforeNamedBackup { target, id: id.clone(), end: backup.stop_lsn });
        }
        return Ok(vec![backup.clone()]);
    }
    let usable = catalog.backups_on(path);
    if usable.is_empty() {
        return Err(no_usable_backup(catalog, path));
    }
    if let Some(newest) = catalog.newest_backup_id(path).filter(|_| request.target == RecoveryTarget::Immediate)
        && usable.iter().all(|backup| backup.id != *newest)
    {
        return Err(no_usable_backup(catalog, path));
    }
    // Where a clock was set back, a later backup can have an earlier time; the first moment that the time names counts.
    let first_later = usable.iter().position(|backup| !serves(backup, place)).unwrap_or(usable.len());
    let (serving, later) = usable.split_at(first_later);
    if let Some(doubtful) = later.iter().find(|backup| serves(backup, place)) {
        warnings.push(PlanWarning::TimesNotMonotonic { lsn: doubtful.stop_lsn });
    }
    if serving.is_empty() {
        let after = usable.first().map(|first| Moment { lsn: first.stop_lsn, time: Some(first.stop_time) });
        return Err(PlanError::BeforeFirstBackup { target, nearest: Nearest { before: None, after } });
    }
    Ok(serving.iter().rev().map(|backup| (*backup).clone()).collect())
}

/// Whether a backup ends early enough, as far as can be told without reading WAL.
fn serves(backup: &BackupManifest, place: &Place) -> bool {
    match place {
        Place::EndsAt { end, .. } => backup.stop_lsn <= *end,
        Place::Found(Goal::Time { time, .. }) => backup.stop_time <= *time,
        Place::Found(_) => true,
    }
}

/// Every backup on the path has a hole in its own WAL, or there is none on it.
fn no_usable_backup(catalog: &Catalog, path: &TimelinePath) -> PlanError {
    let newest = catalog.newest_backup_id(path).and_then(|id| catalog.backup(id));
    match newest.map(|backup| (backup, catalog.check_backup(backup, path))) {
        Some((backup, Err(fault))) => PlanError::UnusableBackup { id: backup.id.clone(), fault },
        _ => {
            let mut other_timelines: Vec<_> = catalog.backups.iter().map(|backup| backup.timeline).collect();
            other_timelines.sort_unstable();
            other_timelines.dedup();
            PlanError::NoBackupOnTimeline { timeline: path.tli(), other_timelines }
        }
    }
}

/// The reachable moments on both sides of a position.
pub(super) fn nearest_lsn(catalog: &Catalog, path: &TimelinePath, lsn: Lsn) -> Nearest {
    let windows = catalog.windows_on(path);
    let before = windows.iter().rev().find(|window| window.from.lsn <= lsn);
    Nearest {
        before: before.map(|window| if window.to.lsn <= lsn { window.to } else { Moment { lsn, time: None } }),
        after: windows.iter().find(|window| window.from.lsn > lsn).map(|window| window.from),
    }
}
