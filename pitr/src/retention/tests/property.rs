//! Whatever the history and the rules: every moment that was to be kept and could be reached, can be reached by the same plan
//! once everything is deleted that may be. The expectation is worked out from recovery's own view of the catalog, before and
//! after, for every moment, and shares nothing with the planner.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::history::{History, random};
use crate::postgres::{Lsn, TimelineId};
use crate::recovery::{Aim, MarkerRef, MarkerSide, PlanRequest, RecoveryTarget, TargetTimeline};
use crate::repository::LineageObject;
use crate::repository::backup::BackupId;
use crate::repository::catalog::testing::{MIB, at, lsn, size};
use crate::repository::catalog::{Catalog, DurableWal, LsnRange};
use crate::repository::gap::{GapCause, GapNote};
use crate::repository::pin::PinSubject;
use crate::retention::{ExpirePlan, Fate, Grid, Holdings, Order, Policy, plan};

fn policy(rng: &mut StdRng) -> Policy {
    let hours = |rng: &mut StdRng, most| TimeDelta::hours(rng.random_range(0..most));
    Policy {
        window: Some(hours(rng, 40)),
        daily: rng.random_range(0..3),
        weekly: rng.random_range(0..2),
        monthly: rng.random_range(0..2),
        markers: rng.random_bool(0.5).then(|| hours(rng, 60)),
        minimum: rng.random_range(0..3),
        grace: TimeDelta::zero(),
        zone: Tz::UTC,
    }
}

/// What is left of a history when all is gone that may go, now or later: read from the names of the objects.
fn left(history: &History, plan: &ExpirePlan) -> Catalog {
    let id = history.held.id();
    let judge = plan.lineages.iter().find(|lineage| lineage.lineage == id).unwrap().judge();
    let layout = history.layout();
    let mut catalog = history.held.catalog.clone();
    for timeline in catalog.timelines.values_mut() {
        timeline.wal = DurableWal::new(size());
    }
    let mut manifests = BTreeSet::new();
    for meta in history.objects.iter().filter(|meta| judge.judge(meta).fate == Fate::Keep) {
        match layout.classify(&meta.key).unwrap() {
            LineageObject::Segment(name) => {
                let timeline = catalog.timelines.get_mut(&name.tli()).unwrap();
                timeline.wal.add_segment(name.number(size()).unwrap());
            }
            LineageObject::Tail { segment, from, to } => {
                let timeline = catalog.timelines.get_mut(&segment.tli()).unwrap();
                timeline.wal.add_tail(segment.number(size()).unwrap(), LsnRange { from, to }).unwrap();
            }
            LineageObject::Manifest(id) => {
                manifests.insert(id);
            }
            _ => {}
        }
    }
    catalog.backups.retain(|backup| manifests.contains(&backup.id));
    catalog
}

fn request(timeline: TimelineId, target: RecoveryTarget, backup: Option<&BackupId>) -> PlanRequest {
    let mut request = PlanRequest::new(target);
    request.timeline = TargetTimeline::Id(timeline);
    request.backup = backup.cloned();
    request
}

/// The backup a plan begins with, and how far its WAL goes; none where there is no plan.
fn reached(catalog: &Catalog, request: &PlanRequest, now: DateTime<Utc>) -> Option<(BackupId, Lsn)> {
    let aim = Aim::take(catalog, request, now).ok()?;
    let first = aim.backups.first()?;
    let end = catalog.reach(&aim.path, first.start_lsn).end;
    Some((first.id.clone(), end))
}

struct Oracle<'a> {
    history: &'a History,
    after: Catalog,
    policy: &'a Policy,
    now: DateTime<Utc>,
    seed: u64,
}

