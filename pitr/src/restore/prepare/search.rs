//! Finds the target of one attempt in the WAL: by summaries as far as those go, by decoding where they do not.
//!
//! What is found is the same either way. Where a summary promised what decoding does not find, all WAL is decoded.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::segments::{SegmentPart, Segments, offset};
use super::summaries::{ReadLeg, Summaries};
use super::{PrepareError, WalRead};
use crate::postgres::{Lsn, SegmentNumber};
use crate::recovery::scan::Findings;
use crate::recovery::{
    Attempt, Goal, Leg, PlanBasis, PlanError, Progress, Route, ScanFault, ScanStart, SummaryDigest, Unsettled, WalScan,
};
use crate::repository::catalog::{Catalog, LsnRange, Moment};
use crate::repository::{Error, LineageStore};
use crate::storage;

/// A piece of this size stays in the processor's cache while it is decoded.
const PIECE_BYTES: usize = 256 << 10;

/// What was found, and what was read for it.
pub(super) struct Found {
    pub findings: Findings,
    pub basis: PlanBasis,
}

/// Looks for the target of one attempt, and for what follows it. With `check_wal` all WAL up to there is decoded.
pub(super) async fn search(
    lineage: &LineageStore,
    catalog: &Catalog,
    attempt: &Attempt<'_>,
    check_wal: bool,
    observe: &(dyn Fn(WalRead) + Send + Sync),
) -> Result<Found, PrepareError> {
    let route = Route::new(attempt.aim.goal, attempt.backup, catalog.segment_size(), attempt.limit);
    let mut search = Search::new(lineage, catalog, attempt, observe)?;
    if !check_wal && route.can_skip(attempt.backup.start_lsn) {
        let path = &attempt.aim.path;
        let summaries = Summaries::list(lineage, path, attempt.backup.start_lsn, attempt.aim.goal).await?;
        if !summaries.is_empty() {
            if search.by_summaries(summaries, route).await? {
                return Ok(Found { findings: search.scan.finish(), basis: search.basis });
            }
            tracing::debug!("the WAL summaries do not say enough; all WAL is decoded");
            let decoded = search.basis.wal_decoded_bytes;
            search = Search::new(lineage, catalog, attempt, observe)?;
            search.basis.wal_decoded_bytes = decoded;
        }
    }
    search.decode_to(attempt.limit).await?;
    Ok(Found { findings: search.scan.finish(), basis: search.basis })
}

/// How a stretch of decoding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Where it should.
    Reached,
    /// There is nothing more to find, or no more WAL.
    Over,
}

struct Search<'a> {
    lineage: &'a LineageStore,
    catalog: &'a Catalog,
    attempt: &'a Attempt<'a>,
    observe: &'a (dyn Fn(WalRead) + Send + Sync),
    start: ScanStart,
    scan: WalScan,
    /// The last one that was read: the next stretch may begin in it.
    last_read: Option<SegmentPart>,
    basis: PlanBasis,
}

impl<'a> Search<'a> {
    fn new(
        lineage: &'a LineageStore,
        catalog: &'a Catalog,
        attempt: &'a Attempt<'a>,
        observe: &'a (dyn Fn(WalRead) + Send + Sync),
    ) -> Result<Self, PrepareError> {
        let backup = attempt.backup;
        let start = ScanStart {
            start_lsn: backup.start_lsn,
            stop_lsn: backup.stop_lsn,
            timeline: attempt.aim.path.tli(),
            segment_size: catalog.segment_size(),
            system_identifier: backup.system_identifier,
            major: backup.postgres_version.major().ok_or_else(|| unsupported(lineage, attempt))?,
        };
        Ok(Self {
            lineage,
            catalog,
            attempt,
            observe,
            scan: WalScan::new(&start, attempt.aim.goal),
            start,
            last_read: None,
            basis: PlanBasis::default(),
        })
    }

