//! What goes and what stays, of all lineages of a cluster.
//!
//! Everything that is kept is kept for a reason, and with it all that it needs. What is needed follows from the catalog as a
//! recovery sees it: for every path of timelines on which a kept moment can be reached, the backup that a plan would begin
//! with, and its WAL up to that moment. So the plan of a recovery to a kept moment is the same before and after.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::draft::{Draft, Wanted};
use super::holdings::{Holdings, OpenBackup};
use super::judge::Judge;
use super::kept_wal::KeptWal;
use super::moments::{LostMoments, lost_moments, new_holes};
use super::policy::{Grid, Order, Policy};
use super::reason::BackupReason;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::{BackupId, BackupManifest};
use crate::repository::catalog::{Catalog, Gap};
use crate::repository::lineage::LineageId;
use crate::repository::pin::PinSubject;

/// A backup that put nothing for so long is not being taken any more.
const SILENCE: TimeDelta = TimeDelta::hours(1);
/// What an interrupted one stored may be of use for so long.
const RESUMABLE: TimeDelta = TimeDelta::days(7);

/// A backup, and why it stays; it goes where there is no reason.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupVerdict {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub stop_lsn: Lsn,
    pub stop_time: DateTime<Utc>,
    pub stored_bytes: u64,
    pub reasons: Vec<BackupReason>,
}

impl BackupVerdict {
    #[must_use]
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// A marker, and whether its document stays.
#[derive(Clone, Debug, PartialEq)]
pub struct MarkerVerdict {
    pub name: String,
    pub timeline: TimelineId,
    pub lsn: Lsn,
    pub time: DateTime<Utc>,
    pub pinned: bool,
    pub stays: bool,
}

/// Of one lineage.
#[derive(Clone, Debug)]
pub struct LineagePlan {
    pub lineage: LineageId,
    /// Oldest first.
    pub backups: Vec<BackupVerdict>,
    pub markers: Vec<MarkerVerdict>,
    /// Backups without a manifest that are given up.
    pub abandoned: Vec<BackupId>,
    /// A backup that is being taken, or may be taken up again: what nothing names waits for it.
    pub waits_for: Option<BackupId>,
    /// What keeps anything from being deleted.
    pub held_up: Option<String>,
    /// Nothing of it is kept: it goes as a whole.
    pub ends: bool,
    pub lost: Vec<LostMoments>,
    /// Holes that the deletion leaves in the WAL, to be noted before.
    pub holes: Vec<Gap>,
    /// What will be left.
    pub after: Catalog,
    judge: Judge,
}

impl LineagePlan {
    #[must_use]
    pub const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Whether a backup goes, be its manifest readable or not.
    #[must_use]
    pub fn deletes(&self, id: &BackupId) -> bool {
        self.judge.deletes(id)
    }

    /// Complete backups that go.
    pub fn going(&self) -> impl Iterator<Item = &BackupVerdict> {
        self.backups.iter().filter(|backup| !backup.stays())
    }
}

/// Of a cluster.
#[derive(Clone, Debug)]
pub struct ExpirePlan {
    pub now: DateTime<Utc>,
    /// Oldest first.
    pub lineages: Vec<LineagePlan>,
}

/// Why what was asked is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no backup \"{0}\"")]
    NoSuchBackup(BackupId),
    #[error("the backup \"{0}\" is pinned")]
    Pinned(BackupId),
    #[error("the backup \"{0}\" is the last one that can be restored")]
    LastBackup(BackupId),
    #[error("the backup \"{of}\" is being taken and shares pages of \"{id}\"")]
    Parent { id: BackupId, of: BackupId },
}

impl Refusal {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSuchBackup(_) => "\"pitr info\" lists the backups",
            Self::Pinned(_) => "\"pitr unpin\" releases it, --force deletes it all the same",
            Self::LastBackup(_) => "take another one first with \"pitr backup\"; --force deletes it all the same",
            Self::Parent { .. } => "wait until that backup is over",
        }
    }
}