impl Oracle<'_> {
    fn before(&self) -> &Catalog {
        &self.history.held.catalog
    }

    fn same(&self, what: &str, request: &PlanRequest) {
        let before = reached(self.before(), request, self.now);
        if before.is_some() {
            let after = reached(&self.after, request, self.now);
            assert_eq!(after, before, "seed {}: {what}: {request:?}", self.seed);
        }
    }

    /// A known position: the same backup, and no hole on the way; what lies behind it is another matter.
    fn same_position(&self, what: &str, request: &PlanRequest, end: Lsn) {
        let before = reached(self.before(), request, self.now).filter(|(_, reach)| *reach >= end);
        if let Some((id, _)) = before {
            let after = reached(&self.after, request, self.now);
            let kept = after.as_ref().is_some_and(|(found, reach)| *found == id && *reach >= end);
            assert!(kept, "seed {}: {what}: {request:?}: {id} before, {after:?} after", self.seed);
        }
    }

    fn window(&self) {
        let begin = self.now - self.policy.window.unwrap();
        for (timeline, known) in &self.before().timelines {
            let end = known.wal.end().unwrap_or(Lsn::new(MIB));
            let ends = self.before().backups.iter().map(|backup| backup.stop_lsn.as_u64());
            let grid = (MIB + 1..=end.as_u64()).step_by(1 << 18);
            for position in grid.chain(ends).chain([end.as_u64()]).filter(|p| *p > MIB && *p <= end.as_u64()) {
                let time = self.history.time_on(*timeline, lsn(position));
                if time < begin || time > self.now {
                    continue;
                }
                let lsn_target = RecoveryTarget::Lsn { lsn: lsn(position) };
                self.same_position("position in the window", &request(*timeline, lsn_target, None), lsn(position));
                let path = self.before().path(*timeline).unwrap();
                // A time means a moment on the way to the timeline that was asked for.
                if path.tli_at(lsn(position - 1)) == *timeline {
                    self.same("time in the window", &request(*timeline, RecoveryTarget::Time { time }, None));
                }
            }
        }
    }

    fn markers(&self) {
        for found in &self.before().markers {
            let marker = &found.marker;
            let pinned = self.history.held.pins.iter().any(|pin| {
                matches!(&pin.subject, PinSubject::Marker { lsn, name, .. } if *lsn == marker.lsn && *name == marker.name)
            });
            let in_window = marker.time >= self.now - self.policy.window.unwrap();
            let young = self.policy.markers.is_some_and(|span| marker.time >= self.now - span);
            if !(pinned || young || in_window) {
                continue;
            }
            for timeline in self.before().timelines.keys() {
                let marker_ref = MarkerRef { name: marker.name.clone(), lsn: Some(marker.lsn) };
                let sides = [
                    (MarkerSide::Before, Some(marker.end_lsn)),
                    (MarkerSide::After, found.finish.as_ref().map(|finish| finish.end_lsn)),
                ];
                for (side, end) in sides {
                    let Some(end) = end else { continue };
                    let target = RecoveryTarget::Marker { side, marker: marker_ref.clone() };
                    self.same_position("kept marker", &request(*timeline, target, None), end);
                }
            }
        }
    }

    /// What stays is as good as it was.
    fn backups(&self) {
        for backup in &self.after.backups {
            for timeline in self.before().timelines.keys() {
                let request = request(*timeline, RecoveryTarget::Immediate, Some(&backup.id));
                self.same_position("kept backup", &request, backup.stop_lsn);
            }
        }
        for pin in &self.history.held.pins {
            if let PinSubject::Backup { id } = &pin.subject {
                assert!(self.after.backup(id).is_some(), "seed {}: {id} was pinned", self.seed);
            }
        }
    }

    /// Every hole that is new has a note; with these notes none of them looks like a loss.
    fn holes(&self, plan: &ExpirePlan) {
        let lineage = plan.lineages.iter().find(|lineage| lineage.lineage == self.history.held.id()).unwrap();
        let mut noted = self.after.clone();
        noted.gap_notes.extend(lineage.holes.iter().map(|hole| GapNote {
            timeline: hole.timeline,
            from_lsn: hole.from_lsn,
            to_lsn: hole.to_lsn,
            cause: GapCause::Expired,
            reason: "no rule keeps it".to_owned(),
            noticed: self.now,
            who: "test".to_owned(),
        }));
        let was = self.before().gaps();
        for gap in noted.gaps().iter().filter(|gap| gap.to_lsn.is_some() && !gap.expired) {
            let known = was.iter().any(|known| (known.from_lsn, known.to_lsn) == (gap.from_lsn, gap.to_lsn));
            assert!(known, "seed {}: {gap:?} looks like a loss", self.seed);
        }
    }

    fn packs_and_maps(&self, plan: &ExpirePlan) {
        let lineage = plan.lineages.iter().find(|lineage| lineage.lineage == self.history.held.id()).unwrap();
        let judge = lineage.judge();
        let layout = self.history.layout();
        let kept: BTreeSet<String> = self
            .history
            .objects
            .iter()
            .filter(|meta| judge.judge(meta).fate == Fate::Keep)
            .map(|meta| meta.key.to_string())
            .collect();
        for backup in &self.after.backups {
            let parts = &self.history.held.parts[&backup.id];
            let needed = parts.packs().map(|pack| layout.pack(&pack)).chain(parts.maps().map(|map| layout.map(map)));
            for key in needed.chain([layout.contents(&backup.id)]) {
                assert!(kept.contains(key.as_str()), "seed {}: {} needs {key}", self.seed, backup.id);
            }
        }
    }
}

