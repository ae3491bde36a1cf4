//! What becomes of each object of a lineage. Objects are judged one by one as they are listed, so that nothing grows with the
//! length of the archive.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::holdings::{BackupParts, Holdings, OpenBackup};
use super::kept_wal::KeptWal;
use super::plan::{BackupVerdict, MarkerVerdict};
use super::policy::{Policy, before};
use super::reason::{ObjectReason, WalReason};
use crate::postgres::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use crate::repository::LineageObject;
use crate::repository::NoteId;
use crate::repository::backup::BackupId;
use crate::repository::catalog::Gap;
use crate::repository::layout::{GapKey, LineageLayout, MarkerKey, SummaryKey};
use crate::storage::ObjectMeta;

/// Objects that nothing names stay at least so long: what names them may be on its way.
const YOUTH: TimeDelta = TimeDelta::hours(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Keep,
    /// It goes, but not yet.
    Later,
    Delete,
}

/// What becomes of an object, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// None for what a newer version may have put there.
    pub object: Option<LineageObject>,
    pub fate: Fate,
    pub reason: ObjectReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackupState {
    Stays,
    /// Its manifest is there, and goes.
    Goes,
    Open,
    Abandoned,
    /// Its manifest was deleted before, this long ago or not long enough.
    Leftover {
        over: bool,
    },
    /// Its manifest is there and cannot be read.
    Damaged,
}

#[derive(Clone, Debug)]
pub struct Judge {
    layout: LineageLayout,
    size: WalSegmentSize,
    now: DateTime<Utc>,
    /// What was stored later is young.
    young: DateTime<Utc>,
    window: bool,
    ends: bool,
    backups: BTreeMap<BackupId, BackupState>,
    /// Named by backups that stay.
    needed: BackupParts,
    /// Named by backups that went or go, in their time of grace.
    in_grace: BackupParts,
    /// Named by backups whose time of grace is over.
    released: BackupParts,
    /// Something unreadable may name anything.
    unreadable: bool,
    waits: bool,
    timelines: BTreeSet<TimelineId>,
    wal: KeptWal,
    markers: BTreeMap<(TimelineId, Lsn, String), MarkerFate>,
    holes: Vec<GapKey>,
    expired_notes: BTreeSet<GapKey>,
    pins_in_force: BTreeSet<NoteId>,
    condemned_done: BTreeSet<NoteId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MarkerFate {
    stays: bool,
    pinned: bool,
}

impl Judge {
    #[expect(clippy::too_many_arguments, reason = "the parts of a plan, gathered in one place only")]
    pub(super) fn new(
        held: &Holdings,
        backups: &[BackupVerdict],
        markers: &[MarkerVerdict],
        open: &[&OpenBackup],
        wal: KeptWal,
        holes: &[Gap],
        ends: bool,
        policy: &Policy,
        named: &[BackupId],
        now: DateTime<Utc>,
    ) -> Self {
        let lineage = &held.catalog.lineage;
        let grace_begin = before(now, policy.grace);
        let states = backup_states(held, backups, open, named, grace_begin);
        let (mut needed, mut in_grace, mut released) =
            (BackupParts::default(), BackupParts::default(), BackupParts::default());
        for (id, parts) in &held.parts {
            match states.get(id) {
                Some(BackupState::Goes | BackupState::Leftover { over: false }) => in_grace.add(parts),
                Some(BackupState::Leftover { over: true } | BackupState::Abandoned) => released.add(parts),
                _ => needed.add(parts),
            }
        }
        let needs = |id: &BackupId| matches!(states.get(id), Some(BackupState::Stays | BackupState::Damaged));
        let expired = held.catalog.gap_notes.iter().filter(|note| note.is_expired());
        let fate = |marker: &MarkerVerdict| MarkerFate { stays: marker.stays, pinned: marker.pinned };
        Self {
            layout: LineageLayout::new(&lineage.cluster, lineage.lineage),
            size: lineage.wal_segment_size,
            now,
            young: before(now, policy.grace.max(YOUTH)),
            window: policy.window.is_some(),
            ends,
            unreadable: held.unreadable.iter().any(needs),
            waits: !open.is_empty(),
            needed,
            in_grace,
            released,
            timelines: held.catalog.timelines.keys().copied().collect(),
            wal,
            markers: markers.iter().map(|m| ((m.timeline, m.lsn, m.name.clone()), fate(m))).collect(),
            holes: holes
                .iter()
                .map(|hole| GapKey { tli: hole.timeline, from: hole.from_lsn, to: hole.to_lsn })
                .collect(),
            expired_notes: expired
                .map(|note| GapKey { tli: note.timeline, from: note.from_lsn, to: note.to_lsn })
                .collect(),
            pins_in_force: held.pins.iter().map(|pin| pin.id.clone()).collect(),
            condemned_done: condemnations_done(held, &states, before(now, policy.grace.max(YOUTH))),
            backups: states,
        }
    }

