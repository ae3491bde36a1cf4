//! Sees one record after the other, and remembers what matters.

use chrono::{DateTime, TimeDelta, Utc};

use super::goal::{Goal, Verdict};
use crate::postgres::wal::{
    Outcome, Record, RecordBounds, RecordError, RecordMeaning, ResourceManager, TransactionEnd as EndRecord,
};
use crate::postgres::{Lsn, MajorVersion, TransactionId, WalSegmentSize};
use crate::recovery::plan::{Transaction, TransactionEnd};
use crate::recovery::skip::{LastEnd, SummaryDigest};
use crate::repository::backup::MinimumSettings;
use crate::repository::catalog::LsnRange;

/// Commits that wait for each other are logged out of the order of their times by some milliseconds; only more than this is
/// a clock that was set back.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(1);
/// Ends of transactions behind the target that are looked at for a clock that was set back.
const ENDS_LOOKED_AT_BEHIND: u32 = 64;
/// How far behind the target the first transaction that is left out is looked for.
const MIN_LOOK_AHEAD_BYTES: u64 = 32 << 20;

/// Replay makes or removes a directory outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceChange {
    pub lsn: Lsn,
    pub oid: u32,
    /// None where it is dropped, which names only the tablespace.
    pub path: Option<String>,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The record that was looked for.
    pub target: Option<RecordBounds>,
    /// Name of the restore point that the target is.
    pub restore_point: Option<String>,
    /// The first record with which the end of the backup is reached: recovery cannot stop earlier. None where what was
    /// looked for came before.
    pub backup_end: Option<RecordBounds>,
    /// The first record behind the target by the goal's own rule; none where the WAL ended first.
    pub behind: Option<RecordBounds>,
    pub last_kept: Option<Transaction>,
    pub first_left_out: Option<Transaction>,
    /// Of the last transaction that was seen before anything behind the target.
    pub last_end_time: Option<DateTime<Utc>>,
    /// A transaction behind the target that says it ended before the time that was asked for.
    pub clock_set_back: Option<Lsn>,
    /// Before anything behind the target; some may be behind the target all the same.
    pub tablespaces: Vec<TablespaceChange>,
    pub parameter_changes: Vec<(Lsn, MinimumSettings)>,
    /// The transaction that was looked for wrote something.
    pub xid_seen: bool,
    /// It ended as a part of this one.
    pub parent_of_xid: Option<TransactionId>,
}

#[derive(Debug)]
enum Phase {
    Seeking,
    /// The target lies before; up to `limit` the first transaction behind it is looked for.
    Behind {
        limit: Lsn,
        ends: u32,
    },
    Done,
}

/// What is in WAL that was skipped, and not known from its summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// The target, or the last end of a transaction before it, is in this range.
    Range(LsnRange),
    /// No record was seen behind what was skipped: too much was.
    Everything,
}

/// A range in which something is that was skipped; or nothing, where that is not certain.
#[derive(Clone, Copy, Debug)]
struct Hidden {
    range: LsnRange,
    certain: bool,
}

#[derive(Debug)]
pub(super) struct Seeker {
    goal: Goal,
    stop_lsn: Lsn,
    look_ahead_bytes: u64,
    phase: Phase,
    findings: Findings,
    /// The target so far.
    hidden_target: Option<Hidden>,
    /// The last end of a transaction so far.
    hidden_end: Option<Hidden>,
    /// Nothing was seen since WAL was skipped.
    unseen: bool,
    /// Nor a target, where every record may be one.
    untargeted: bool,
    /// The end of the backup was not where it should be, and may have been skipped.
    backup_end_lost: bool,
}

impl Seeker {
    pub(super) fn new(goal: Goal, stop_lsn: Lsn, segment_size: WalSegmentSize) -> Self {
        let look_ahead_bytes = MIN_LOOK_AHEAD_BYTES.max(segment_size.as_u64());
        Self {
            goal,
            stop_lsn,
            look_ahead_bytes,
            phase: Phase::Seeking,
            findings: Findings::default(),
            hidden_target: None,
            hidden_end: None,
            unseen: false,
            untargeted: false,
            backup_end_lost: false,
        }
    }

