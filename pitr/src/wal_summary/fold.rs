//! Summaries of neighbouring ranges as one.
//!
//! Folding is associative, and ends in what building over the whole range at once would have: a transaction that crosses
//! the border is resolved by how the later range says that it ended.

use std::collections::BTreeMap;

use super::moment::{Moment, MomentKind};
use super::run_set::RunSet;
use super::summary::WalSummary;
use super::times::{coarsen, segments_per_row};
use super::transactions::{OpenTransaction, SchemaCommit, Transactions, precedes};
use crate::postgres::{Lsn, TimelineId, TransactionId};

/// Why summaries cannot be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    #[error("there is no WAL summary to fold")]
    Nothing,
    #[error("the WAL summary that ends at {to} is not followed by one that begins at {from}")]
    Apart { to: Lsn, from: Lsn },
    #[error("the WAL summaries at {at} belong to timelines {earlier} and {later}", earlier = .earlier.as_u32(), later = .later.as_u32())]
    Timelines { at: Lsn, earlier: TimelineId, later: TimelineId },
    #[error("the WAL summaries at {at} are of different versions of PostgreSQL or segment sizes")]
    Different { at: Lsn },
}

/// Folds summaries of one timeline, in order, for storing.
///
/// # Errors
/// They are not neighbours on one timeline.
pub fn fold(summaries: &[WalSummary]) -> Result<WalSummary, FoldError> {
    for (earlier, later) in summaries.iter().zip(summaries.iter().skip(1)) {
        if earlier.timeline != later.timeline {
            let (earlier, later) = (earlier.timeline, later.timeline);
            return Err(FoldError::Timelines { at: summaries_border(summaries, earlier), earlier, later });
        }
    }
    compose(summaries)
}

fn summaries_border(summaries: &[WalSummary], earlier: TimelineId) -> Lsn {
    summaries.iter().take_while(|summary| summary.timeline == earlier).last().map_or(Lsn::INVALID, |summary| summary.to)
}

/// Joins summaries along a path of timelines, in order, for looking at. The result is said to be of the last timeline.
///
/// # Errors
/// They are not neighbours, or of different servers.
pub fn compose(summaries: &[WalSummary]) -> Result<WalSummary, FoldError> {
    match summaries {
        [] => Err(FoldError::Nothing),
        [only] => Ok(only.clone()),
        // Halves, so that each summary is merged a few times only.
        _ => {
            let (earlier, later) = summaries.split_at(summaries.len() / 2);
            let mut whole = compose(earlier)?;
            whole.append(&compose(later)?)?;
            Ok(whole)
        }
    }
}

impl WalSummary {
    /// Adds the range that follows.
    fn append(&mut self, later: &Self) -> Result<(), FoldError> {
        if self.to != later.from {
            return Err(FoldError::Apart { to: self.to, from: later.from });
        }
        if self.major != later.major || self.segment_size != later.segment_size {
            return Err(FoldError::Different { at: later.from });
        }
        self.append_outcomes(later);
        self.timeline = later.timeline;
        self.to = later.to;
        self.times.append(&later.times);
        let rows = std::mem::take(&mut self.segments).into_iter().chain(later.segments.iter().copied());
        self.segments = coarsen(rows, segments_per_row(self.from, self.to, self.segment_size));
        self.blocks.append(&later.blocks);
        self.catalog.extend_from_slice(&later.catalog);
        self.sequences.extend(&later.sequences);
        Ok(())
    }

    /// Rows, moments and transactions: what depends on how open transactions ended.
    fn append_outcomes(&mut self, later: &Self) {
        let mut moments = later.moments.clone();
        let mut open = std::mem::take(&mut self.transactions.open);
        let mut schema_commits = later.transactions.schema_commits.clone();
        resolve_schema_commits(&open, &mut schema_commits, &mut moments);
        for (xid, transaction) in std::mem::take(&mut open) {
            match later.transactions.outcome(xid) {
                Outcome::Committed => add_rows(&mut self.rows, &transaction),
                Outcome::RolledBack => {}
                Outcome::Open => {
                    self.transactions.open.insert(xid, transaction);
                }
            }
        }
        for (relation, rows) in &later.rows {
            self.rows.entry(*relation).or_default().add(*rows);
        }
        self.moments.append(&mut moments);
        self.transactions.append(&later.transactions, schema_commits);
    }
}

