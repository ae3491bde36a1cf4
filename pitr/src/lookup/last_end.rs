//! Up to which transaction a window can be restored.

use futures::{StreamExt, TryStreamExt, stream};

use super::path_summaries::PathSummaries;
use crate::postgres::Lsn;
use crate::recovery::{LastEnd, SummaryDigest, Transaction};
use crate::repository::catalog::{Catalog, LsnRange, Window};
use crate::repository::{LineageStore, Result};

/// Stretches without the end of a transaction that are looked at, from the end of a window backwards.
const MAX_LOOKS: usize = 12;
/// Windows looked at at once.
const PARALLEL_WINDOWS: usize = 4;

/// A window, and the last transaction in it.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowEnd {
    pub window: Window,
    /// None where none ended in it, or where the end of the window is all idle, or cannot be read.
    pub last: Option<Transaction>,
}

/// What can be reached on any timeline, and the last transaction of each window: one listing of summaries for each of its
/// timelines, one segment, and where nothing ended in that, summaries from there backwards until one tells.
///
/// # Errors
/// The store fails.
pub async fn window_ends(lineage: &LineageStore, catalog: &Catalog) -> Result<Vec<WindowEnd>> {
    let windows = catalog.windows();
    let ends: Vec<_> = windows.into_iter().map(|window| window_end(lineage, catalog, window)).collect();
    stream::iter(ends).buffered(PARALLEL_WINDOWS).try_collect().await
}

async fn window_end(lineage: &LineageStore, catalog: &Catalog, window: Window) -> Result<WindowEnd> {
    let Ok(path) = catalog.path(window.timeline) else { return Ok(WindowEnd { window, last: None }) };
    let size = catalog.segment_size();
    let (floor, end) = (window.from.lsn, window.to.lsn);
    // The last segment is decoded in any case: its summary may know the rest of a record that is not whole here.
    let mut position = size.start_of(size.segment_before(end)).max(floor);
    let last_segment = LsnRange { from: position, to: end };
    let summaries = PathSummaries::list(lineage, catalog, path, floor).await?;
    let mut last = summaries.make(last_segment, end).await?.and_then(|summary| last_of(&summary, floor));
    for _ in 0..MAX_LOOKS {
        if last.is_some() || position <= floor {
            break;
        }
        let before = size.start_of(size.segment_before(position)).max(floor);
        let legs = summaries.legs(LsnRange { from: before, to: position });
        let stored = legs.first().and_then(|leg| leg.summary).filter(|key| key.to == position);
        let read = match stored {
            Some(key) => summaries.read(key).await?.map(|summary| (key.from.max(floor), summary)),
            None => None,
        };
        let (from, summary) = match read {
            Some((from, summary)) => (from, Some(summary)),
            None => (before, summaries.make(LsnRange { from: before, to: position }, end).await?),
        };
        let Some(summary) = summary else { break };
        last = last_of(&summary, floor);
        position = from;
    }
    Ok(WindowEnd { window, last })
}

fn last_of(summary: &crate::wal_summary::WalSummary, floor: Lsn) -> Option<Transaction> {
    let digest = SummaryDigest::new(summary, crate::recovery::Goal::End);
    match digest.last_end(LsnRange { from: summary.from.max(floor), to: summary.to }) {
        LastEnd::Known(last) => Some(last),
        _ => None,
    }
}
