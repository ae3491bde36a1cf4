//! What a plan needs of a summary.

use chrono::{DateTime, Utc};

use crate::postgres::{Lsn, TransactionId, WalSegmentSize};
use crate::recovery::plan::{Transaction, TransactionEnd};
use crate::recovery::scan::{Goal, TablespaceChange, minimum_settings};
use crate::repository::backup::MinimumSettings;
use crate::repository::catalog::LsnRange;
use crate::wal_summary::{EndedTransaction, MomentKind, SegmentTimes, WalSummary};

/// The part of a summary that stays in memory: some words for each segment in which transactions ended.
#[derive(Clone, Debug)]
pub struct SummaryDigest {
    pub(super) range: LsnRange,
    segment_size: WalSegmentSize,
    segments_per_row: u64,
    pub(super) rows: Vec<SegmentTimes>,
    pub(super) latest: Option<DateTime<Utc>>,
    last: Option<Transaction>,
    /// The last `PREPARE TRANSACTION` whose second phase is not in the range.
    last_prepare: Option<Lsn>,
    pub(in crate::recovery) tablespaces: Vec<TablespaceChange>,
    pub(in crate::recovery) parameter_changes: Vec<(Lsn, MinimumSettings)>,
    /// No transaction from this one on had begun before the range.
    pub(super) first_next_xid: Option<TransactionId>,
    /// The transaction that is looked for ended in the range, and may have begun before it.
    pub(super) ends_wanted_xid: bool,
}

/// The last end of a transaction in a part of a summary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LastEnd {
    None,
    Known(Transaction),
    /// It is somewhere in this range, or, where that is not certain, there is none.
    Within {
        range: LsnRange,
        certain: bool,
    },
}

impl SummaryDigest {
    #[must_use]
    pub fn new(summary: &WalSummary, goal: Goal) -> Self {
        let (mut tablespaces, mut parameter_changes) = (Vec::new(), Vec::new());
        for moment in &summary.moments {
            let lsn = moment.lsn;
            match &moment.kind {
                MomentKind::CreateTablespace { tablespace, path } => {
                    tablespaces.push(TablespaceChange { lsn, oid: *tablespace, path: Some(path.clone()) });
                }
                MomentKind::DropTablespace { tablespace } => {
                    tablespaces.push(TablespaceChange { lsn, oid: *tablespace, path: None });
                }
                MomentKind::ParameterChange {
                    max_connections,
                    max_worker_processes,
                    max_wal_senders,
                    max_prepared_transactions,
                    max_locks_per_transaction,
                    ..
                } => {
                    let settings = minimum_settings(
                        *max_connections,
                        *max_worker_processes,
                        *max_wal_senders,
                        *max_prepared_transactions,
                        *max_locks_per_transaction,
                    );
                    parameter_changes.push((lsn, settings));
                }
                _ => {}
            }
        }
        let transactions = &summary.transactions;
        let wanted = match goal {
            Goal::Xid { xid, .. } => Some(xid.as_u32()),
            _ => None,
        };
        Self {
            range: LsnRange { from: summary.from, to: summary.to },
            segment_size: summary.segment_size,
            segments_per_row: summary.segments_per_row(),
            rows: summary.segments.clone(),
            latest: summary.times.latest(),
            last: last(summary),
            last_prepare: transactions.open.values().filter_map(|open| open.prepared.as_ref()).map(|p| p.lsn).max(),
            tablespaces,
            parameter_changes,
            first_next_xid: transactions.running.map(|running| running.first_next_xid),
            ends_wanted_xid: wanted
                .is_some_and(|xid| transactions.committed.contains(xid) || transactions.aborted.contains(xid)),
        }
    }

    /// The segments of a row, as far as they belong to the summary.
    pub(super) fn range_of(&self, row: &SegmentTimes) -> LsnRange {
        let start = self.segment_size.start_of(row.first_segment());
        let bytes = self.segments_per_row.saturating_mul(self.segment_size.as_u64());
        LsnRange { from: start.max(self.range.from), to: start.advance(bytes).min(self.range.to) }
    }

    /// The last end of a transaction that starts within `part`, which lies in the range.
    pub(crate) fn last_end(&self, part: LsnRange) -> LastEnd {
        match &self.last {
            // The whole summary's last one, unless it starts before the part does.
            Some(last) if part.to == self.range.to && last.lsn >= part.from => LastEnd::Known(last.clone()),
            None => LastEnd::None,
            Some(_) if part.to == self.range.to => LastEnd::None,
            Some(_) => {
                let rows = self.rows.iter().rev().map(|row| self.range_of(row));
                let mut overlapping = rows.filter(|range| range.from < part.to && range.to > part.from);
                overlapping.next().map_or(LastEnd::None, |row| LastEnd::Within {
                    range: LsnRange { from: row.from.max(part.from), to: row.to.min(part.to) },
                    certain: row.from >= part.from && row.to <= part.to,
                })
            }
        }
    }

    /// Where in `part` the last end of a transaction or the last preparation of one is, and whether that is certain; none
    /// where there is neither.
    pub(in crate::recovery) fn last_promise(&self, part: LsnRange) -> Option<(LsnRange, bool)> {
        let end = self.last_end(part);
        if part.to < self.range.to {
            // Of what was prepared in the part and ended in the range behind it nothing is known.
            return Some(match end {
                LastEnd::Within { range, certain } => (LsnRange { from: range.from, to: part.to }, certain),
                _ => (part, false),
            });
        }
        let end = match end {
            LastEnd::Known(last) => Some(last.lsn),
            _ => None,
        };
        let prepare = self.last_prepare.filter(|lsn| *lsn >= part.from);
        let last = end.max(prepare)?;
        let segment = self.segment_size.segment_of(last);
        let (start, end) = (self.segment_size.start_of(segment), self.segment_size.end_of(segment));
        Some((LsnRange { from: start.max(part.from), to: end.min(part.to) }, true))
    }
}

fn last(summary: &WalSummary) -> Option<Transaction> {
    let transaction =
        |end: EndedTransaction, how| Transaction { xid: end.xid.as_u32(), time: end.time, lsn: end.lsn, end: how };
    let commit = summary.times.commits.map(|ends| transaction(ends.last, TransactionEnd::Commit));
    let abort = summary.times.aborts.map(|ends| transaction(ends.last, TransactionEnd::Abort));
    commit.into_iter().chain(abort).max_by_key(|last| last.lsn)
}
