//! The stored form of a summary, before compression: the postcard encoding of [`WalSummary`], whose specification is public
//! (`https://postcard.jamesmunns.com/wire-format`). `docs/format.md` lists the fields.

use super::listed::Listed;
use super::moment::{Moment, MomentKind};
use super::summary::WalSummary;
use crate::postgres::Oid;

/// No summary has a larger stored form: one segment of 1 GiB with nothing but distinct blocks stays below.
pub const MAX_CONTENT_BYTES: u64 = 256 << 20;
/// Where the stored form of a fold is larger, it is not made: looking something up would read too much.
pub const MAX_FOLDED_BYTES: u64 = 8 << 20;

/// Why bytes are not a summary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("the WAL summary cannot be read")]
    Malformed(#[source] postcard::Error),
    #[error("{0} bytes stand behind the WAL summary")]
    Excess(usize),
    #[error("the WAL summary contradicts itself: {0}")]
    Inconsistent(&'static str),
    #[error("the WAL summary takes {bytes} bytes, more than {MAX_CONTENT_BYTES}")]
    TooLarge { bytes: u64 },
}

/// The stored form.
///
/// # Errors
/// It is larger than any reader takes.
///
/// # Panics
/// Never: all values of a summary have a stored form.
#[expect(clippy::expect_used, reason = "a summary is made of numbers, text and sequences of known length")]
pub fn to_bytes(summary: &WalSummary) -> Result<Vec<u8>, ContentError> {
    let bytes = postcard::to_stdvec(summary).expect("summaries always have a stored form");
    let size = bytes.len() as u64;
    if size > MAX_CONTENT_BYTES { Err(ContentError::TooLarge { bytes: size }) } else { Ok(bytes) }
}

/// Reads what [`to_bytes`] wrote.
///
/// # Errors
/// Anything else.
pub fn from_bytes(bytes: &[u8]) -> Result<WalSummary, ContentError> {
    let size = bytes.len() as u64;
    if size > MAX_CONTENT_BYTES {
        return Err(ContentError::TooLarge { bytes: size });
    }
    let (summary, rest) = postcard::take_from_bytes(bytes).map_err(ContentError::Malformed)?;
    if !rest.is_empty() {
        return Err(ContentError::Excess(rest.len()));
    }
    check(&summary).map_err(ContentError::Inconsistent)?;
    Ok(summary)
}

fn check(summary: &WalSummary) -> Result<(), &'static str> {
    if summary.from >= summary.to {
        return Err("its range is empty");
    }
    let range = summary.from..summary.to;
    if !summary.moments.iter().all(|moment| range.contains(&moment.lsn)) {
        return Err("a moment is out of its range");
    }
    if !summary.moments.is_sorted_by(|a, b| a.lsn < b.lsn) {
        return Err("its moments are out of order");
    }
    if !summary.transactions.schema_commits.is_sorted_by(|a, b| a.lsn < b.lsn) {
        return Err("its commits are out of order");
    }
    if !summary.catalog.iter().all(|change| range.contains(&change.lsn)) {
        return Err("a change of a catalog is out of its range");
    }
    if !summary.catalog.is_sorted_by(|a, b| a.lsn <= b.lsn) {
        return Err("its changes of catalogs are out of order");
    }
    let per_row = summary.segments_per_row();
    let first = summary.segment_size.segment_of(summary.from).as_u64() / per_row * per_row;
    let last = summary.segment_size.segment_before(summary.to).as_u64();
    let in_range = |segment: u64| (first..=last).contains(&segment) && segment.is_multiple_of(per_row);
    if !summary.segments.iter().all(|row| in_range(row.segment)) {
        return Err("a segment is out of its range");
    }
    if !summary.segments.is_sorted_by(|a, b| a.segment < b.segment) {
        return Err("its segments are out of order");
    }
    if summary.moments.iter().any(names_too_many) {
        return Err("a moment names too many relations");
    }
    Ok(())
}

fn names_too_many(moment: &Moment) -> bool {
    let MomentKind::SchemaChange(change) = &moment.kind else { return false };
    let longest = change.tables.iter().count().max(change.traces.created.iter().count());
    longest.max(change.traces.dropped.iter().count()) > Listed::<Oid>::LIMIT
}