fn add_rows(rows: &mut BTreeMap<crate::postgres::RelationLocator, super::RowChanges>, transaction: &OpenTransaction) {
    for (relation, changes) in &transaction.rows {
        rows.entry(*relation).or_default().add(*changes);
    }
}

/// What open transactions did to the schema goes to the commit that ended them, which may not have been seen as a schema
/// change so far.
fn resolve_schema_commits(
    open: &BTreeMap<TransactionId, OpenTransaction>,
    commits: &mut [SchemaCommit],
    moments: &mut Vec<Moment>,
) {
    for commit in commits {
        let members = std::iter::once(commit.change.xid).chain(commit.subtransactions.iter().map(TransactionId::new));
        let parts: Vec<_> = members.filter_map(|xid| Some((xid, open.get(&xid)?))).collect();
        let at = moments.partition_point(|moment| moment.lsn < commit.lsn);
        let known = moments.get(at).is_some_and(|moment| moment.lsn == commit.lsn);
        if !known && parts.iter().any(|(_, open)| !open.traces.is_empty()) {
            let kind = MomentKind::SchemaChange(Box::new(commit.change.clone()));
            moments.insert(at, Moment { lsn: commit.lsn, end_lsn: commit.end_lsn, kind });
        }
        let mut change = moments.get_mut(at).filter(|moment| moment.lsn == commit.lsn).and_then(|moment| {
            if let MomentKind::SchemaChange(change) = &mut moment.kind { Some(change) } else { None }
        });
        for (xid, transaction) in parts {
            for (relation, rows) in &transaction.rows {
                commit.change.filled.add(*relation, rows.inserted);
                if let Some(change) = &mut change {
                    change.filled.add(*relation, rows.inserted);
                }
            }
            if let Some(change) = change.as_mut().filter(|_| !transaction.traces.is_empty()) {
                change.traces.merge(&transaction.traces);
                change.members = change.members.union(&RunSet::from_sorted([xid.as_u32()]));
            }
        }
    }
}

enum Outcome {
    Committed,
    RolledBack,
    Open,
}

impl Transactions {
    /// How a transaction ended that was open before the range.
    fn outcome(&self, xid: TransactionId) -> Outcome {
        let dead = |running: &super::transactions::Running| running.settled || precedes(xid, running.oldest_xid);
        if self.committed.contains(xid.as_u32()) {
            Outcome::Committed
        } else if self.aborted.contains(xid.as_u32()) || self.running.as_ref().is_some_and(dead) {
            Outcome::RolledBack
        } else {
            Outcome::Open
        }
    }

    /// `schema_commits` are those of `later`.
    fn append(&mut self, later: &Self, schema_commits: Vec<SchemaCommit>) {
        let earlier = &*self;
        let ended = earlier.committed.union(&earlier.aborted);
        let ours = |xids: &super::RunSet| {
            xids.without(&ended).filtered(|xid| earlier.may_have_begun_before(TransactionId::new(xid)))
        };
        let (committed, aborted) = (ours(&later.committed), ours(&later.aborted));
        let commits = schema_commits.into_iter().filter(|commit| earlier.may_have_begun_before(commit.change.xid));
        let commits: Vec<_> = commits.collect();
        self.committed = self.committed.union(&committed);
        self.aborted = self.aborted.union(&aborted);
        self.schema_commits.extend(commits);
        for (xid, transaction) in &later.open {
            self.open.entry(*xid).or_default().append(transaction);
        }
        match (&mut self.running, &later.running) {
            (Some(running), Some(later)) => running.append(later),
            (running @ None, later) => *running = *later,
            (Some(_), None) => {}
        }
    }
}

impl OpenTransaction {
    fn append(&mut self, later: &Self) {
        for (relation, changes) in &later.rows {
            self.rows.entry(*relation).or_default().add(*changes);
        }
        self.traces.merge(&later.traces);
        if later.prepared.is_some() {
            self.prepared.clone_from(&later.prepared);
        }
    }
}
