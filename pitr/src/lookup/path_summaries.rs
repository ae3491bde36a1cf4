//! Summaries along a path, stored ones and such that are made of the WAL on the spot.

use crate::postgres::history::TimelinePath;
use crate::postgres::wal::{Record, WalDecoder};
use crate::postgres::{Lsn, SegmentNumber};
use crate::recovery::{Leg, legs};
use crate::repository::catalog::{Catalog, LsnRange};
use crate::repository::layout::SummaryKey;
use crate::repository::summary_store::ReadSummary;
use crate::repository::{LineageStore, Result, SummaryStore};
use crate::restore::prepare::segments::Segments;
use crate::wal_summary::{SummaryBuilder, WalSummary};

/// A piece of this size stays in the processor's cache while it is decoded.
const PIECE_BYTES: usize = 256 << 10;

/// The summaries of a path that are listed.
pub(crate) struct PathSummaries<'a> {
    lineage: &'a LineageStore,
    catalog: &'a Catalog,
    pub(super) path: &'a TimelinePath,
    store: SummaryStore,
    listed: Vec<SummaryKey>,
}

impl<'a> PathSummaries<'a> {
    /// Lists those of the timelines that `path` follows behind `from`.
    pub async fn list(
        lineage: &'a LineageStore,
        catalog: &'a Catalog,
        path: &'a TimelinePath,
        from: Lsn,
    ) -> Result<Self> {
        let store = SummaryStore::new(lineage.clone());
        let mut listed = Vec::new();
        for step in path.steps().iter().filter(|step| step.end.is_none_or(|end| end > from)) {
            listed.extend(store.list(step.tli).await?.into_iter().map(|summary| summary.key));
        }
        Ok(Self { lineage, catalog, path, store, listed })
    }

    pub fn legs(&self, range: LsnRange) -> Vec<Leg> {
        legs(&self.listed, self.path, range.from, range.to)
    }

    /// None where it cannot be used, and counts as missing.
    pub async fn read(&self, key: SummaryKey) -> Result<Option<WalSummary>> {
        match self.store.read(key).await {
            Ok(ReadSummary::Usable(summary)) => Ok(Some(*summary)),
            Ok(ReadSummary::Unusable { .. }) => Ok(None),
            Err(error) if error.is_not_found() || error.is_corruption() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A summary of what starts in `range`, as far as it is whole before `limit`. None where the WAL cannot be understood.
    pub async fn make(&self, range: LsnRange, limit: Lsn) -> Result<Option<WalSummary>> {
        Ok(self.make_witnessed(range, limit, ()).await?.map(|(summary, ())| summary))
    }

    /// As [`Self::make`], with somebody else who sees the records.
    pub async fn make_witnessed<W: Witness>(
        &self,
        range: LsnRange,
        limit: Lsn,
        witness: W,
    ) -> Result<Option<(WalSummary, W)>> {
        let size = self.catalog.segment_size();
        let lineage = self.lineage.lineage();
        let Some(major) = lineage.postgres_version.major() else { return Ok(None) };
        let start = size.start_of(size.segment_of(range.from));
        let decoder = WalDecoder::new(start, self.path.tli(), size)
            .with_system_identifier(lineage.lineage.system_identifier())
            .with_major(major);
        let segments = Segments::new(self.lineage, self.catalog, self.path, limit);
        let (first, last) = (size.segment_of(range.from).as_u64(), size.segment_before(limit).as_u64());
        let builder = SummaryBuilder::new(self.path.tli(), major, size, range.from);
        let mut making = Making { decoder, builder, witness, range, over: false };
        for number in first..=last {
            let part = match segments.read(SegmentNumber::new(number)).await {
                Ok(part) => part,
                Err(error) if error.is_corruption() || error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            let fed = tokio::task::spawn_blocking(move || {
                making.feed(&part.bytes);
                making
            });
            making = match fed.await {
                Ok(making) => making,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Only a runtime that shuts down refuses the work.
                    Err(_) => return Ok(None),
                },
            };
            if making.is_over() {
                break;
            }
        }
        Ok(making.builder.finish(range.to).ok().map(|summary| (summary, making.witness)))
    }
}

/// Sees records on their way into a summary.
pub(crate) trait Witness: Send + 'static {
    fn record(&mut self, record: &Record<'_>);
}

impl Witness for () {
    fn record(&mut self, _: &Record<'_>) {}
}

struct Making<W> {
    decoder: WalDecoder,
    builder: SummaryBuilder,
    witness: W,
    range: LsnRange,
    over: bool,
}

impl<W: Witness> Making<W> {
    fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.decoder.feed(piece);
            loop {
                match self.decoder.next_record() {
                    Ok(Some(record)) if record.start_lsn() >= self.range.to => {
                        self.over = true;
                        return;
                    }
                    Ok(Some(record)) if record.start_lsn() >= self.range.from => {
                        if self.builder.record(&record).is_err() {
                            self.over = true;
                            return;
                        }
                        self.witness.record(&record);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        self.over = true;
                        return;
                    }
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over || (self.decoder.position() >= self.range.to && self.decoder.incomplete_record().is_none())
    }
}