/// Plans for all lineages of a cluster, which come oldest first.
///
/// # Errors
/// A backup that was named cannot be deleted.
pub fn plan(cluster: &[Holdings], order: &Order, now: DateTime<Utc>) -> Result<ExpirePlan, Refusal> {
    let (policy, named, forced) = match order {
        Order::Policy(policy) => (policy.clone(), &[][..], false),
        Order::Named { backups, forced, grace } => (Policy::keep_all(*grace), backups.as_slice(), *forced),
    };
    refuse(cluster, named, forced, now)?;
    let usable = usable_backups(cluster);
    let mut wanted = Wanted { begin: policy.window_begin(now), by_rule: BTreeMap::new() };
    // A restored copy's backups are not the cluster's.
    let mut families: BTreeMap<Option<&str>, Vec<Usable<'_>>> = BTreeMap::new();
    for one in &usable {
        families.entry(one.copy).or_default().push(*one);
    }
    for family in families.values().filter(|_| wanted.begin.is_some()) {
        for (id, reasons) in kept_by_rule(family, &policy) {
            wanted.by_rule.entry(id).or_default().extend(reasons);
        }
    }
    let live = live_lineages(cluster);
    let plans = cluster.iter().map(|held| {
        let mut draft = Draft::new(held);
        let held_up = held_up(held, named);
        // What a person names goes all the same.
        let nothing_usable = !families.contains_key(&held.catalog.lineage.restore.as_deref());
        if nothing_usable && named.is_empty() && wanted.begin.is_some() {
            draft.keep_all(&BackupReason::NothingElse);
        } else if !named.is_empty() {
            draft.keep_all(&BackupReason::NotNamed);
            draft.release(named);
        } else if wanted.begin.is_none() || held_up.is_some() {
            draft.keep_all(&BackupReason::NoRule);
        } else {
            draft.keep_wanted(&wanted, live.contains(&held.id()), policy.markers_begin(now));
        }
        for parent in open_backups(held, now).filter_map(|open| open.parent.clone().map(|id| (id, open.id.clone()))) {
            draft.keep_backup(&parent.0, BackupReason::Parent { of: parent.1 });
        }
        draft.keep_wal_of_backups();
        finish(draft, held_up, live.contains(&held.id()), &policy, named, now)
    });
    Ok(ExpirePlan { now, lineages: plans.collect() })
}

fn finish(
    draft: Draft<'_>,
    held_up: Option<String>,
    live: bool,
    policy: &Policy,
    named: &[BackupId],
    now: DateTime<Utc>,
) -> LineagePlan {
    let held = draft.held();
    let begin = policy.window_begin(now);
    let (keeps, wal) = draft.into_parts();
    let backups: Vec<BackupVerdict> = held.catalog.backups.iter().map(|backup| verdict(backup, &keeps)).collect();
    let markers = marker_verdicts(held, &wal, policy, now);
    let open: Vec<&OpenBackup> = open_backups(held, now).collect();
    let abandoned = held.open.iter().filter(|one| !open.contains(one)).map(|one| one.id.clone()).collect();
    let recent = |time: &DateTime<Utc>| begin.is_none_or(|begin| *time >= begin);
    let ends =
        !live
            && held_up.is_none()
            && begin.is_some()
            && backups.is_empty()
            && held.parts.keys().chain(&held.unreadable).all(|id| {
                held.condemned_since(id).is_none_or(|since| since <= super::policy::before(now, policy.grace))
            })
            && open.is_empty()
            && held.pins.is_empty()
            && !held.wal_stored.values().any(recent)
            && !recent(&held.catalog.lineage.created)
            && !held.catalog.lease.as_ref().is_some_and(|lease| recent(&lease.time))
            && markers.iter().all(|marker| !marker.stays);
    let after = after(&held.catalog, &backups, &wal, &markers);
    let (lost, holes) = (lost_moments(&held.catalog, &after), new_holes(&held.catalog, &after));
    let waits_for = open.iter().map(|open| open.id.clone()).max();
    let judge = Judge::new(held, &backups, &markers, &open, wal, &holes, ends, policy, named, now);
    LineagePlan { lineage: held.id(), backups, markers, abandoned, waits_for, held_up, ends, lost, holes, after, judge }
}

fn verdict(backup: &BackupManifest, keeps: &BTreeMap<BackupId, BTreeSet<BackupReason>>) -> BackupVerdict {
    BackupVerdict {
        id: backup.id.clone(),
        timeline: backup.timeline,
        stop_lsn: backup.stop_lsn,
        stop_time: backup.stop_time,
        stored_bytes: backup.stored_bytes,
        reasons: keeps.get(&backup.id).map(|reasons| reasons.iter().cloned().collect()).unwrap_or_default(),
    }
}

