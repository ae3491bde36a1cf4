//! When the schema was changed: moments to go back to when nobody set a marker.

use chrono::{DateTime, TimeDelta, Utc};

use super::path_summaries::PathSummaries;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::catalog::{Catalog, LsnRange, timeline_of_end};
use crate::repository::{LineageStore, Result};
use crate::wal_summary::{ChangedBlocks, MomentKind, SchemaChange, WalSummary, compose};

/// How far clocks are trusted: a stretch whose last transaction is earlier than what is wanted by this much ends the look.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::hours(1);
/// WAL without a summary that is decoded on the spot.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// A commit of DDL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaMoment {
    /// Where the record of the commit starts, and ends.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub timeline: TimelineId,
    pub change: SchemaChange,
}

/// Changes of the schema, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaMoments {
    pub moments: Vec<SchemaMoment>,
    /// WAL that has no summary and was not looked at, by rising position.
    pub unknown: Vec<LsnRange>,
}

/// Commits of DDL from `since` on along the path of `timeline`, from the oldest backup on it that can be used.
///
/// # Errors
/// The store fails.
pub async fn schema_changes(
    lineage: &LineageStore,
    catalog: &Catalog,
    timeline: TimelineId,
    since: DateTime<Utc>,
) -> Result<SchemaMoments> {
    let Ok(path) = catalog.path(timeline) else { return Ok(SchemaMoments::default()) };
    let mut found = SchemaMoments::default();
    for window in catalog.windows_on(path).into_iter().rev() {
        let range = LsnRange { from: window.from.lsn, to: window.to.lsn };
        let summaries = PathSummaries::list(lineage, catalog, path, range.from).await?;
        if look_back(&summaries, range, since, &mut found).await? {
            break;
        }
    }
    found.moments.sort_by_key(|moment| moment.lsn);
    found.moments.dedup_by_key(|moment| moment.lsn);
    found.unknown.sort_unstable();
    Ok(found)
}

/// Looks at a window from its end backwards. True where the time was reached.
async fn look_back(
    summaries: &PathSummaries<'_>,
    range: LsnRange,
    since: DateTime<Utc>,
    found: &mut SchemaMoments,
) -> Result<bool> {
    let mut decoded = 0;
    // What follows the leg: it tells how transactions ended that were open at the end of the leg.
    let mut later: Option<WalSummary> = None;
    let mut reached = false;
    for leg in summaries.legs(range).into_iter().rev() {
        let stored = match leg.summary {
            Some(key) => summaries.read(key).await?,
            None => None,
        };
        let part = LsnRange { from: leg.from, to: leg.to };
        let read = match stored {
            Some(summary) => Some(summary),
            None => {
                decoded += part.to.distance_from(part.from).unwrap_or(0);
                if decoded <= MAX_DECODED_BYTES { summaries.make(part, range.to).await? } else { None }
            }
        };
        let Some(mut summary) = read else {
            found.unknown.push(part);
            found.collect(later.take(), summaries, range, since);
            continue;
        };
        reached = summary.times.latest().is_some_and(|latest| latest + CLOCK_TOLERANCE < since);
        summary.blocks = ChangedBlocks::default();
        summary.rows.clear();
        summary.moments.retain(|moment| matches!(moment.kind, MomentKind::SchemaChange(_)));
        later = match later.take() {
            Some(behind) if behind.from == summary.to => match compose(&[summary, behind.clone()]) {
                Ok(both) => Some(both),
                Err(_) => Some(behind),
            },
            behind => {
                found.collect(behind, summaries, range, since);
                Some(summary)
            }
        };
        if reached {
            break;
        }
    }
    found.collect(later, summaries, range, since);
    Ok(reached)
}

impl SchemaMoments {
    fn collect(
        &mut self,
        summary: Option<WalSummary>,
        summaries: &PathSummaries<'_>,
        range: LsnRange,
        since: DateTime<Utc>,
    ) {
        for moment in summary.into_iter().flat_map(|summary| summary.moments) {
            let MomentKind::SchemaChange(change) = moment.kind else { continue };
            if range.from <= moment.lsn && moment.end_lsn <= range.to && change.time >= since {
                let timeline = timeline_of_end(summaries.path, moment.end_lsn);
                self.moments.push(SchemaMoment { lsn: moment.lsn, end_lsn: moment.end_lsn, timeline, change: *change });
            }
        }
    }
}
