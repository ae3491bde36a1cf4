//! What a scan looks for, as a rule over records.

use chrono::{DateTime, Utc};

use crate::postgres::wal::{RecordBounds, RecordMeaning};
use crate::postgres::{Lsn, TransactionId};

/// The record that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The last one.
    End,
    /// The last one that ends at or before the position.
    Lsn(Lsn),
    /// The first one that ends at or behind the position.
    FirstEnd(Lsn),
    /// The one that starts at the position.
    Record(Lsn),
    /// The last end of a transaction up to the time, before the first one after it.
    ///
    /// The server, given a time, stops before the first *commit* after it, and by then has replayed what that transaction
    /// did outside of transactions: the files of a dropped database are gone. So the target is the end of the last
    /// transaction that belongs to the kept side. A prepared transaction was promised to its client as well, so `PREPARE`
    /// counts as an end where it is kept. Times need not ascend; the first one after the target ends the search.
    Time { time: DateTime<Utc>, exclusive: bool },
    /// The end of the transaction; or, exclusive, the last end of another one before that.
    Xid { xid: TransactionId, exclusive: bool },
}

/// What a record is to a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Before the target, and no target by itself.
    Before,
    /// The target, unless a later one is.
    Target,
    /// The target, and nothing behind it is.
    Final,
    /// Behind the target.
    Behind,
}

impl Goal {
    /// Only ends of transactions, and preparations, can be the target.
    pub(super) const fn is_by_ends(&self) -> bool {
        matches!(self, Self::Time { .. } | Self::Xid { exclusive: true, .. })
    }

    pub(super) fn verdict(&self, bounds: RecordBounds, meaning: &RecordMeaning<'_>) -> Verdict {
        match *self {
            Self::End => Verdict::Target,
            Self::Lsn(lsn) if bounds.end <= lsn => Verdict::Target,
            Self::Record(lsn) if bounds.start == lsn => Verdict::Final,
            Self::Record(lsn) if bounds.start < lsn => Verdict::Before,
            Self::FirstEnd(lsn) if bounds.end < lsn => Verdict::Before,
            Self::FirstEnd(_) => Verdict::Final,
            Self::Lsn(_) | Self::Record(_) => Verdict::Behind,
            Self::Time { time, exclusive } => by_time(meaning, |at| if exclusive { at < time } else { at <= time }),
            Self::Xid { xid, exclusive } => by_xid(meaning, xid, exclusive),
        }
    }
}

fn by_time(meaning: &RecordMeaning<'_>, keeps: impl Fn(DateTime<Utc>) -> bool) -> Verdict {
    match meaning {
        RecordMeaning::TransactionEnd(end) if keeps(end.time) => Verdict::Target,
        RecordMeaning::TransactionEnd(_) => Verdict::Behind,
        RecordMeaning::Prepare(prepare) if keeps(prepare.time) => Verdict::Target,
        _ => Verdict::Before,
    }
}

fn by_xid(meaning: &RecordMeaning<'_>, xid: TransactionId, exclusive: bool) -> Verdict {
    match meaning {
        RecordMeaning::TransactionEnd(end) if end.xid == xid && exclusive => Verdict::Behind,
        RecordMeaning::TransactionEnd(end) if end.xid == xid => Verdict::Final,
        RecordMeaning::TransactionEnd(_) | RecordMeaning::Prepare(_) if exclusive => Verdict::Target,
        _ => Verdict::Before,
    }
}
