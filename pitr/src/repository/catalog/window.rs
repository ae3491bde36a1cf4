//! Which backups can be used, and between which moments a recovery can end.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Catalog, MissingWal, timeline_of_end};
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::{BackupId, BackupManifest};

/// A position, and its time where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub lsn: Lsn,
    pub time: Option<DateTime<Utc>>,
}

/// A range of moments that can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The timeline of its end.
    pub timeline: TimelineId,
    /// End of the oldest backup that begins it.
    pub from: Moment,
    pub to: Moment,
}

/// Why a backup cannot serve for a timeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupFault {
    #[error("it was taken on timeline {timeline}, which is not in the history of timeline {target}")]
    OtherBranch { timeline: TimelineId, target: TimelineId },
    #[error("it ends at {stop} on timeline {timeline}, and timeline {target} branched off before, at {switch}")]
    DeadBranch { timeline: TimelineId, target: TimelineId, stop: Lsn, switch: Lsn },
    #[error("WAL that it needs is missing from {} on, segment {}", missing.from, missing.segment)]
    WalMissing { missing: MissingWal },
    #[error("WAL that it needs ends at {end}, before the backup does")]
    WalEnds { end: Lsn },
}

impl Catalog {
    /// Whether a recovery along `path` can begin with `backup`: where not, why.
    ///
    /// # Errors
    /// The backup is on another branch, or its WAL is not whole up to its end.
    pub fn check_backup(&self, backup: &BackupManifest, path: &TimelinePath) -> Result<(), BackupFault> {
        let (timeline, target, stop) = (backup.timeline, path.tli(), backup.stop_lsn);
        let Some(entry) = path.step(timeline) else { return Err(BackupFault::OtherBranch { timeline, target }) };
        if let Some(switch) = entry.end.filter(|end| stop > *end) {
            return Err(BackupFault::DeadBranch { timeline, target, stop, switch });
        }
        let reach = self.reach(path, backup.start_lsn);
        if reach.end >= stop {
            return Ok(());
        }
        match reach.missing {
            Some(missing) => Err(BackupFault::WalMissing { missing }),
            None => Err(BackupFault::WalEnds { end: reach.end }),
        }
    }

    /// Backups that a recovery along `path` can begin with, in the order of their ends.
    #[must_use]
    pub fn backups_on(&self, path: &TimelinePath) -> Vec<&BackupManifest> {
        let mut usable: Vec<_> = self.backups.iter().filter(|b| self.check_backup(b, path).is_ok()).collect();
        usable.sort_by_key(|backup| (backup.stop_lsn, backup.id.clone()));
        usable
    }

    /// What can be reached along `path`, in order, without overlaps.
    #[must_use]
    pub fn windows_on(&self, path: &TimelinePath) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        for backup in self.backups_on(path) {
            let end = self.reach(path, backup.start_lsn).end;
            if windows.last().is_some_and(|last| last.to.lsn >= end) {
                continue;
            }
            let timeline = timeline_of_end(path, end);
            let from = Moment { lsn: backup.stop_lsn, time: Some(backup.stop_time) };
            windows.push(Window { timeline, from, to: Moment { lsn: end, time: self.time_of_end(timeline, end) } });
        }
        windows
    }

    /// What can be reached on any timeline. A timeline that went on as another one, and holds nothing beyond where it was
    /// left, is told with that one.
    #[must_use]
    pub fn windows(&self) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        for path in self.paths_with_wal().rev() {
            for window in self.windows_on(path) {
                let told = windows.iter().any(|other| {
                    other.from == window.from
                        && other.to.lsn >= window.to.lsn
                        && self.leads(window.timeline, &window.to, other.timeline)
                });
                if !told {
                    windows.push(window);
                }
            }
        }
        windows.sort_by_key(|window| (window.timeline, window.from.lsn));
        windows
    }

    /// The newest complete backup on `path`, usable or not.
    #[must_use]
    pub fn newest_backup_id(&self, path: &TimelinePath) -> Option<&BackupId> {
        let on_path = self.backups.iter().filter(|backup| path.contains(backup.timeline, backup.stop_lsn));
        on_path.max_by_key(|backup| backup.stop_lsn).map(|backup| &backup.id)
    }

    /// Of a timeline that has just begun there is nothing to tell.
    pub(super) fn paths_with_wal(&self) -> impl DoubleEndedIterator<Item = &TimelinePath> {
        self.timelines.values().filter(|known| !known.wal.is_empty()).filter_map(|known| known.path.as_ref())
    }

    /// Whether what ends at `end` on `timeline` is in the history of `target`.
    fn leads(&self, timeline: TimelineId, end: &Moment, target: TimelineId) -> bool {
        self.path(target).is_ok_and(|path| path.contains(timeline, end.lsn))
    }

    /// The lease knows when the last transaction up to what is sealed ended.
    fn time_of_end(&self, timeline: TimelineId, end: Lsn) -> Option<DateTime<Utc>> {
        let sealed = self.sealed_on(timeline)?;
        if sealed <= end { self.lease.as_ref()?.sealed_commit_time } else { None }
    }
}