    pub(super) const fn goal(&self) -> Goal {
        self.goal
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    pub(super) const fn is_decided(&self) -> bool {
        !matches!(self.phase, Phase::Seeking)
    }

    pub(super) fn finish(self) -> Findings {
        self.findings
    }

    /// All records that start in `part` belong to the kept side by what its summary says.
    pub(super) fn skip(&mut self, digest: &SummaryDigest, part: LsnRange) {
        let within = |lsn: Lsn| part.from <= lsn && lsn < part.to;
        let tablespaces = digest.tablespaces.iter().filter(|change| within(change.lsn)).cloned();
        self.findings.tablespaces.extend(tablespaces);
        let changes = digest.parameter_changes.iter().filter(|(lsn, _)| within(*lsn)).copied();
        self.findings.parameter_changes.extend(changes);
        match digest.last_end(part) {
            LastEnd::None => {}
            LastEnd::Known(last) => {
                self.hidden_end = None;
                self.note_end(last);
            }
            LastEnd::Within { range, certain } => {
                let range = LsnRange { from: self.hidden_from(self.hidden_end, range, certain), to: range.to };
                self.hidden_end = Some(Hidden { range, certain });
            }
        }
        // Before the end of the backup nothing can be a target.
        if self.findings.backup_end.is_some()
            && self.goal.is_by_ends()
            && let Some((range, certain)) = digest.last_promise(part)
        {
            let range = LsnRange { from: self.hidden_from(self.hidden_target, range, certain), to: range.to };
            self.hidden_target = Some(Hidden { range, certain });
        }
        self.backup_end_lost |= self.findings.backup_end.is_none() && part.to > self.stop_lsn;
        self.unseen = true;
        self.untargeted = matches!(self.goal, Goal::End | Goal::Lsn(_));
    }

    /// Where something may not be in `range`, it may be where it was hidden before.
    fn hidden_from(&self, before: Option<Hidden>, range: LsnRange, certain: bool) -> Lsn {
        before.filter(|_| !certain).map_or(range.from, |before| before.range.from)
    }

    pub(super) fn unsettled(&self) -> Option<Unsettled> {
        if self.unseen || self.untargeted || self.backup_end_lost {
            return Some(Unsettled::Everything);
        }
        self.hidden_target.or(self.hidden_end).map(|hidden| Unsettled::Range(hidden.range))
    }

    /// Takes what decoding `range` brought to light.
    pub(super) fn settle(&mut self, range: LsnRange, found: &Findings) -> bool {
        let mut as_promised = found.behind.is_none() && found.parent_of_xid.is_none();
        if let Some(hidden) = self.hidden_target.take_if(|hidden| hidden.range == range) {
            match found.target {
                Some(target) => {
                    self.findings.target = Some(target);
                    self.findings.restore_point = None;
                }
                None => as_promised &= !hidden.certain,
            }
        }
        if let Some(hidden) = self.hidden_end.take_if(|hidden| hidden.range == range) {
            match found.last_kept.clone() {
                Some(last) => self.note_end(last),
                None => as_promised &= !hidden.certain,
            }
        }
        as_promised
    }

    fn note_end(&mut self, last: Transaction) {
        self.findings.last_end_time = Some(last.time);
        self.findings.last_kept = Some(last);
    }

    pub(super) fn observe(&mut self, record: &Record<'_>, major: MajorVersion) -> Result<(), RecordError> {
        let bounds = RecordBounds { start: record.start_lsn(), end: record.end_lsn() };
        let meaning = match record.resource_manager() {
            ResourceManager::XLOG | ResourceManager::TRANSACTION | ResourceManager::TABLESPACE => {
                record.meaning(major)?
            }
            _ => RecordMeaning::Other,
        };
        self.unseen = false;
        match self.phase {
            Phase::Seeking => self.seek(bounds, record.xid(), &meaning),
            Phase::Behind { limit, ends } => self.look_ahead(bounds, &meaning, limit, ends),
            Phase::Done => {}
        }
        Ok(())
    }

    fn seek(&mut self, bounds: RecordBounds, xid: TransactionId, meaning: &RecordMeaning<'_>) {
        self.note_xid(xid, meaning);
        let verdict = self.goal.verdict(bounds, meaning);
        if verdict == Verdict::Behind {
            self.findings.behind = Some(bounds);
            self.phase = self.behind(bounds);
            if let Phase::Behind { limit, ends } = self.phase {
                self.look_ahead(bounds, meaning, limit, ends);
            }
            return;
        }
        if self.findings.backup_end.is_none() && bounds.end >= self.stop_lsn {
            self.findings.backup_end = Some(bounds);
        }
        if matches!(verdict, Verdict::Target | Verdict::Final) {
            self.hidden_target = None;
            self.untargeted = false;
            self.findings.target = Some(bounds);
            self.findings.restore_point = match meaning {
                RecordMeaning::RestorePoint(point) => Some(String::from_utf8_lossy(point.name).into_owned()),
                _ => None,
            };
        }
        self.note_kept(bounds, meaning);
        if verdict == Verdict::Final || self.findings.parent_of_xid.is_some() {
            self.phase = self.behind(bounds);
        }
    }

    const fn behind(&self, bounds: RecordBounds) -> Phase {
        Phase::Behind { limit: bounds.end.advance(self.look_ahead_bytes), ends: 0 }
    }

    fn note_xid(&mut self, xid: TransactionId, meaning: &RecordMeaning<'_>) {
        let Goal::Xid { xid: wanted, .. } = self.goal else { return };
        self.findings.xid_seen |= xid == wanted;
        if let RecordMeaning::TransactionEnd(end) = meaning
            && end.subtransactions.iter().any(|subtransaction| subtransaction == wanted)
        {
            self.findings.parent_of_xid = Some(end.xid);
        }
    }

    fn note_kept(&mut self, bounds: RecordBounds, meaning: &RecordMeaning<'_>) {
        match meaning {
            RecordMeaning::TransactionEnd(end) => {
                self.hidden_end = None;
                self.note_end(transaction(bounds, end));
            }
            RecordMeaning::CreateTablespace { tablespace, path } => {
                let path = Some(String::from_utf8_lossy(path).into_owned());
                self.findings.tablespaces.push(TablespaceChange { lsn: bounds.start, oid: *tablespace, path });
            }
            RecordMeaning::DropTablespace { tablespace } => {
                self.findings.tablespaces.push(TablespaceChange { lsn: bounds.start, oid: *tablespace, path: None });
            }
            RecordMeaning::ParameterChange(change) => {
                let settings = minimum_settings(
                    change.max_connections,
                    change.max_worker_processes,
                    change.max_wal_senders,
                    change.max_prepared_transactions,
                    change.max_locks_per_transaction,
                );
                self.findings.parameter_changes.push((bounds.start, settings));
            }
            _ => {}
        }
    }

    fn look_ahead(&mut self, bounds: RecordBounds, meaning: &RecordMeaning<'_>, limit: Lsn, ends: u32) {
        if bounds.start >= limit {
            self.phase = Phase::Done;
            return;
        }
        let RecordMeaning::TransactionEnd(end) = meaning else { return };
        if self.findings.first_left_out.is_none() {
            self.findings.first_left_out = Some(transaction(bounds, end));
        }
        let Goal::Time { time, .. } = self.goal else {
            self.phase = Phase::Done;
            return;
        };
        let before = end.time.checked_add_signed(CLOCK_TOLERANCE).is_some_and(|later| later <= time);
        if self.findings.clock_set_back.is_none() && before {
            self.findings.clock_set_back = Some(bounds.start);
        }
        let ends = ends + 1;
        self.phase = if ends < ENDS_LOOKED_AT_BEHIND { Phase::Behind { limit, ends } } else { Phase::Done };
    }
}

fn transaction(bounds: RecordBounds, end: &EndRecord<'_>) -> Transaction {
    Transaction {
        xid: end.xid.as_u32(),
        time: end.time,
        lsn: bounds.start,
        end: match end.outcome {
            Outcome::Commit => TransactionEnd::Commit,
            Outcome::Abort => TransactionEnd::Abort,
        },
    }
}

/// What a server that replays must not have lower, from the words of a record.
pub(in crate::recovery) fn minimum_settings(
    max_connections: i32,
    max_worker_processes: i32,
    max_wal_senders: i32,
    max_prepared_transactions: i32,
    max_locks_per_transaction: i32,
) -> MinimumSettings {
    let setting = |value: i32| u32::try_from(value).unwrap_or_default();
    MinimumSettings {
        max_connections: setting(max_connections),
        max_worker_processes: setting(max_worker_processes),
        max_wal_senders: setting(max_wal_senders),
        max_prepared_transactions: setting(max_prepared_transactions),
        max_locks_per_transaction: setting(max_locks_per_transaction),
    }
}