    pub(super) fn deletes(&self, id: &BackupId) -> bool {
        matches!(self.backups.get(id), Some(BackupState::Goes | BackupState::Abandoned))
    }

    /// What becomes of an object as it was listed.
    #[must_use]
    pub fn judge(&self, meta: &ObjectMeta) -> Judgement {
        let Some(object) = self.layout.classify(&meta.key) else {
            return Judgement { object: None, fate: Fate::Keep, reason: ObjectReason::NeverDeleted };
        };
        let (fate, reason) = if self.ends {
            (Fate::Delete, ObjectReason::LineageEnds)
        } else {
            self.judge_object(&object, meta.modified)
        };
        Judgement { object: Some(object), fate, reason }
    }

    fn judge_object(&self, object: &LineageObject, modified: DateTime<Utc>) -> (Fate, ObjectReason) {
        match object {
            LineageObject::Lineage | LineageObject::Lease | LineageObject::Restore => {
                (Fate::Keep, ObjectReason::NeverDeleted)
            }
            LineageObject::Segment(name) | LineageObject::WalFile(name) => self.judge_wal(*name, modified),
            LineageObject::Tail { segment, .. } => self.judge_wal(*segment, modified),
            LineageObject::History(_) => (Fate::Keep, ObjectReason::History),
            LineageObject::Summary(key) => self.judge_summary(*key),
            LineageObject::Manifest(id) | LineageObject::Intent(id) => self.judge_descriptor(id),
            LineageObject::Contents(id) => self.judge_contents(id, modified),
            LineageObject::Progress { backup, .. } => self.judge_progress(backup, modified),
            LineageObject::Pack(pack) => {
                let open = self.backups.get(&pack.backup) == Some(&BackupState::Open);
                if open && !self.needed.has_pack(pack) {
                    return (Fate::Keep, ObjectReason::OpenBackup);
                }
                self.judge_part(|parts| parts.has_pack(pack), modified)
            }
            LineageObject::Map(hash) => self.judge_part(|parts| parts.has_map(hash), modified),
            LineageObject::Marker(key) => self.judge_marker(key),
            LineageObject::Gap(key) => self.judge_gap(key),
            LineageObject::Pin(id) if self.pins_in_force.contains(id) => (Fate::Keep, ObjectReason::Pinned),
            LineageObject::Pin(_) | LineageObject::PinRelease(_) if modified > self.young => {
                (Fate::Later, ObjectReason::Young)
            }
            LineageObject::Pin(_) | LineageObject::PinRelease(_) => (Fate::Delete, ObjectReason::Outdated),
            LineageObject::Condemnation(id) if self.condemned_done.contains(id) => {
                (Fate::Delete, ObjectReason::Outdated)
            }
            LineageObject::Condemnation(_) => (Fate::Later, ObjectReason::Grace),
        }
    }

