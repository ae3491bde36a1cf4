//! From what a scan found to the plan, or to a refusal.

use chrono::{DateTime, Utc};

use super::aim::{Aim, nearest_lsn};
use super::error::{Nearest, PlanError};
use super::plan::{FetchSize, PlanBasis, PlanWarning, ResolvedTarget, RestorePlan, WalRun};
use super::scan::{Findings, Goal};
use super::target::RecoveryTarget;
use crate::postgres::Lsn;
use crate::postgres::history::TimelinePath;
use crate::postgres::wal::RecordBounds;
use crate::repository::backup::{BackupManifest, BackupSource, MinimumSettings};
use crate::repository::catalog::{Catalog, Moment, Reach, stretches, timeline_of_end};

/// What a scan from one backup on came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Conclusion {
    Plan(Box<RestorePlan>),
    /// The target may be reached from an older backup.
    TryOlder,
}

/// One backup of an aim, and how far its WAL goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt<'a> {
    pub aim: &'a Aim,
    pub backup: &'a BackupManifest,
    pub reach: Reach,
    /// What follows was searched before, from a newer backup on.
    pub limit: Lsn,
}

impl Aim {
    /// The `nth` best backup, with what is to be scanned from it.
    #[must_use]
    pub fn attempt(&self, catalog: &Catalog, nth: usize) -> Option<Attempt<'_>> {
        let backup = self.backups.get(nth)?;
        let newer = nth.checked_sub(1).and_then(|newer| self.backups.get(newer));
        // Only a transaction is searched backwards; one segment more shows what follows it.
        let limit = match (self.goal, newer) {
            (Goal::Xid { .. }, Some(newer)) => newer.stop_lsn.advance(catalog.segment_size().as_u64()),
            _ => Lsn::MAX,
        };
        let reach = catalog.reach(&self.path, backup.start_lsn);
        Some(Attempt { aim: self, backup, limit: limit.min(reach.end), reach })
    }
}