fn usable(catalog: &Catalog) -> Vec<(DateTime<Utc>, BackupId)> {
    let paths: Vec<_> = catalog.timelines.values().filter_map(|known| known.path.as_ref()).collect();
    let serves = |backup: &&crate::repository::backup::BackupManifest| {
        paths.iter().any(|path| catalog.check_backup(backup, path).is_ok())
    };
    catalog.backups.iter().filter(serves).map(|backup| (backup.stop_time, backup.id.clone())).collect()
}

/// The minimum and the grids, over all lineages.
fn rules_hold(histories: &[History], after: &[Catalog], policy: &Policy, seed: u64) {
    let mut before: Vec<_> = histories.iter().flat_map(|history| usable(&history.held.catalog)).collect();
    before.sort();
    let left: BTreeSet<_> = after.iter().flat_map(usable).collect();
    for newest in before.iter().rev().take(policy.minimum as usize) {
        assert!(left.contains(newest), "seed {seed}: {newest:?} is one of the newest");
    }
    for grid in Grid::ALL {
        let mut periods: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for backup in &before {
            periods.entry(grid.period(backup.0, policy.zone)).or_default().push(backup);
        }
        for (period, backups) in periods.iter().rev().take(grid.count(policy) as usize) {
            assert!(backups.iter().any(|backup| left.contains(*backup)), "seed {seed}: nothing of {period} is left");
        }
    }
    assert!(before.is_empty() || policy.minimum == 0 || !left.is_empty(), "seed {seed}");
}

/// A restored copy that takes backups of its own takes no place of the cluster's.
#[test]
fn backups_of_a_copy_push_out_none_of_the_cluster() {
    for seed in 0..40 {
        let (cluster, mut copy) = (random(seed, 7, at(0)), random(seed + 1000, 8, at(86_400)));
        copy.held.catalog.lineage.restore = Some("r1".to_owned());
        let now = copy.last_time().max(cluster.last_time()) + TimeDelta::days(9);
        let mut policy = Policy::keep_all(TimeDelta::zero());
        (policy.window, policy.minimum, policy.daily) = (Some(TimeDelta::hours(1)), 2, 2);
        let order = Order::Policy(policy);
        let stays = |held: &[Holdings]| {
            let planned = plan(held, &order, now).unwrap();
            let backups = planned.lineages[0].backups.clone();
            backups
                .into_iter()
                .filter(super::super::plan::BackupVerdict::stays)
                .map(|backup| backup.id)
                .collect::<Vec<_>>()
        };
        let alone = stays(std::slice::from_ref(&cluster.held));
        let beside = stays(&[cluster.held.clone(), copy.held.clone()]);
        assert!(alone.iter().all(|id| beside.contains(id)), "seed {seed}: {alone:?}, {beside:?}");
    }
}

fn check(seed: u64) -> (u64, u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let policy = policy(&mut rng);
    let mut histories = vec![random(seed, 7, at(0))];
    if rng.random_bool(0.4) {
        let begun = histories[0].last_time() + TimeDelta::hours(rng.random_range(0..5));
        histories.push(random(seed.wrapping_add(1), 8, begun));
    }
    let last = histories.iter().map(History::last_time).max().unwrap();
    let now = last + TimeDelta::minutes(rng.random_range(0..2_400));
    let cluster: Vec<Holdings> = histories.iter().map(|history| history.held.clone()).collect();
    let planned = plan(&cluster, &Order::Policy(policy.clone()), now).unwrap();
    let after: Vec<Catalog> = histories.iter().map(|history| left(history, &planned)).collect();
    for (history, after) in histories.iter().zip(&after) {
        let oracle = Oracle { history, after: after.clone(), policy: &policy, now, seed };
        oracle.window();
        oracle.markers();
        oracle.backups();
        oracle.holes(&planned);
        oracle.packs_and_maps(&planned);
    }
    rules_hold(&histories, &after, &policy, seed);
    let count = |catalogs: &mut dyn Iterator<Item = &Catalog>| {
        catalogs.flat_map(|catalog| catalog.timelines.values()).map(|known| known.wal.whole_segments()).sum::<u64>()
    };
    (count(&mut histories.iter().map(|history| &history.held.catalog)), count(&mut after.iter()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_that_a_kept_moment_needs_goes(seed in any::<u64>()) {
        check(seed);
    }
}

/// A planner that kept everything would pass the property.
#[test]
fn much_goes() {
    let (before, after) = (0..60).map(check).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(after * 10 < before * 7, "{after} of {before} segments are left");
}