    fn judge_wal(&self, name: SegmentName, modified: DateTime<Utc>) -> (Fate, ObjectReason) {
        let Some(segment) = name.number(self.size) else { return (Fate::Keep, ObjectReason::NeverDeleted) };
        match self.wal.why(name.tli(), segment) {
            Some(WalReason::NoRule) => (Fate::Keep, ObjectReason::NoRule),
            Some(WalReason::Window) => (Fate::Keep, ObjectReason::Window),
            Some(WalReason::Backup { .. }) => (Fate::Keep, ObjectReason::Backup),
            Some(WalReason::Marker { .. }) => (Fate::Keep, ObjectReason::Marker),
            // A timeline that began since.
            None if modified > self.now || !self.timelines.contains(&name.tli()) => (Fate::Keep, ObjectReason::Young),
            None => (Fate::Delete, ObjectReason::NoKeptMoment),
        }
    }

    fn judge_summary(&self, key: SummaryKey) -> (Fate, ObjectReason) {
        let (first, last) = (self.size.segment_of(key.from), self.size.segment_before(key.to));
        if !self.window {
            (Fate::Keep, ObjectReason::NoRule)
        } else if !self.timelines.contains(&key.tli) {
            (Fate::Keep, ObjectReason::Young)
        } else if self.wal.overlaps(key.tli, first, last) {
            (Fate::Keep, ObjectReason::Window)
        } else {
            (Fate::Delete, ObjectReason::Outdated)
        }
    }

    fn judge_descriptor(&self, id: &BackupId) -> (Fate, ObjectReason) {
        match self.backups.get(id) {
            Some(BackupState::Stays) => (Fate::Keep, ObjectReason::Backup),
            Some(BackupState::Goes) => (Fate::Delete, ObjectReason::NoKeptBackup),
            Some(BackupState::Open) => (Fate::Keep, ObjectReason::OpenBackup),
            Some(BackupState::Abandoned) => (Fate::Delete, ObjectReason::Abandoned),
            Some(BackupState::Leftover { .. }) => (Fate::Delete, ObjectReason::NoKeptBackup),
            Some(BackupState::Damaged) => (Fate::Keep, ObjectReason::MayBeNamed),
            None => (Fate::Keep, ObjectReason::Young),
        }
    }

    fn judge_contents(&self, id: &BackupId, modified: DateTime<Utc>) -> (Fate, ObjectReason) {
        match self.backups.get(id) {
            Some(BackupState::Goes | BackupState::Leftover { over: false }) => (Fate::Later, ObjectReason::Grace),
            Some(BackupState::Leftover { over: true }) if self.waits => (Fate::Later, ObjectReason::WaitsForBackup),
            Some(BackupState::Leftover { over: true }) => (Fate::Delete, ObjectReason::NoKeptBackup),
            Some(BackupState::Abandoned) if modified > self.young => (Fate::Later, ObjectReason::Young),
            _ => self.judge_descriptor(id),
        }
    }

    /// What a backup has stored is of use until it is complete, or given up.
    fn judge_progress(&self, id: &BackupId, modified: DateTime<Utc>) -> (Fate, ObjectReason) {
        match self.backups.get(id) {
            Some(BackupState::Open) => (Fate::Keep, ObjectReason::OpenBackup),
            Some(BackupState::Damaged) => (Fate::Keep, ObjectReason::MayBeNamed),
            Some(BackupState::Abandoned) => (Fate::Delete, ObjectReason::Abandoned),
            Some(BackupState::Stays | BackupState::Goes | BackupState::Leftover { .. }) => {
                (Fate::Delete, ObjectReason::Outdated)
            }
            None if modified > self.young => (Fate::Later, ObjectReason::Young),
            None => (Fate::Delete, ObjectReason::Abandoned),
        }
    }

