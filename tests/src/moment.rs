//! Which commits a database must hold that was brought to a moment: the rules of recovery, written down a second time
//! and independent of the product.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use pitr::postgres::Lsn;

use crate::ledger::{Entry, Ledger};
use crate::wal_oracle::{WalOracle, XactEnd};

/// A target of recovery.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    /// All that ends at or before this position.
    Lsn(Lsn),
    /// All up to the last transaction end before the first one later than this.
    Time(DateTime<Utc>),
    /// All up to and with this transaction's end.
    Xid(u32),
    /// All before this transaction's end.
    BeforeXid(u32),
}

/// The ids that must be there, and those that may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    pub must: BTreeSet<i64>,
    pub may: BTreeSet<i64>,
}

impl Expected {
    /// What the ledger says about `moment`: exact where PostgreSQL's own reading of the WAL is at hand.
    #[must_use]
    pub fn at(moment: &Moment, ledger: &Ledger, oracle: Option<&WalOracle>) -> Self {
        match oracle {
            Some(oracle) => Self::exact(moment, ledger, oracle),
            None => Self::bounded(moment, ledger),
        }
    }

    fn exact(moment: &Moment, ledger: &Ledger, oracle: &WalOracle) -> Self {
        let kept: Vec<&XactEnd> = match moment {
            Moment::Lsn(lsn) => oracle.xacts.iter().filter(|xact| xact.end <= *lsn).collect(),
            Moment::Time(time) => oracle.xacts.iter().take_while(|xact| xact.time <= *time).collect(),
            Moment::Xid(xid) => {
                let last = oracle.xacts.iter().position(|xact| xact.xid == *xid);
                oracle.xacts.iter().take(last.map_or(0, |last| last + 1)).collect()
            }
            Moment::BeforeXid(xid) => oracle.xacts.iter().take_while(|xact| xact.xid != *xid).collect(),
        };
        let kept: BTreeSet<u32> = kept.into_iter().filter(|xact| xact.committed).map(|xact| xact.xid).collect();
        let is_kept = |entry: &&Entry| kept.contains(&entry.xid);
        let must = ledger.entries().iter().filter(is_kept).map(|entry| entry.id).collect();
        // A commit whose answer was lost is known by its xid only if it was asked for before; such ids may be there.
        Self { must, may: ledger.unanswered().clone() }
    }

    /// From what the writers saw: a commit's record lies between the positions before and after it.
    fn bounded(moment: &Moment, ledger: &Ledger) -> Self {
        // Commit times are not monotonic in the WAL; the disorder was seen to stay within milliseconds.
        let slack = chrono::TimeDelta::milliseconds(100);
        let (from, to) = match *moment {
            Moment::Xid(xid) | Moment::BeforeXid(xid) => {
                let entry = ledger.entries().iter().find(|entry| entry.xid == xid);
                entry.map_or((Lsn::INVALID, Lsn::INVALID), |entry| (entry.before, entry.after))
            }
            Moment::Lsn(lsn) => (lsn, lsn),
            Moment::Time(_) => (Lsn::INVALID, Lsn::INVALID),
        };
        let surely = |entry: &Entry| match *moment {
            Moment::Time(time) => entry.commit_time.is_some_and(|commit| commit < time - slack),
            Moment::Xid(xid) if entry.xid == xid => true,
            Moment::BeforeXid(xid) if entry.xid == xid => false,
            Moment::Xid(_) | Moment::BeforeXid(_) | Moment::Lsn(_) => entry.after <= from,
        };
        let perhaps = |entry: &Entry| match *moment {
            Moment::Time(time) => entry.commit_time.is_none_or(|commit| commit <= time),
            Moment::BeforeXid(xid) if entry.xid == xid => false,
            Moment::Xid(_) | Moment::BeforeXid(_) | Moment::Lsn(_) => entry.before < to,
        };
        let ids = |wanted: &dyn Fn(&Entry) -> bool| -> BTreeSet<i64> {
            ledger.entries().iter().filter(|entry| wanted(entry)).map(|entry| entry.id).collect()
        };
        let mut may = ids(&perhaps);
        may.extend(ledger.unanswered());
        Self { must: ids(&surely), may }
    }

    /// Compares with what a restored database holds.
    ///
    /// # Errors
    /// A commit is missing that must be there, or one is there that must not.
    pub fn check(&self, found: &BTreeSet<i64>) -> Result<()> {
        let missing: Vec<&i64> = self.must.difference(found).collect();
        let extra: Vec<&i64> = found.iter().filter(|id| !self.must.contains(id) && !self.may.contains(id)).collect();
        ensure!(
            missing.is_empty() && extra.is_empty(),
            "of {} commits that must be there {} are missing: {:?} ...; {} are there that must not: {:?} ...",
            self.must.len(),
            missing.len(),
            &missing[..missing.len().min(10)],
            extra.len(),
            &extra[..extra.len().min(10)]
        );
        Ok(())
    }
}
