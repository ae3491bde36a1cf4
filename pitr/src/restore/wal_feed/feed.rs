//! What a file name stands for in the repository: bytes, nothing, or trouble.

use std::path::Path;

use bytes::Bytes;

use super::delivery::{Place, deliver_off_thread};
use super::needed::NeededWal;
use super::{FeedError, FeedName};
use crate::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use crate::recovery::WalRun;
use crate::repository::catalog::{DurableWal, LsnRange};
use crate::repository::lease::Lease;
use crate::repository::wal_store::{StoredSegment, WalStore};
use crate::repository::{Error, LineageStore};

/// How often the end of the WAL is looked at again when it moves while it is looked at.
const ATTEMPTS: usize = 5;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The file is in its place.
    Found { bytes: u64 },
    /// There is no such file, for certain.
    Absent,
}

/// What is to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Bytes, to be filled up with zeros to `size`.
    File {
        bytes: Bytes,
        size: u64,
    },
    Absent,
}

/// The WAL of one lineage, as one server is to see it.
#[derive(Clone, Debug)]
pub struct WalFeed {
    wal: WalStore,
    needed: Option<NeededWal>,
    target_timeline: Option<TimelineId>,
}

impl WalFeed {
    /// All of it, for a server without a target that is known here.
    #[must_use]
    pub fn new(lineage: LineageStore) -> Self {
        Self { wal: WalStore::new(lineage), needed: None, target_timeline: None }
    }

    /// What a plan needs is never absent; what it does not need is not waited for.
    ///
    /// # Errors
    /// The runs are not of this lineage's segment size.
    pub fn for_target(
        lineage: LineageStore,
        target_timeline: Option<TimelineId>,
        wal: &[WalRun],
    ) -> Result<Self, FeedError> {
        let needed = NeededWal::new(wal, lineage.lineage().wal_segment_size)?;
        Ok(Self { wal: WalStore::new(lineage), needed, target_timeline })
    }

    pub(super) fn segment_size(&self) -> WalSegmentSize {
        self.wal.lineage().lineage().wal_segment_size
    }

    /// Puts the file `name` to `destination`.
    ///
    /// # Errors
    /// It is neither delivered nor proven to be absent; `destination` is as it was.
    pub async fn fetch(&self, name: &str, destination: &Path) -> Result<FetchOutcome, FeedError> {
        let place = Place::new(destination)?;
        match self.read(name).await? {
            Content::Absent => Ok(FetchOutcome::Absent),
            Content::File { bytes, size } => {
                deliver_off_thread(place, bytes, size).await?;
                Ok(FetchOutcome::Found { bytes: size })
            }
        }
    }

    pub(super) async fn read(&self, name: &str) -> Result<Content, FeedError> {
        let failed = |source| FeedError::Repository { name: name.to_owned(), source };
        match FeedName::parse(name).ok_or_else(|| FeedError::Name(name.to_owned()))? {
            FeedName::Other => Ok(Content::Absent),
            FeedName::History(tli) => self.history(tli).await,
            FeedName::Segment(segment) => {
                let number = segment.number(self.segment_size()).ok_or_else(|| FeedError::Name(name.to_owned()))?;
                match self.needed.as_ref().map(|needed| needed.needed_to(segment)) {
                    Some(Some(needed)) => self.needed_segment(segment, number, needed).await,
                    Some(None) => match self.wal.read_segment(segment).await.map_err(failed)? {
                        Some(StoredSegment::Whole(bytes)) => Ok(self.file(bytes)),
                        // It lies behind the target: the server only looks ahead.
                        Some(StoredSegment::Open { .. }) | None => Ok(Content::Absent),
                    },
                    None => self.any_segment(segment, number).await,
                }
            }
        }
    }