    /// Packs and maps.
    fn judge_part(&self, named_by: impl Fn(&BackupParts) -> bool, modified: DateTime<Utc>) -> (Fate, ObjectReason) {
        if named_by(&self.needed) {
            (Fate::Keep, ObjectReason::Backup)
        } else if self.unreadable {
            (Fate::Keep, ObjectReason::MayBeNamed)
        } else if named_by(&self.in_grace) {
            (Fate::Later, ObjectReason::Grace)
        } else if !named_by(&self.released) && modified > self.young {
            (Fate::Later, ObjectReason::Young)
        } else if self.waits {
            (Fate::Later, ObjectReason::WaitsForBackup)
        } else {
            (Fate::Delete, ObjectReason::Unnamed)
        }
    }

    fn judge_marker(&self, key: &MarkerKey) -> (Fate, ObjectReason) {
        match self.markers.get(&(key.tli, key.lsn, key.name.clone())) {
            _ if !self.window => (Fate::Keep, ObjectReason::NoRule),
            Some(MarkerFate { pinned: true, .. }) => (Fate::Keep, ObjectReason::Pinned),
            Some(MarkerFate { stays: true, .. }) => (Fate::Keep, ObjectReason::Marker),
            Some(MarkerFate { stays: false, .. }) => (Fate::Delete, ObjectReason::NoKeptMoment),
            None => (Fate::Keep, ObjectReason::Young),
        }
    }

    /// A note stays while WAL before the hole does. One of a deletion goes where a larger hole has one.
    fn judge_gap(&self, key: &GapKey) -> (Fate, ObjectReason) {
        if !self.window || !self.timelines.contains(&key.tli) {
            return (Fate::Keep, ObjectReason::NoRule);
        }
        let first = self.wal.first(key.tli).map(|first| self.size.start_of(first));
        let swallowed =
            |hole: &GapKey| hole.tli == key.tli && hole.from <= key.from && hole.to >= key.to && hole != key;
        if key.to.is_some_and(|to| first.is_none_or(|first| first >= to))
            || (self.expired_notes.contains(key) && self.holes.iter().any(swallowed))
        {
            (Fate::Delete, ObjectReason::Outdated)
        } else {
            (Fate::Keep, ObjectReason::Window)
        }
    }
}

fn backup_states(
    held: &Holdings,
    backups: &[BackupVerdict],
    open: &[&OpenBackup],
    named: &[BackupId],
    grace_begin: DateTime<Utc>,
) -> BTreeMap<BackupId, BackupState> {
    let mut states = BTreeMap::new();
    // Contents whose backup went.
    for id in held.parts.keys().chain(&held.unreadable) {
        let over = held.condemned_since(id).is_none_or(|since| since <= grace_begin);
        states.insert(id.clone(), BackupState::Leftover { over });
    }
    for one in &held.open {
        let is_open = open.iter().any(|open| open.id == one.id);
        states.insert(one.id.clone(), if is_open { BackupState::Open } else { BackupState::Abandoned });
    }
    for damaged in &held.catalog.damaged {
        let id = damaged.key.strip_suffix("/manifest.json").and_then(|key| key.rsplit('/').next());
        if let Some(id) = id.and_then(|id| id.parse::<BackupId>().ok()) {
            let state = if named.contains(&id) { BackupState::Goes } else { BackupState::Damaged };
            states.insert(id, state);
        }
    }
    for backup in backups {
        states.insert(backup.id.clone(), if backup.stays() { BackupState::Stays } else { BackupState::Goes });
    }
    states
}

/// Condemnations of whose backups nothing is left.
fn condemnations_done(
    held: &Holdings,
    states: &BTreeMap<BackupId, BackupState>,
    young: DateTime<Utc>,
) -> BTreeSet<NoteId> {
    let done = held
        .condemned
        .iter()
        .filter(|note| note.time <= young && note.backups.iter().all(|id| !states.contains_key(id)));
    done.map(|note| note.id.clone()).collect()
}
