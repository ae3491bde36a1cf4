//! When transactions ended: of a whole summary, and segment by segment.
//!
//! Times of commits are taken before their records are written, so they do not rise strictly with the LSN, and clocks are
//! set back. Hence earliest and latest stand beside first and last.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::stored;
use crate::postgres::{Lsn, SegmentNumber, TransactionId, WalSegmentSize};

/// Segments, or groups of them, that a summary tells apart. Beyond this many, twice as many segments share a row.
pub const MAX_SEGMENT_TIMES: u64 = 4096;

/// The record that ended a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedTransaction {
    /// Where the record starts.
    #[serde(with = "stored::lsn")]
    pub lsn: Lsn,
    pub xid: TransactionId,
    #[serde(with = "stored::time")]
    pub time: DateTime<Utc>,
}

/// Commits, or aborts, of a range; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub count: u64,
    pub first: EndedTransaction,
    pub last: EndedTransaction,
    #[serde(with = "stored::time")]
    pub earliest: DateTime<Utc>,
    #[serde(with = "stored::time")]
    pub latest: DateTime<Utc>,
}

impl Ends {
    const fn one(end: EndedTransaction) -> Self {
        Self { count: 1, first: end, last: end, earliest: end.time, latest: end.time }
    }

    fn append(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.last = later.last;
        self.earliest = self.earliest.min(later.earliest);
        self.latest = self.latest.max(later.latest);
    }
}

fn append(ends: &mut Option<Ends>, later: Option<&Ends>) {
    match (ends, later) {
        (Some(ends), Some(later)) => ends.append(later),
        (ends, Some(later)) => *ends = Some(*later),
        (_, None) => {}
    }
}

/// Which transactions ended in a range, and when. A subtransaction that was rolled back has an abort of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionTimes {
    pub commits: Option<Ends>,
    pub aborts: Option<Ends>,
}

impl TransactionTimes {
    pub(super) fn commit(&mut self, end: EndedTransaction) {
        append(&mut self.commits, Some(&Ends::one(end)));
    }

    pub(super) fn abort(&mut self, end: EndedTransaction) {
        append(&mut self.aborts, Some(&Ends::one(end)));
    }

    /// Adds what happened afterwards.
    pub(super) fn append(&mut self, later: &Self) {
        append(&mut self.commits, later.commits.as_ref());
        append(&mut self.aborts, later.aborts.as_ref());
    }

    /// The latest time of any end: where it is not beyond a time, nothing in the range is.
    #[must_use]
    pub fn latest(&self) -> Option<DateTime<Utc>> {
        self.commits.iter().chain(&self.aborts).map(|ends| ends.latest).max()
    }

    /// The earliest time of any end.
    #[must_use]
    pub fn earliest(&self) -> Option<DateTime<Utc>> {
        self.commits.iter().chain(&self.aborts).map(|ends| ends.earliest).min()
    }
}

/// Ends of transactions in one segment, or in an aligned group of neighbouring ones ([`segments_per_row`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentTimes {
    /// Number of the first segment of the group, which may lie before the range.
    pub segment: u64,
    pub commits: u64,
    pub aborts: u64,
    /// Over commits and aborts.
    #[serde(with = "stored::time")]
    pub earliest: DateTime<Utc>,
    #[serde(with = "stored::time")]
    pub latest: DateTime<Utc>,
}

impl SegmentTimes {
    #[must_use]
    pub const fn first_segment(&self) -> SegmentNumber {
        SegmentNumber::new(self.segment)
    }

    const fn group(&self, per_row: u64) -> u64 {
        self.segment / per_row * per_row
    }

    pub(super) fn append(&mut self, later: &Self) {
        self.commits = self.commits.saturating_add(later.commits);
        self.aborts = self.aborts.saturating_add(later.aborts);
        self.earliest = self.earliest.min(later.earliest);
        self.latest = self.latest.max(later.latest);
    }
}

/// How many segments share one [`SegmentTimes`] in a summary from `from` to `to`: the smallest power of two with which
/// there are no more than [`MAX_SEGMENT_TIMES`]. It depends on the range alone, so that folding in any order ends alike.
#[must_use]
pub fn segments_per_row(from: Lsn, to: Lsn, segment_size: WalSegmentSize) -> u64 {
    let first = segment_size.segment_of(from).as_u64();
    let last = segment_size.segment_before(to).as_u64().max(first);
    let mut shift = 0;
    while (last >> shift) - (first >> shift) >= MAX_SEGMENT_TIMES {
        shift += 1;
    }
    1 << shift
}

/// Puts rows of a finer or the same grain together. Rows come in order.
pub(super) fn coarsen(rows: impl IntoIterator<Item = SegmentTimes>, per_row: u64) -> Vec<SegmentTimes> {
    let mut coarse: Vec<SegmentTimes> = Vec::new();
    for row in rows {
        let row = SegmentTimes { segment: row.group(per_row), ..row };
        match coarse.last_mut() {
            Some(last) if last.segment == row.segment => last.append(&row),
            _ => coarse.push(row),
        }
    }
    coarse
}