    /// A segment that is whole; none where it is not, for reading ahead.
    pub(super) async fn whole_segment(&self, segment: SegmentName) -> Result<Option<Bytes>, Error> {
        match self.wal.whole_segment(segment).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What will be asked for behind `segment`, as far as that is known.
    pub(super) fn following(&self, segment: SegmentName, count: usize) -> Vec<SegmentName> {
        if let Some(needed) = &self.needed {
            return needed.whole_ones_after(segment, count);
        }
        let Some(number) = segment.number(self.segment_size()) else { return Vec::new() };
        let following = std::iter::successors(Some(number.next()), |number| Some(number.next()));
        following.take(count).map(|number| number.name(segment.tli(), self.segment_size())).collect()
    }

    fn file(&self, bytes: Bytes) -> Content {
        Content::File { bytes, size: self.segment_size().as_u64() }
    }

    async fn history(&self, tli: TimelineId) -> Result<Content, FeedError> {
        match self.wal.read_history(tli).await {
            Ok(bytes) => Ok(Content::File { size: bytes.len() as u64, bytes }),
            Err(error) if error.is_not_found() => {
                // The server would take its absence for "no such timeline", and that is another recovery than the planned one.
                if self.target_timeline == Some(tli) && tli != TimelineId::FIRST {
                    return Err(FeedError::HistoryMissing(tli));
                }
                Ok(Content::Absent)
            }
            Err(source) => Err(FeedError::Repository { name: format!("{}.history", tli.to_hex()), source }),
        }
    }

    async fn needed_segment(
        &self,
        segment: SegmentName,
        number: SegmentNumber,
        needed: Lsn,
    ) -> Result<Content, FeedError> {
        let stored = self.wal.read_segment(segment).await;
        let stored = stored.map_err(|source| FeedError::Repository { name: segment.to_string(), source })?;
        match stored {
            Some(StoredSegment::Whole(bytes)) => Ok(self.file(bytes)),
            Some(StoredSegment::Open { bytes, end }) if end >= needed => Ok(self.file(bytes)),
            Some(StoredSegment::Open { end, .. }) => Err(FeedError::Missing { segment, needed, stored: end }),
            None => {
                let stored = self.segment_size().start_of(number);
                Err(FeedError::Missing { segment, needed, stored })
            }
        }
    }

    /// A segment of which it is not known whether it is needed: tails end the WAL only where nothing comes behind them.
    async fn any_segment(&self, segment: SegmentName, number: SegmentNumber) -> Result<Content, FeedError> {
        let failed = |source| FeedError::Repository { name: segment.to_string(), source };
        let mut found = (self.segment_size().start_of(number), Lsn::INVALID);
        for _ in 0..ATTEMPTS {
            let (content, end) = match self.wal.read_segment(segment).await.map_err(failed)? {
                Some(StoredSegment::Whole(bytes)) => return Ok(self.file(bytes)),
                Some(StoredSegment::Open { bytes, end }) if end == self.segment_size().end_of(number) => {
                    return Ok(self.file(bytes));
                }
                Some(StoredSegment::Open { bytes, end }) if !bytes.is_empty() => (self.file(bytes), end),
                Some(StoredSegment::Open { .. }) | None => (Content::Absent, self.segment_size().start_of(number)),
            };
            let newer = self.newer_than(segment, end).await.map_err(failed)?;
            let Some(newer) = newer else { return Ok(content) };
            // Either there is a hole, or the WAL grew while it was read: then the next look shows it.
            found = (end, newer);
        }
        Err(FeedError::Gap { segment, stored: found.0, newer: found.1 })
    }

    /// Up to where there is, or by the lease was, WAL of this timeline behind `end`, where `segment` ends in the repository.
    async fn newer_than(&self, segment: SegmentName, end: Lsn) -> Result<Option<Lsn>, Error> {
        let lineage = self.wal.lineage();
        let lease = match lineage.get::<Lease>(&lineage.layout().lease()).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let sealed = lease.and_then(|lease| lease.sealed).filter(|sealed| sealed.timeline == segment.tli());
        if let Some(sealed) = sealed.filter(|sealed| sealed.lsn > end) {
            return Ok(Some(sealed.lsn));
        }
        let size = self.segment_size();
        for log in self.wal.logs(segment.tli()).await?.into_iter().filter(|log| *log >= segment.log()).rev() {
            let listed = self.wal.log(segment.tli(), log).await?;
            let mut durable = DurableWal::new(size);
            listed.segments.iter().filter_map(|name| name.number(size)).for_each(|n| durable.add_segment(n));
            for tail in listed.tails.values().flatten() {
                if let Some(number) = tail.segment.number(size) {
                    // A misplaced one was left out of the listing.
                    let _ = durable.add_tail(number, LsnRange { from: tail.from, to: tail.to });
                }
            }
            if let Some(newer) = durable.end().filter(|newer| *newer > end) {
                return Ok(Some(newer));
            }
        }
        Ok(None)
    }
}
