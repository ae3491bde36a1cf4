//! Random clusters, with what each of their objects is called.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::postgres::{Lsn, SegmentNumber, SystemIdentifier, TimelineId};
use crate::repository::NoteId;
use crate::repository::backup::{BackupManifest, PackId};
use crate::repository::catalog::testing::{MIB, at, backup, catalog, lease, lsn, path, size, tli};
use crate::repository::catalog::{Catalog, CatalogTimeline, DurableWal, LsnRange};
use crate::repository::hash::ContentHash;
use crate::repository::layout::LineageLayout;
use crate::repository::lineage::LineageId;
use crate::repository::marker::{Finish, FinishedMarker, Marker, MarkerSource, Outcome};
use crate::repository::pin::{Pin, PinSubject};
use crate::retention::{BackupParts, Holdings, PackUse};
use crate::storage::{ObjectKey, ObjectMeta, VersionTag};

/// A timeline of a history: which it left, where, and how far it goes.
#[derive(Clone, Debug)]
pub struct Branch {
    pub id: u32,
    pub ancestors: Vec<(u32, u64)>,
    pub begin: u64,
    pub end: u64,
    /// When its first byte was written.
    pub begun: DateTime<Utc>,
}

/// One lineage with a meaning for every position.
#[derive(Clone, Debug)]
pub struct History {
    pub branches: Vec<Branch>,
    pub held: Holdings,
    pub objects: Vec<ObjectMeta>,
}

/// A MiB of WAL takes an hour.
fn span(bytes: u64) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(bytes * 3_600_000 / MIB).unwrap())
}

impl History {
    /// When the byte before `position` was written, as seen on the way to `timeline`.
    pub fn time_on(&self, timeline: TimelineId, position: Lsn) -> DateTime<Utc> {
        let path = self.held.catalog.path(timeline).unwrap();
        let owner = path.tli_at(Lsn::new(position.as_u64() - 1));
        let branch = self.branches.iter().find(|branch| branch.id == owner.as_u32()).unwrap();
        branch.begun + span(position.as_u64() - branch.begin)
    }

    pub fn last_time(&self) -> DateTime<Utc> {
        self.branches.iter().map(|branch| branch.begun + span(branch.end - branch.begin)).max().unwrap()
    }

    pub fn layout(&self) -> LineageLayout {
        let lineage = &self.held.catalog.lineage;
        LineageLayout::new(&lineage.cluster, lineage.lineage)
    }
}

fn branches(rng: &mut StdRng, begun: DateTime<Utc>) -> Vec<Branch> {
    let first_end = rng.random_range(6 * MIB..40 * MIB);
    let mut branches = vec![Branch { id: 1, ancestors: Vec::new(), begin: MIB, end: first_end, begun }];
    for id in 2..2 + rng.random_range(0..4_u32) {
        let parent = branches[rng.random_range(0..branches.len())].clone();
        let begin = rng.random_range(parent.begin + 100..parent.end);
        let mut ancestors = parent.ancestors.clone();
        ancestors.push((parent.id, begin));
        let delay = TimeDelta::minutes(rng.random_range(0..600));
        let end = begin + rng.random_range(100..20 * MIB);
        branches.push(Branch { id, ancestors, begin, end, begun: parent.begun + span(begin - parent.begin) + delay });
    }
    branches
}

fn timeline(rng: &mut StdRng, branch: &Branch) -> CatalogTimeline {
    let mut wal = DurableWal::new(size());
    let (first, open) = (branch.begin / MIB, branch.end / MIB);
    let hole = rng.random_bool(0.3).then(|| rng.random_range(first..=open));
    for segment in (first..open).filter(|segment| Some(*segment) != hole) {
        wal.add_segment(SegmentNumber::new(segment));
    }
    if !branch.end.is_multiple_of(MIB) {
        let range = LsnRange { from: lsn(open * MIB), to: lsn(branch.end) };
        wal.add_tail(SegmentNumber::new(open), range).unwrap();
    }
    CatalogTimeline { path: Some(path(branch.id, &branch.ancestors)), wal }
}

fn manifests(rng: &mut StdRng, branches: &[Branch], system: SystemIdentifier) -> Vec<BackupManifest> {
    let mut manifests: Vec<BackupManifest> = Vec::new();
    for _ in 0..rng.random_range(0..14) {
        let branch = &branches[rng.random_range(0..branches.len())];
        let start = rng.random_range(branch.begin..branch.end);
        let stop = start + rng.random_range(100..3 * MIB);
        if stop > branch.end {
            continue;
        }
        let second = (branch.begun + span(stop - branch.begin) - at(0)).num_seconds();
        let mut manifest = backup(branch.id, start, stop, second);
        manifest.system_identifier = system;
        if manifests.iter().all(|other| other.id != manifest.id) {
            manifests.push(manifest);
        }
    }
    manifests.sort_by_key(|manifest| manifest.id.clone());
    manifests
}

fn marker(rng: &mut StdRng, branches: &[Branch], number: u32) -> FinishedMarker {
    let branch = &branches[rng.random_range(0..branches.len())];
    let start = rng.random_range(branch.begin..branch.end - 90);
    let time = |position: u64| branch.begun + span(position - branch.begin);
    let finish_at = rng.random_range(start + 40..branch.end - 40);
    let finish = rng.random_bool(0.5).then(|| Finish {
        marker: None,
        outcome: Outcome::Ok,
        timeline: tli(branch.id),
        lsn: lsn(finish_at),
        end_lsn: lsn(finish_at + 40),
        time: time(finish_at),
        who: None,
        meta: BTreeMap::new(),
    });
    let marker = Marker {
        name: format!("m{number}"),
        timeline: tli(branch.id),
        lsn: lsn(start),
        end_lsn: lsn(start + 40),
        time: time(start),
        source: MarkerSource::Mark,
        who: None,
        key: None,
        meta: BTreeMap::new(),
    };
    FinishedMarker { marker, finish }
}