/// A document of a marker stays as long as a rule wants the marker, or its WAL is there: whoever decodes that WAL again would
/// find the restore point and make the marker anew.
fn marker_verdicts(held: &Holdings, wal: &KeptWal, policy: &Policy, now: DateTime<Utc>) -> Vec<MarkerVerdict> {
    let size = held.catalog.segment_size();
    let begins: Vec<_> = [policy.window_begin(now), policy.markers_begin(now)].into_iter().flatten().collect();
    let verdict = |finished: &crate::repository::marker::FinishedMarker| {
        let marker = &finished.marker;
        let pinned = is_marker_pinned(held, marker);
        let young = policy.window.is_none() || begins.iter().any(|begin| marker.time >= *begin);
        let readable = wal.why(marker.timeline, size.segment_of(marker.lsn)).is_some();
        MarkerVerdict {
            name: marker.name.clone(),
            timeline: marker.timeline,
            lsn: marker.lsn,
            time: marker.time,
            pinned,
            stays: pinned || young || readable,
        }
    };
    held.catalog.markers.iter().map(verdict).collect()
}

pub(super) fn is_marker_pinned(held: &Holdings, marker: &crate::repository::marker::Marker) -> bool {
    held.pins.iter().any(|pin| {
        matches!(&pin.subject, PinSubject::Marker { timeline, lsn, name }
            if (*timeline, *lsn, name) == (marker.timeline, marker.lsn, &marker.name))
    })
}

/// The catalog as it will be.
fn after(catalog: &Catalog, backups: &[BackupVerdict], wal: &KeptWal, markers: &[MarkerVerdict]) -> Catalog {
    let mut after = catalog.clone();
    after.backups.retain(|backup| backups.iter().any(|verdict| verdict.id == backup.id && verdict.stays()));
    after.markers.retain(|finished| {
        let marker = &finished.marker;
        markers.iter().any(|verdict| {
            verdict.stays
                && (verdict.timeline, verdict.lsn, &verdict.name) == (marker.timeline, marker.lsn, &marker.name)
        })
    });
    for (tli, timeline) in &mut after.timelines {
        timeline.wal = timeline.wal.within(&wal.merged(*tli));
    }
    after.timelines.retain(|tli, timeline| *tli != TimelineId::FIRST || !timeline.wal.is_empty());
    after
}

fn refuse(cluster: &[Holdings], named: &[BackupId], forced: bool, now: DateTime<Utc>) -> Result<(), Refusal> {
    let usable = usable_backups(cluster);
    for id in named {
        let known = cluster.iter().any(|held| held.catalog.backup(id).is_some() || damaged_manifest(held, id));
        if !known {
            return Err(Refusal::NoSuchBackup(id.clone()));
        }
        if !forced && cluster.iter().any(|held| held.is_pinned(id)) {
            return Err(Refusal::Pinned(id.clone()));
        }
        for held in cluster {
            if let Some(open) = open_backups(held, now).find(|open| open.parent.as_ref() == Some(id)) {
                return Err(Refusal::Parent { id: id.clone(), of: open.id.clone() });
            }
        }
    }
    let left = usable.iter().any(|usable| !named.contains(&usable.backup.id));
    match usable.iter().rev().find(|usable| named.contains(&usable.backup.id)) {
        Some(last) if !left && !forced => Err(Refusal::LastBackup(last.backup.id.clone())),
        _ => Ok(()),
    }
}

fn damaged_manifest(held: &Holdings, id: &BackupId) -> bool {
    let end = format!("/backups/{id}/manifest.json");
    held.catalog.damaged.iter().any(|damaged| damaged.key.ends_with(&end))
}

/// While something cannot be read that says what is needed, nothing goes.
fn held_up(held: &Holdings, named: &[BackupId]) -> Option<String> {
    let says_what_is_needed = |key: &str| {
        ["/manifest.json", ".history.zst", "/lease"].iter().any(|end| key.ends_with(end))
            || ["/markers/", "/pins/", "/condemned/"].iter().any(|part| key.contains(part))
    };
    let is_named = |key: &str| named.iter().any(|id| key.ends_with(&format!("/backups/{id}/manifest.json")));
    let damaged = held.catalog.damaged.iter().find(|d| says_what_is_needed(&d.key) && !is_named(&d.key))?;
    Some(format!("\"{}\" cannot be read, and may say what is needed: {}", damaged.key, damaged.reason))
}

