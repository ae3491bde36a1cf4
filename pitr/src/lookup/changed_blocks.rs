//! Which blocks WAL changed between two positions of a path.
//!
//! Stored summaries tell; what has none is decoded from the stored WAL on the spot. The answer is complete or there is none:
//! a range that cannot be read is never taken for one in which nothing happened.

use futures::{StreamExt, TryStreamExt, stream};

use super::path_summaries::PathSummaries;
use crate::postgres::history::TimelinePath;
use crate::recovery::Leg;
use crate::repository::catalog::{Catalog, LsnRange};
use crate::repository::{LineageStore, Result};
use crate::wal_summary::ChangedBlocks;

/// Summaries in memory at once.
const PARALLEL_READS: usize = 4;
/// WAL without summaries is decoded up to this much; beyond it, reading the data is no slower.
const MAX_DECODED_BYTES: u64 = 4 << 30;
const MAX_GAP: u32 = 1 << 16;

/// What WAL says of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalChanges {
    Known {
        blocks: Box<ChangedBlocks>,
        /// Bytes of WAL that had no summary.
        decoded_bytes: u64,
    },
    Unknown {
        reason: String,
    },
}

/// What all records change that start in `range` on `path`. Up to its end the WAL must be stored. Where there are more than
/// `max_runs` runs of blocks, neighbours are joined over what lies between.
///
/// # Errors
/// The store fails.
pub async fn changed_blocks(
    lineage: &LineageStore,
    catalog: &Catalog,
    path: &TimelinePath,
    range: LsnRange,
    max_runs: usize,
) -> Result<WalChanges> {
    let summaries = PathSummaries::list(lineage, catalog, path, range.from).await?;
    let legs = summaries.legs(range);
    let decoded_bytes = bare_bytes(&legs);
    if decoded_bytes > MAX_DECODED_BYTES {
        let reason = format!("{decoded_bytes} bytes of WAL from {} on have no summary", range.from);
        return Ok(WalChanges::Unknown { reason });
    }
    let reads = stream::iter(legs).map(async |leg| of_leg(&summaries, leg, range.to).await).buffered(PARALLEL_READS);
    let mut reads = std::pin::pin!(reads);
    let mut fold = Fold::default();
    while let Some((leg, blocks)) = reads.try_next().await? {
        let Some(blocks) = blocks else {
            let reason = format!("the WAL from {} to {} has no summary, and cannot be decoded", leg.from, leg.to);
            return Ok(WalChanges::Unknown { reason });
        };
        fold.append(&blocks, max_runs);
    }
    Ok(WalChanges::Known { blocks: Box::new(fold.blocks), decoded_bytes })
}

fn bare_bytes(legs: &[Leg]) -> u64 {
    legs.iter().filter(|leg| leg.summary.is_none()).filter_map(|leg| leg.to.distance_from(leg.from)).sum()
}

/// A summary that says more than the leg needs is taken whole: a block too many is read in vain, no more.
async fn of_leg(
    summaries: &PathSummaries<'_>,
    leg: Leg,
    limit: crate::postgres::Lsn,
) -> Result<(Leg, Option<ChangedBlocks>)> {
    let stored = match leg.summary {
        Some(key) => summaries.read(key).await?,
        None => None,
    };
    let summary = match stored {
        Some(summary) => Some(summary),
        None => summaries.make(LsnRange { from: leg.from, to: leg.to }, limit).await?,
    };
    Ok((leg, summary.map(|summary| summary.blocks)))
}

#[derive(Default)]
struct Fold {
    blocks: ChangedBlocks,
    gap: u32,
}

impl Fold {
    fn append(&mut self, later: &ChangedBlocks, max_runs: usize) {
        self.blocks.append(later);
        while self.blocks.runs() > max_runs && self.gap < MAX_GAP {
            self.gap = (self.gap * 2).max(1);
            self.blocks.coarsen(self.gap);
        }
    }
}
