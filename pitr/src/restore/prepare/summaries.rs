//! What the summaries along a path say, read ahead.
//!
//! A summary that is gone, damaged or of another decoder counts as missing: what others say of its range is taken, and
//! where none does, the WAL is decoded. A store that does not answer is an error.

use futures::{Stream, StreamExt, stream};

use crate::postgres::Lsn;
use crate::postgres::history::TimelinePath;
use crate::recovery::{Goal, Leg, SummaryDigest, legs};
use crate::repository::layout::SummaryKey;
use crate::repository::summary_store::ReadSummary;
use crate::repository::{LineageStore, Result, SummaryStore};

/// Summaries under way at once. One is seldom larger than some 100 KiB, and never than a few MiB.
const PARALLEL_READS: usize = 16;

/// The summaries that are listed along a path.
pub(super) struct Summaries<'a> {
    store: SummaryStore,
    path: &'a TimelinePath,
    goal: Goal,
    listed: Vec<SummaryKey>,
}

/// A leg, and what its summary says.
pub(super) struct ReadLeg {
    pub leg: Leg,
    pub digest: Option<SummaryDigest>,
}

impl<'a> Summaries<'a> {
    /// Lists those of the timelines of `path` that it follows behind `from`.
    pub async fn list(lineage: &LineageStore, path: &'a TimelinePath, from: Lsn, goal: Goal) -> Result<Self> {
        let store = SummaryStore::new(lineage.clone());
        let mut listed = Vec::new();
        for step in path.steps().iter().filter(|step| step.end.is_none_or(|end| end > from)) {
            listed.extend(store.list(step.tli).await?.into_iter().map(|summary| summary.key));
        }
        Ok(Self { store, path, goal, listed })
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The legs from `from` to `to`, by summaries that were not given up.
    pub fn legs(&self, from: Lsn, to: Lsn) -> Vec<Leg> {
        legs(&self.listed, self.path, from, to)
    }

    /// Reads what stands in `legs`, in order. A leg whose summary turns out to be unusable comes without.
    pub fn read(&self, legs: Vec<Leg>) -> impl Stream<Item = Result<ReadLeg>> {
        let reads = stream::iter(legs).map(async |leg| {
            let digest = match leg.summary {
                Some(key) => self.digest(key).await?,
                None => None,
            };
            Ok(ReadLeg { leg, digest })
        });
        reads.buffered(PARALLEL_READS)
    }

    /// The summary of a leg could not be used: it is not to be taken again.
    pub fn give_up(&mut self, key: SummaryKey) {
        self.listed.retain(|listed| *listed != key);
    }

    async fn digest(&self, key: SummaryKey) -> Result<Option<SummaryDigest>> {
        match self.store.read(key).await {
            Ok(ReadSummary::Usable(summary)) => Ok(Some(SummaryDigest::new(&summary, self.goal))),
            Ok(ReadSummary::Unusable { reason, .. }) => {
                tracing::debug!(from = %key.from, to = %key.to, reason, "a WAL summary cannot be used");
                Ok(None)
            }
            Err(error) if error.is_not_found() || error.is_corruption() => {
                tracing::debug!(from = %key.from, to = %key.to, %error, "a WAL summary cannot be used");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