impl Attempt<'_> {
    /// # Errors
    /// The target is not there, or the repository says other than its WAL.
    pub fn conclude(&self, catalog: &Catalog, findings: &Findings) -> Result<Conclusion, PlanError> {
        let floor = match self.backup_end(catalog, findings)? {
            Some(floor) => floor,
            None => return Ok(Conclusion::TryOlder),
        };
        let mut warnings = self.aim.warnings.clone();
        let Some(target) = self.target(catalog, findings, floor, &mut warnings)? else {
            return Ok(Conclusion::TryOlder);
        };
        self.plan(catalog, findings, target, warnings).map(|plan| Conclusion::Plan(Box::new(plan)))
    }

    /// The record that makes the backup consistent; none where what was looked for lies before it.
    fn backup_end(&self, catalog: &Catalog, findings: &Findings) -> Result<Option<RecordBounds>, PlanError> {
        let backup = self.backup;
        let Some(found) = findings.backup_end else {
            let before = findings.behind.is_some() || matches!(self.aim.goal, Goal::Xid { .. });
            return if before { Ok(None) } else { Err(self.wrong_backup_end(catalog)) };
        };
        // A standby writes no record of its own at the end of a backup, which can then be within one.
        let exact = found.end == backup.stop_lsn && found.start == backup.end_record_lsn;
        if exact || backup.source == BackupSource::Standby {
            Ok(Some(found))
        } else {
            Err(self.wrong_backup_end(catalog))
        }
    }

    fn wrong_backup_end(&self, catalog: &Catalog) -> PlanError {
        let what = format!("the end of backup \"{}\"", self.backup.id);
        self.wrong_record(catalog, what, self.backup.end_record_lsn)
    }

    fn wrong_record(&self, catalog: &Catalog, what: String, lsn: Lsn) -> PlanError {
        let segment = catalog.segment_name(&self.aim.path, catalog.segment_size().segment_of(lsn));
        PlanError::WrongRecord { what, lsn, segment }
    }

    /// The record to stop at; none where an older backup is to be tried.
    fn target(
        &self,
        catalog: &Catalog,
        findings: &Findings,
        floor: RecordBounds,
        warnings: &mut Vec<PlanWarning>,
    ) -> Result<Option<RecordBounds>, PlanError> {
        let later = findings.target.filter(|found| found.start > floor.start).unwrap_or(floor);
        match self.aim.goal {
            Goal::End | Goal::Lsn(_) | Goal::FirstEnd(_) => Ok(Some(later)),
            Goal::Record(lsn) => {
                let found = findings.target.filter(|_| findings.restore_point.is_some());
                let what = || format!("the restore point of {}", self.aim.asked);
                found.map(Some).ok_or_else(|| self.wrong_record(catalog, what(), lsn))
            }
            Goal::Time { time, .. } => {
                if findings.behind.is_none() {
                    self.refuse_gap(catalog, findings)?;
                    if !knows_of_nothing_until(catalog, time) {
                        warnings.push(PlanWarning::BeyondLastCommit { last: findings.last_end_time });
                    }
                }
                if let Some(lsn) = findings.clock_set_back {
                    warnings.push(PlanWarning::TimesNotMonotonic { lsn });
                }
                Ok(Some(later))
            }
            Goal::Xid { exclusive, .. } => {
                let found = self.has_xid(findings, exclusive)?;
                Ok(found.then_some(later))
            }
        }
    }

    fn refuse_gap(&self, catalog: &Catalog, findings: &Findings) -> Result<(), PlanError> {
        let Some(missing) = self.reach.missing.clone() else { return Ok(()) };
        let mut nearest = nearest_lsn(catalog, &self.aim.path, missing.from);
        if let Some(before) = nearest.before.as_mut() {
            before.time = findings.last_end_time;
        }
        Err(PlanError::Gap { target: self.aim.asked.to_string(), missing, nearest })
    }

    /// Whether the transaction ended in what was scanned; where not, an older backup is to be tried.
    fn has_xid(&self, findings: &Findings, exclusive: bool) -> Result<bool, PlanError> {
        let xid = self.asked_xid();
        if let Some(parent) = findings.parent_of_xid {
            return Err(PlanError::Subtransaction { xid, parent: parent.as_u32() });
        }
        let found = if exclusive { findings.behind.is_some() } else { findings.target.is_some() };
        if !found && findings.xid_seen && self.is_newest() {
            return Err(self.xid_not_found(true));
        }
        Ok(found)
    }

    const fn asked_xid(&self) -> u64 {
        match self.aim.asked {
            RecoveryTarget::Xid { xid } => xid,
            _ => 0,
        }
    }

    fn is_newest(&self) -> bool {
        self.aim.backups.first().is_some_and(|newest| newest.id == self.backup.id)
    }

    fn xid_not_found(&self, seen: bool) -> PlanError {
        PlanError::XidNotFound {
            xid: self.asked_xid(),
            from: self.backup.start_lsn,
            to: self.reach.end,
            seen,
            missing: self.reach.missing.clone(),
        }
    }

    fn plan(
        &self,
        catalog: &Catalog,
        findings: &Findings,
        target: RecordBounds,
        mut warnings: Vec<PlanWarning>,
    ) -> Result<RestorePlan, PlanError> {
        let path = self.path_of_target(catalog, target);
        let reach = catalog.reach(path, self.backup.start_lsn);
        if let Some(missing) = reach.missing.filter(|_| reach.end < target.end) {
            let nearest = nearest_lsn(catalog, path, missing.from);
            return Err(PlanError::Gap { target: self.aim.asked.to_string(), missing, nearest });
        }
        if reach.end < target.end {
            return Err(PlanError::BeyondEnd { target: self.aim.asked.to_string(), end: reach.end });
        }
        let wal = wal_runs(catalog, path, self.backup.start_lsn, target.end);
        warnings.extend(warnings_of(self.backup, findings, target));
        Ok(RestorePlan {
            lineage: catalog.lineage.clone(),
            backup: self.backup.clone(),
            target: ResolvedTarget {
                asked: self.aim.asked.clone(),
                timeline: path.tli(),
                lsn: target.start,
                end_lsn: target.end,
                last_kept: findings.last_kept.clone(),
                first_left_out: findings.first_left_out.clone(),
            },
            fetch: FetchSize {
                files: self.backup.files,
                backup_bytes: self.backup.size_bytes,
                backup_stored_bytes: self.backup.stored_bytes,
                wal_segments: wal.iter().map(|run| run.segments).sum(),
                wal_bytes: target.end.distance_from(self.backup.start_lsn).unwrap_or_default(),
            },
            wal,
            settings: settings(self.backup.settings, findings, target),
            basis: PlanBasis::default(),
            warnings,
        })
    }

    /// The way that ends on the timeline on which the target was written, where that one's own files reach it.
    fn path_of_target<'c>(&'c self, catalog: &'c Catalog, target: RecordBounds) -> &'c TimelinePath {
        let timeline = timeline_of_end(&self.aim.path, target.end);
        match catalog.path(timeline) {
            Ok(path) if catalog.reach(path, self.backup.start_lsn).end >= target.end => path,
            _ => &self.aim.path,
        }
    }
}