    /// Skips what summaries speak of. False where that did not lead to the end.
    async fn by_summaries(&mut self, mut summaries: Summaries<'_>, mut route: Route) -> Result<bool, PrepareError> {
        let mut position = self.attempt.backup.start_lsn;
        'legs: while position < self.attempt.limit {
            let legs: Vec<Leg> = summaries.legs(position, self.attempt.limit);
            let legs = legs
                .into_iter()
                .map(|leg| Leg { summary: leg.summary.filter(|_| route.may_skip_in(leg.from, leg.to)), ..leg });
            let reads = summaries.read(legs.collect());
            let mut reads = if route.needs_all() {
                let all: Vec<ReadLeg> = reads.try_collect().await?;
                route.learn(all.iter().filter_map(|read| read.digest.as_ref()));
                stream::iter(all.into_iter().map(Ok)).boxed()
            } else {
                reads.boxed()
            };
            while let Some(read) = reads.try_next().await? {
                let ReadLeg { leg, digest } = read;
                if let Some(key) = leg.summary.filter(|_| digest.is_none()) {
                    drop(reads);
                    summaries.give_up(key);
                    continue 'legs;
                }
                self.basis.summaries += u64::from(digest.is_some());
                if self.pass(leg, digest.as_ref(), &route).await? == Ending::Over {
                    return self.settle().await;
                }
                position = leg.to;
            }
        }
        self.settle().await
    }

    /// One leg: what must be decoded is, the rest is skipped.
    async fn pass(&mut self, leg: Leg, digest: Option<&SummaryDigest>, route: &Route) -> Result<Ending, PrepareError> {
        let mut position = leg.from;
        while position < leg.to {
            let rest = LsnRange { from: position, to: leg.to };
            let next = match digest {
                Some(digest) => route.decode_next(digest, rest),
                None => Some(rest),
            };
            let skipped = LsnRange { from: position, to: next.map_or(leg.to, |next| next.from) };
            if let Some(digest) = digest.filter(|_| skipped.from < skipped.to) {
                self.scan.skip(digest, skipped);
                self.basis.wal_skipped_bytes += skipped.to.distance_from(skipped.from).unwrap_or(0);
            }
            position = skipped.to;
            if let Some(next) = next {
                if self.decode_to(next.to).await? == Ending::Over {
                    return Ok(Ending::Over);
                }
                position = next.to;
            }
            if self.scan.is_decided() {
                self.decode_to(self.attempt.limit).await?;
                return Ok(Ending::Over);
            }
        }
        Ok(Ending::Reached)
    }

    /// Decodes what summaries left open. False where that is too much.
    async fn settle(&mut self) -> Result<bool, PrepareError> {
        // Whether an unknown transaction wrote anything, no summary tells.
        if matches!(self.attempt.aim.goal, Goal::Xid { .. }) && !self.scan.is_decided() {
            return Ok(self.basis.wal_skipped_bytes == 0);
        }
        while let Some(unsettled) = self.scan.unsettled() {
            let Unsettled::Range(range) = unsettled else { return Ok(false) };
            let over = self.scan.over(range);
            let scan = std::mem::replace(&mut self.scan, over);
            let decoded = self.decode_to(range.to).await;
            let over = std::mem::replace(&mut self.scan, scan);
            decoded?;
            if !self.scan.settle(range, &over.finish()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decodes from where the scan is, until every record that starts before `until` is seen.
    async fn decode_to(&mut self, until: Lsn) -> Result<Ending, PrepareError> {
        let size = self.catalog.segment_size();
        let mut wanted = self.scan.resume();
        loop {
            let (first, last) = (size.segment_of(wanted), size.segment_before(self.attempt.limit));
            // Beyond the stretch only the rest of its last record is wanted.
            let on = wanted < until && !self.scan.is_decided();
            let end = if on { size.segment_before(until).min(last) } else { first.min(last) };
            let cached = self.last_read.take().filter(|part| part.segment == first);
            let from = first.as_u64() + u64::from(cached.is_some());
            let segments = Segments::new(self.lineage, self.catalog, &self.attempt.aim.path, self.attempt.limit);
            let cached = stream::iter(cached.map(|part| (part.segment, Ok(part))));
            let mut reads = std::pin::pin!(cached.chain(segments.read_ahead(from..=end.as_u64())));
            while let Some((segment, read)) = reads.next().await {
                // What lies behind a target that is found may be damaged without harm.
                let part = match read {
                    Err(error) if self.scan.is_decided() && error.is_corruption() => return Ok(Ending::Over),
                    read => read?,
                };
                if let Some(ending) = self.decode(segment, &part, until).await? {
                    self.last_read = Some(part);
                    return Ok(ending);
                }
                self.last_read = Some(part);
            }
            let fed = self.scan.fed();
            if fed >= self.attempt.limit || fed <= wanted {
                return Ok(Ending::Over);
            }
            wanted = fed;
        }
    }

    /// Decodes what `part` holds of the stretch up to `until`. None where more is wanted.
    async fn decode(
        &mut self,
        segment: SegmentNumber,
        part: &SegmentPart,
        until: Lsn,
    ) -> Result<Option<Ending>, PrepareError> {
        let start = self.catalog.segment_size().start_of(segment);
        loop {
            let fed = self.scan.fed();
            let from = offset(start, fed);
            // First what belongs to the stretch; behind it piece by piece, as far as its last record goes.
            let to = if fed < until { offset(start, until) } else { from + PIECE_BYTES };
            let bytes = part.bytes.slice(from.min(part.bytes.len())..to.min(part.bytes.len()));
            let length = bytes.len();
            let progress = self.feed(bytes, until).await?;
            (self.observe)(WalRead {
                from: self.attempt.backup.start_lsn,
                position: self.scan.position(),
                to: self.attempt.limit,
            });
            match progress {
                Ok(Progress::Reached) => return Ok(Some(Ending::Reached)),
                Ok(Progress::Done) => return Ok(Some(Ending::Over)),
                Ok(Progress::More) if length == 0 => return Ok(None),
                Ok(Progress::More) => {}
                Err(_) if self.scan.is_decided() => return Ok(Some(Ending::Over)),
                // The last segment can be whole and yet not full: the server stopped there.
                Err(fault) if fault.is_end_of_wal() && self.ends_in(segment) => return Ok(Some(Ending::Over)),
                Err(fault) => return Err(self.damage(segment, fault)),
            }
        }
    }

    /// Nothing durable comes behind `segment`.
    fn ends_in(&self, segment: SegmentNumber) -> bool {
        let attempt = self.attempt;
        let last = self.catalog.segment_size().segment_before(attempt.limit);
        segment == last && attempt.limit == attempt.reach.end && attempt.reach.missing.is_none()
    }

    fn damage(&self, segment: SegmentNumber, fault: ScanFault) -> PrepareError {
        let last_good = self.scan.last_record().map(|record| Moment { lsn: record.end, time: None });
        let segment = self.catalog.segment_name(&self.attempt.aim.path, segment);
        PlanError::Wal { segment, fault, last_good }.into()
    }

    /// Decoding keeps a core busy: it runs on a blocking thread.
    async fn feed(&mut self, bytes: Bytes, until: Lsn) -> Result<Result<Progress, ScanFault>, Error> {
        let mut scan = std::mem::replace(&mut self.scan, WalScan::new(&self.start, self.attempt.aim.goal));
        let before = scan.fed();
        let fed = tokio::task::spawn_blocking(move || {
            let mut progress = scan.feed_until(&[], until);
            for piece in bytes.chunks(PIECE_BYTES) {
                if progress != Ok(Progress::More) {
                    break;
                }
                progress = scan.feed_until(piece, until);
            }
            (scan, progress)
        });
        match fed.await {
            Ok((scan, progress)) => {
                self.scan = scan;
                self.basis.wal_decoded_bytes += self.scan.fed().distance_from(before).unwrap_or(0);
                Ok(progress)
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(storage::Error::new(
                    storage::ErrorKind::Cancelled,
                    storage::Operation::Get,
                    "wal",
                    "the runtime is shutting down",
                )
                .into()),
            },
        }
    }
}

fn unsupported(lineage: &LineageStore, attempt: &Attempt<'_>) -> Error {
    let reason = format!("version {} of PostgreSQL is not supported", attempt.backup.postgres_version);
    Error::Corrupt { key: lineage.layout().manifest(&attempt.backup.id), reason }
}