/// Backups that are being taken, or may be taken up again; and those that one of them takes up.
fn open_backups(held: &Holdings, now: DateTime<Utc>) -> impl Iterator<Item = &OpenBackup> {
    let mut open: BTreeSet<&BackupId> = BTreeSet::new();
    let mut found: Vec<&OpenBackup> = held.open.iter().filter(|open| may_go_on(held, open, now)).collect();
    while let Some(one) = found.pop() {
        if open.insert(&one.id) {
            found.extend(held.open.iter().filter(|other| one.resumes.as_ref() == Some(&other.id)));
        }
    }
    held.open.iter().filter(move |one| open.contains(&one.id))
}

fn may_go_on(held: &Holdings, open: &OpenBackup, now: DateTime<Utc>) -> bool {
    let silent = now - open.active;
    let superseded = held.catalog.backups.iter().any(|backup| backup.id > open.id);
    silent < SILENCE || (!superseded && silent < RESUMABLE)
}

/// The newest lineage, and the one whose agent was heard of last.
fn live_lineages(cluster: &[Holdings]) -> Vec<LineageId> {
    let heard = cluster.iter().filter_map(|held| Some((held.catalog.lease.as_ref()?.time, held.id()))).max();
    let newest = cluster.iter().rev().find(|held| held.catalog.lineage.restore.is_none()).or(cluster.last());
    newest.map(Holdings::id).into_iter().chain(heard.map(|(_, id)| id)).collect()
}

/// A backup that can be restored.
#[derive(Clone, Copy, Debug)]
struct Usable<'a> {
    backup: &'a BackupManifest,
    /// Whether it is on the way to where the cluster is.
    on_live_path: bool,
    /// Of a restored copy: which.
    copy: Option<&'a str>,
}

/// By when they ended.
fn usable_backups(cluster: &[Holdings]) -> Vec<Usable<'_>> {
    let mut usable: Vec<Usable<'_>> = Vec::new();
    for held in cluster {
        let catalog = &held.catalog;
        let paths: Vec<_> = catalog.timelines.values().filter_map(|known| known.path.as_ref()).collect();
        let live = catalog.default_timeline();
        for backup in &catalog.backups {
            let mut serving = paths.iter().filter(|path| catalog.check_backup(backup, path).is_ok()).peekable();
            if serving.peek().is_some() {
                let on_live_path = serving.any(|path| Some(path.tli()) == live);
                usable.push(Usable { backup, on_live_path, copy: catalog.lineage.restore.as_deref() });
            }
        }
    }
    usable.sort_by_key(|usable| (usable.backup.stop_time, usable.backup.id.clone()));
    usable
}

/// What the minimum and the grids keep.
fn kept_by_rule(usable: &[Usable<'_>], policy: &Policy) -> BTreeMap<BackupId, BTreeSet<BackupReason>> {
    let mut kept: BTreeMap<BackupId, BTreeSet<BackupReason>> = BTreeMap::new();
    let mut keep = |backup: &BackupManifest, reason| {
        kept.entry(backup.id.clone()).or_default().insert(reason);
    };
    // The last backup is nobody's to delete by a rule.
    let minimum = usize::try_from(policy.minimum.max(1)).unwrap_or(usize::MAX);
    for usable in usable.iter().rev().take(minimum) {
        keep(usable.backup, BackupReason::Minimum);
    }
    for grid in Grid::ALL {
        let mut newest: BTreeMap<String, Usable<'_>> = BTreeMap::new();
        for usable in usable {
            let period = grid.period(usable.backup.stop_time, policy.zone);
            let place = newest.entry(period).or_insert(*usable);
            // They come by time: of those on the same footing the later one is the newest.
            if usable.on_live_path >= place.on_live_path {
                *place = *usable;
            }
        }
        let count = usize::try_from(grid.count(policy)).unwrap_or(usize::MAX);
        for (period, usable) in newest.into_iter().rev().take(count) {
            keep(usable.backup, BackupReason::Grid { grid, period });
        }
    }
    kept
}