impl Aim {
    /// The refusal after the oldest backup was tried too.
    #[must_use]
    pub fn exhausted(&self, catalog: &Catalog) -> PlanError {
        let oldest = self.backups.len().checked_sub(1).and_then(|last| self.attempt(catalog, last));
        match (self.goal, oldest) {
            (Goal::Xid { .. }, Some(oldest)) => {
                let newest = self.attempt(catalog, 0).map_or(oldest.reach.end, |newest| newest.reach.end);
                let mut refusal = oldest.xid_not_found(false);
                if let PlanError::XidNotFound { to, .. } = &mut refusal {
                    *to = newest;
                }
                refusal
            }
            (_, oldest) => {
                let after =
                    oldest.map(|oldest| Moment { lsn: oldest.backup.stop_lsn, time: Some(oldest.backup.stop_time) });
                PlanError::BeforeFirstBackup {
                    target: self.asked.to_string(),
                    nearest: Nearest { before: None, after },
                }
            }
        }
    }
}

/// Whether the lease proves that nothing was committed between the last transaction in the repository and `time`: the agent
/// was there at that time or later, and had stored all that the server had.
fn knows_of_nothing_until(catalog: &Catalog, time: DateTime<Utc>) -> bool {
    catalog.lease.as_ref().is_some_and(|lease| {
        let caught_up = match (lease.server, lease.sealed) {
            (Some(server), Some(sealed)) => server.timeline == sealed.timeline && server.lsn <= sealed.lsn,
            _ => false,
        };
        caught_up && lease.time >= time
    })
}

fn wal_runs(catalog: &Catalog, path: &TimelinePath, from: Lsn, to: Lsn) -> Vec<WalRun> {
    let size = catalog.segment_size();
    let (first, last) = (size.segment_of(from), size.segment_before(to).max(size.segment_of(from)));
    let mut runs = Vec::new();
    for stretch in stretches(path, size) {
        let begin = stretch.first.max(first);
        let end = stretch.end.map_or(last.next(), |end| end.min(last.next()));
        if begin >= end {
            continue;
        }
        let final_segment = size.segment_before(size.start_of(end));
        let whole = catalog.timelines.get(&stretch.timeline).is_some_and(|known| known.wal.is_whole(final_segment));
        runs.push(WalRun {
            timeline: stretch.timeline,
            from_lsn: from.max(size.start_of(begin)),
            to_lsn: to.min(size.start_of(end)),
            first_segment: begin.name(stretch.timeline, size).to_string(),
            last_segment: final_segment.name(stretch.timeline, size).to_string(),
            segments: end.as_u64() - begin.as_u64(),
            ends_in_tails: !whole,
        });
    }
    runs
}

fn warnings_of(backup: &BackupManifest, findings: &Findings, target: RecordBounds) -> Vec<PlanWarning> {
    let mut warnings = Vec::new();
    if !backup.corrupt_pages.is_empty() {
        warnings.push(PlanWarning::CorruptPages { count: backup.corrupt_pages.len() as u64 });
    }
    let in_place = backup.tablespaces.iter().filter(|tablespace| tablespace.in_place);
    warnings.extend(in_place.map(|tablespace| PlanWarning::InPlaceTablespace { oid: tablespace.oid }));
    for change in findings.tablespaces.iter().filter(|change| change.lsn <= target.start) {
        let created =
            || findings.tablespaces.iter().filter(|other| other.oid == change.oid).find_map(|other| other.path.clone());
        let known =
            || backup.tablespaces.iter().find(|known| known.oid == change.oid).map(|known| known.location.clone());
        let path = change.path.clone().or_else(created).or_else(known);
        let path = path.unwrap_or_else(|| format!("pg_tblspc/{}", change.oid));
        warnings.push(PlanWarning::TablespaceInWal { lsn: change.lsn, path });
    }
    warnings
}

/// The highest of each setting: replay refuses or pauses where the server has less.
fn settings(mut settings: MinimumSettings, findings: &Findings, target: RecordBounds) -> MinimumSettings {
    let raise = |setting: &mut u32, value: u32| *setting = (*setting).max(value);
    for (_, change) in findings.parameter_changes.iter().filter(|(lsn, _)| *lsn <= target.start) {
        raise(&mut settings.max_connections, change.max_connections);
        raise(&mut settings.max_worker_processes, change.max_worker_processes);
        raise(&mut settings.max_wal_senders, change.max_wal_senders);
        raise(&mut settings.max_prepared_transactions, change.max_prepared_transactions);
        raise(&mut settings.max_locks_per_transaction, change.max_locks_per_transaction);
    }
    settings
}
