//! The WAL of a path, segment by segment, read ahead.

use std::ops::RangeInclusive;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, SegmentNumber};
use crate::repository::catalog::Catalog;
use crate::repository::wal_store::{StoredSegment, WalStore};
use crate::repository::{Error, LineageStore};

/// Plain bytes of segments in memory, read ahead.
const READ_AHEAD_BYTES: u64 = 48 << 20;
const MAX_READ_AHEAD_SEGMENTS: u64 = 8;

/// One segment's bytes, from its start on, as far as they are wanted.
#[derive(Clone, Debug)]
pub(crate) struct SegmentPart {
    pub segment: SegmentNumber,
    pub bytes: Bytes,
}

/// Reads along a path up to a limit.
pub(crate) struct Segments<'a> {
    wal: WalStore,
    catalog: &'a Catalog,
    path: &'a TimelinePath,
    /// What is listed behind this position is not wanted.
    limit: Lsn,
}

impl<'a> Segments<'a> {
    pub fn new(lineage: &LineageStore, catalog: &'a Catalog, path: &'a TimelinePath, limit: Lsn) -> Self {
        Self { wal: WalStore::new(lineage.clone()), catalog, path, limit }
    }

    /// The segments in order, some of them under way at once.
    pub fn read_ahead(
        &self,
        numbers: RangeInclusive<u64>,
    ) -> impl Stream<Item = (SegmentNumber, Result<SegmentPart, Error>)> {
        let ahead = (READ_AHEAD_BYTES / self.catalog.segment_size().as_u64()).clamp(1, MAX_READ_AHEAD_SEGMENTS);
        let reads =
            stream::iter(numbers).map(SegmentNumber::new).map(async |segment| (segment, self.read(segment).await));
        reads.buffered(usize::try_from(ahead).unwrap_or(1))
    }

    /// One segment from the timeline that the server would read it from, without what is behind the limit.
    pub async fn read(&self, segment: SegmentNumber) -> Result<SegmentPart, Error> {
        let size = self.catalog.segment_size();
        let name = self.catalog.segment_name(self.path, segment);
        let stored = self.wal.read_segment(name).await?;
        let bytes = stored.as_ref().map(StoredSegment::bytes).cloned().unwrap_or_default();
        let wanted = offset(size.start_of(segment), self.limit.min(size.end_of(segment)));
        if bytes.len() < wanted {
            let key = self.wal.lineage().layout().segment(name);
            let reason = format!("the repository listed {wanted} bytes of it, and {} are there", bytes.len());
            return Err(Error::Corrupt { key, reason });
        }
        Ok(SegmentPart { segment, bytes: bytes.slice(..wanted) })
    }
}

/// Bytes from `start` to `lsn`; none where that is before.
pub(super) fn offset(start: Lsn, lsn: Lsn) -> usize {
    lsn.distance_from(start).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
}