/// Each backup names some packs of its own and of those before it, and maps that others name as well.
fn parts(rng: &mut StdRng, backups: &[BackupManifest]) -> BTreeMap<crate::repository::backup::BackupId, BackupParts> {
    let mut all = BTreeMap::new();
    for (nth, backup) in backups.iter().enumerate() {
        let mut parts = BackupParts::default();
        for _ in 0..rng.random_range(1..6) {
            let owner = &backups[rng.random_range(nth.saturating_sub(3)..=nth)];
            let named = PackUse::new(16 << 20, 12 << 20, Some(15 << 20));
            parts.add_pack(PackId { backup: owner.id.clone(), number: rng.random_range(0..3) }, named);
            parts.add_map(ContentHash::of(&[rng.random_range(0..12)]), 1000);
        }
        all.insert(backup.id.clone(), parts);
    }
    all
}

fn pins(rng: &mut StdRng, catalog: &Catalog) -> Vec<Pin> {
    let mut subjects = Vec::new();
    for backup in &catalog.backups {
        if rng.random_bool(0.1) {
            subjects.push(PinSubject::Backup { id: backup.id.clone() });
        }
    }
    for FinishedMarker { marker, .. } in &catalog.markers {
        if rng.random_bool(0.2) {
            let (timeline, lsn, name) = (marker.timeline, marker.lsn, marker.name.clone());
            subjects.push(PinSubject::Marker { timeline, lsn, name });
        }
    }
    let pin = |(number, subject)| Pin { id: NoteId::new(at(0), number), subject, reason: None, who: None, time: at(0) };
    (0..).zip(subjects).map(pin).collect()
}

/// A lineage that began at `begun`.
pub fn random(seed: u64, system: u64, begun: DateTime<Utc>) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let system = SystemIdentifier::new(system);
    let branches = branches(&mut rng, begun);
    let mut catalog = catalog();
    catalog.lineage.lineage = LineageId::new(system, 1);
    catalog.lineage.created = begun;
    for branch in &branches {
        catalog.timelines.insert(tli(branch.id), timeline(&mut rng, branch));
    }
    catalog.backups = manifests(&mut rng, &branches, system);
    for number in 0..rng.random_range(0..8) {
        catalog.markers.push(marker(&mut rng, &branches, number));
    }
    catalog.markers.sort_by_key(|found| (found.marker.lsn, found.marker.timeline));
    if rng.random_bool(0.8) {
        let live = &branches[rng.random_range(0..branches.len())];
        let seconds = (live.begun + span(live.end - live.begin) - at(0)).num_seconds();
        catalog.lease = Some(lease(live.id, live.end, seconds));
    }
    let stored = |branch: &Branch| (tli(branch.id), branch.begun + span(branch.end - branch.begin));
    let held = Holdings {
        parts: parts(&mut rng, &catalog.backups),
        unreadable: BTreeSet::new(),
        superseded: Vec::new(),
        open: Vec::new(),
        pins: pins(&mut rng, &catalog),
        condemned: Vec::new(),
        wal_stored: branches.iter().map(stored).collect(),
        catalog,
    };
    let objects = objects(&held, &branches);
    History { branches, held, objects }
}

fn objects(held: &Holdings, branches: &[Branch]) -> Vec<ObjectMeta> {
    let lineage = &held.catalog.lineage;
    let layout = LineageLayout::new(&lineage.cluster, lineage.lineage);
    let meta = |key: ObjectKey, modified| ObjectMeta { key, size_bytes: 1, modified, tag: VersionTag::new("t") };
    let mut objects = Vec::new();
    for branch in branches {
        let wal = &held.catalog.timelines[&tli(branch.id)].wal;
        let end = branch.begun + span(branch.end - branch.begin);
        for segment in branch.begin / MIB..=branch.end / MIB {
            let name = SegmentNumber::new(segment).name(tli(branch.id), size());
            if wal.is_whole(SegmentNumber::new(segment)) {
                let after = (segment + 1) * MIB - branch.begin;
                objects.push(meta(layout.segment(name), (branch.begun + span(after)).min(end)));
            } else if wal.covered_to(SegmentNumber::new(segment)) > lsn(segment * MIB) {
                objects.push(meta(layout.tail(name, lsn(segment * MIB), lsn(branch.end)), end));
            }
        }
        if branch.id > 1 {
            objects.push(meta(layout.history(tli(branch.id)), branch.begun));
        }
    }
    let (mut packs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for backup in &held.catalog.backups {
        objects.push(meta(layout.manifest(&backup.id), backup.stop_time));
        objects.push(meta(layout.contents(&backup.id), backup.stop_time));
        packs.extend(held.parts[&backup.id].packs());
        maps.extend(held.parts[&backup.id].maps().copied());
    }
    let long_ago = held.catalog.lineage.created;
    objects.extend(packs.iter().map(|pack| meta(layout.pack(pack), long_ago)));
    objects.extend(maps.iter().map(|map| meta(layout.map(map), long_ago)));
    objects
}
