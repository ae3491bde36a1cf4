//! What is kept of one lineage, reason by reason.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::holdings::Holdings;
use super::kept_wal::KeptWal;
use super::plan::is_marker_pinned;
use super::reason::{BackupReason, WalReason};
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, SegmentNumber, TimelineId};
use crate::repository::backup::{BackupId, BackupManifest};
use crate::repository::catalog::Catalog;
use crate::repository::marker::FinishedMarker;

/// What the rules want of a cluster.
pub(super) struct Wanted {
    /// Where the window begins.
    pub begin: Option<DateTime<Utc>>,
    pub by_rule: BTreeMap<BackupId, BTreeSet<BackupReason>>,
}

type Keeps = BTreeMap<BackupId, BTreeSet<BackupReason>>;

pub(super) struct Draft<'a> {
    held: &'a Holdings,
    keeps: Keeps,
    wal: KeptWal,
}

impl<'a> Draft<'a> {
    pub(super) fn new(held: &'a Holdings) -> Self {
        Self { held, keeps: BTreeMap::new(), wal: KeptWal::default() }
    }

    pub(super) const fn held(&self) -> &'a Holdings {
        self.held
    }

    pub(super) fn into_parts(self) -> (Keeps, KeptWal) {
        (self.keeps, self.wal)
    }

    const fn catalog(&self) -> &'a Catalog {
        &self.held.catalog
    }

    fn paths(&self) -> Vec<&'a TimelinePath> {
        self.catalog().timelines.values().filter_map(|known| known.path.as_ref()).collect()
    }

    pub(super) fn keep_backup(&mut self, id: &BackupId, reason: BackupReason) {
        if self.catalog().backup(id).is_some() {
            self.keeps.entry(id.clone()).or_default().insert(reason);
        }
    }

    pub(super) fn keep_all(&mut self, reason: &BackupReason) {
        for backup in &self.held.catalog.backups {
            self.keep_backup(&backup.id, reason.clone());
        }
        for tli in self.held.catalog.timelines.keys() {
            self.keep_files(*tli);
        }
    }

    pub(super) fn release(&mut self, named: &[BackupId]) {
        self.keeps.retain(|id, _| !named.contains(id));
    }

    /// Every file of a timeline, and all that come.
    fn keep_files(&mut self, tli: TimelineId) {
        self.wal.keep_files(tli, SegmentNumber::new(0), None, WalReason::NoRule);
    }

    pub(super) fn keep_wanted(&mut self, wanted: &Wanted, live: bool, markers_begin: Option<DateTime<Utc>>) {
        let Some(begin) = wanted.begin else { return };
        for (id, reasons) in &wanted.by_rule {
            for reason in reasons {
                self.keep_backup(id, reason.clone());
            }
        }
        for backup in &self.held.catalog.backups {
            if backup.stop_time > begin {
                self.keep_backup(&backup.id, BackupReason::Window);
            }
            if self.held.is_pinned(&backup.id) {
                self.keep_backup(&backup.id, BackupReason::Pinned);
            }
        }
        for (tli, known) in &self.held.catalog.timelines {
            match &known.path {
                Some(path) if self.is_in_window(path, begin, live) => self.keep_window(path, begin),
                Some(_) => {}
                // How it came to be is not known, so what it holds is not either.
                None => self.keep_files(*tli),
            }
        }
        for marker in &self.held.catalog.markers {
            let pinned = is_marker_pinned(self.held, &marker.marker);
            if pinned || markers_begin.is_some_and(|begin| marker.marker.time >= begin) {
                self.keep_marker(marker, pinned);
            }
        }
    }

    /// Whether a moment in the window can be on what is the timeline's own. The cluster is where its agent is, however
    /// long ago it last wrote anything.
    fn is_in_window(&self, path: &TimelinePath, begin: DateTime<Utc>, live: bool) -> bool {
        if live && self.catalog().default_timeline() == Some(path.tli()) {
            return true;
        }
        let has_wal = self.catalog().timelines.get(&path.tli()).is_some_and(|known| !known.wal.is_empty());
        // What holds a moment was stored after it.
        has_wal && self.held.wal_stored.get(&path.tli()).is_none_or(|stored| *stored >= begin)
    }

    /// All that a recovery to any moment from `begin` on along `path` can begin with, and all WAL from there on.
    fn keep_window(&mut self, path: &TimelinePath, begin: DateTime<Utc>) {
        let usable = self.catalog().backups_on(path);
        let later = usable.iter().position(|backup| backup.stop_time > begin).unwrap_or(usable.len());
        let first = later.saturating_sub(1);
        if first < later
            && let Some(anchor) = usable.get(first)
        {
            self.keep_backup(&anchor.id, BackupReason::BeginsWindow);
        }
        for backup in usable.get(later..).unwrap_or_default() {
            self.keep_backup(&backup.id, BackupReason::Window);
        }
        let size = self.catalog().segment_size();
        match usable.get(first) {
            Some(anchor) => self.wal.keep(path, size, anchor.start_lsn, None, &WalReason::Window),
            // The first backup may just be being taken.
            None => self.wal.keep_files(path.tli(), SegmentNumber::new(0), None, WalReason::Window),
        }
    }

    fn keep_marker(&mut self, finished: &FinishedMarker, pinned: bool) {
        let marker = &finished.marker;
        self.keep_position(marker.timeline, marker.end_lsn, &marker.name, pinned);
        if let Some(finish) = &finished.finish {
            self.keep_position(finish.timeline, finish.end_lsn, &marker.name, pinned);
        }
    }

    /// What a recovery to `end` needs, along every path on which there is one.
    fn keep_position(&mut self, timeline: TimelineId, end: Lsn, name: &str, pinned: bool) {
        let catalog = self.catalog();
        for path in self.paths().into_iter().filter(|path| path.contains(timeline, end)) {
            let reaches =
                |backup: &&&BackupManifest| backup.stop_lsn <= end && catalog.reach(path, backup.start_lsn).end >= end;
            let usable = catalog.backups_on(path);
            let Some(backup) = usable.iter().rev().find(reaches) else { continue };
            let reason = BackupReason::Marker { name: name.to_owned() };
            self.keep_backup(&backup.id, if pinned { BackupReason::Pinned } else { reason });
            let why = WalReason::Marker { name: name.to_owned() };
            self.wal.keep(path, catalog.segment_size(), backup.start_lsn, Some(end), &why);
        }
    }

    /// The WAL that makes each kept backup consistent, along every path that it can serve.
    pub(super) fn keep_wal_of_backups(&mut self) {
        let size = self.catalog().segment_size();
        for backup in &self.held.catalog.backups {
            if !self.keeps.contains_key(&backup.id) {
                continue;
            }
            let why = WalReason::Backup { id: backup.id.clone() };
            for path in self.paths().into_iter().filter(|path| path.contains(backup.timeline, backup.stop_lsn)) {
                self.wal.keep(path, size, backup.start_lsn, Some(backup.stop_lsn), &why);
            }
        }
    }
}
