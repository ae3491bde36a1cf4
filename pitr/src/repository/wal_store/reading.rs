//! Reading and listing WAL.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{MAX_HISTORY_BYTES, Tail, WalStore, blocking, check_content};
use crate::postgres::{Lsn, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use crate::repository::error::{Error, Result};
use crate::repository::hash::ContentHash;
use crate::repository::layout::{LineageLayout, WalObject};
use crate::repository::wal_object::{HistoryHeader, SegmentHeader, TailHeader};
use crate::storage::{ObjectKey, ObjectStoreExt};

/// How often a segment is looked at afresh when its tails vanish under the reader's hands: each time somebody folded
/// them, or stored the segment.
const ATTEMPTS: usize = 5;
/// Tails of one segment that are read at once: there are many small ones where commits wait for them.
const TAILS_AT_ONCE: usize = 8;
/// Segments that can have been stored while a log was listed, with time to spare; more missing ones are a hole.
const STORED_AT_ONCE: usize = 16;

/// A segment as far as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredSegment {
    Whole(Bytes),
    /// The bytes from the segment's start up to `end`, joined from its tails. Nothing beyond is stored.
    Open {
        bytes: Bytes,
        end: Lsn,
    },
}

impl StoredSegment {
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        match self {
            Self::Whole(bytes) | Self::Open { bytes, .. } => bytes,
        }
    }
}

/// What stands in one log: a slice of a timeline, 4 GiB of WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalLog {
    /// Whole segments in order.
    pub segments: Vec<SegmentName>,
    /// Tails of each open segment, by `from`.
    pub tails: BTreeMap<SegmentName, Vec<Tail>>,
}

impl WalLog {
    /// Up to where the tails of `segment` follow each other from its `start`; `start` itself where none does.
    #[must_use]
    pub fn tails_end(&self, segment: SegmentName, start: Lsn) -> Lsn {
        chain(self.tails.get(&segment).map(Vec::as_slice).unwrap_or_default(), start)
            .last()
            .map_or(start, |tail| tail.to)
    }

    /// Segments of this log that may have been stored while it was listed: few at any time.
    fn doubtful(&self, size: WalSegmentSize) -> Vec<SegmentName> {
        let names = || self.segments.iter().chain(self.tails.keys());
        let (Some(first), Some(last)) = (names().min(), names().max()) else { return Vec::new() };
        let (Some(from), Some(to)) = (first.number(size), last.number(size)) else { return Vec::new() };
        (from.as_u64()..=to.as_u64().saturating_add(1))
            .map(|number| SegmentNumber::new(number).name(first.tli(), size))
            .filter(|name| name.log() == first.log() && self.segments.binary_search(name).is_err())
            .take(STORED_AT_ONCE)
            .collect()
    }
}

/// The fewest tails that lead from `start` as far as possible.
fn chain(tails: &[Tail], start: Lsn) -> Vec<Tail> {
    let mut chosen: Vec<Tail> = Vec::new();
    let mut end = start;
    while let Some(next) = tails.iter().filter(|tail| tail.from <= end && tail.to > end).max_by_key(|tail| tail.to) {
        end = next.to;
        chosen.push(*next);
    }
    chosen
}

impl WalStore {
    /// The segment as far as it is stored; none is the store's own answer that there is nothing of it.
    ///
    /// # Errors
    /// The store fails, or an object is not what it should be.
    pub async fn read_segment(&self, name: SegmentName) -> Result<Option<StoredSegment>> {
        for _ in 0..ATTEMPTS {
            match self.whole_segment(name).await {
                Ok(bytes) => return Ok(Some(StoredSegment::Whole(bytes))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            let tails = self.tails(name).await?;
            if tails.is_empty() {
                // Between the two looks the segment may have been stored and its tails removed.
                match self.whole_segment(name).await {
                    Ok(bytes) => return Ok(Some(StoredSegment::Whole(bytes))),
                    Err(error) if error.is_not_found() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            match self.join(name, &tails).await {
                Ok(open) => return Ok(Some(open)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let key = self.layout().segment(name);
        Err(Error::Corrupt { key, reason: "its tails are listed and cannot be read".to_owned() })
    }

    /// The whole segment.
    ///
    /// # Errors
    /// The store fails, "not found" where only tails or nothing of it is stored; the object is not what it should be.
    pub async fn whole_segment(&self, name: SegmentName) -> Result<Bytes> {
        let key = self.layout().segment(name);
        let lineage = self.lineage.lineage();
        let size = lineage.wal_segment_size.as_u64();
        let (header, frames) = self.lineage.get_enveloped::<SegmentHeader>(&key, self.object_limit(size)).await?;
        let fits = header.segment == name.to_string()
            && header.timeline == name.tli()
            && header.bytes == size
            && header.wal_segment_size == lineage.wal_segment_size
            && header.system_identifier == lineage.lineage.system_identifier();
        if !fits {
            let reason = format!("its header is that of segment {} with {} bytes", header.segment, header.bytes);
            return Err(Error::Corrupt { key, reason });
        }
        blocking(move || check_content(&key, &frames, header.bytes, header.blake3).map(Bytes::from)).await
    }

    /// The content of zstd frames of the object `key`, once it is proven to have this length and hash.
    ///
    /// # Errors
    /// It is something else.
    pub async fn prove_content(&self, key: &ObjectKey, frames: Bytes, bytes: u64, hash: ContentHash) -> Result<Bytes> {
        let key = key.clone();
        blocking(move || check_content(&key, &frames, bytes, hash).map(Bytes::from)).await
    }

    /// The tails of a segment, by `from`.
    ///
    /// # Errors
    /// The store fails.
    pub async fn tails(&self, name: SegmentName) -> Result<Vec<Tail>> {
        let prefix = self.layout().tails(name);
        let mut listed = self.lineage.store().list(&prefix);
        let mut tails = Vec::new();
        while let Some(meta) = listed.try_next().await? {
            if let Some(WalObject::Tail { segment, from, to }) = self.layout().parse_wal(&meta.key) {
                tails.push(Tail { segment, from, to });
            }
        }
        tails.retain(|tail| self.is_tail(*tail));
        Ok(tails)
    }

    /// The bytes of one tail.
    ///
    /// # Errors
    /// The store fails, or the object is not what it should be.
    pub async fn read_tail(&self, tail: Tail) -> Result<Bytes> {
        let key = self.layout().tail(tail.segment, tail.from, tail.to);
        let lineage = self.lineage.lineage();
        let expected = tail.to.distance_from(tail.from).unwrap_or(0);
        let (header, frames) = self.lineage.get_enveloped::<TailHeader>(&key, self.object_limit(expected)).await?;
        let fits = header.segment == tail.segment.to_string()
            && (header.from_lsn, header.to_lsn) == (tail.from, tail.to)
            && header.bytes == expected
            && header.system_identifier == lineage.lineage.system_identifier();
        if !fits {
            let reason = format!("its header is that of {} to {}", header.from_lsn, header.to_lsn);
            return Err(Error::Corrupt { key, reason });
        }
        blocking(move || check_content(&key, &frames, header.bytes, header.blake3).map(Bytes::from)).await
    }

    async fn join(&self, name: SegmentName, tails: &[Tail]) -> Result<StoredSegment> {
        let size = self.lineage.lineage().wal_segment_size;
        let key = self.layout().segment(name);
        let Some(number) = name.number(size) else {
            return Err(Error::Corrupt { key, reason: "no segment of this size has that name".to_owned() });
        };
        let start = size.start_of(number);
        let mut joined: Vec<u8> = Vec::new();
        let reading = chain(tails, start).into_iter();
        let reading = reading.map(|tail| async move { Ok::<_, Error>((tail, self.read_tail(tail).await?)) });
        let mut contents = futures::stream::iter(reading).buffered(TAILS_AT_ONCE);
        while let Some((tail, content)) = contents.try_next().await? {
            let end = start.advance(joined.len() as u64);
            let overlap = end.distance_from(tail.from).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
            let known = joined.len().checked_sub(overlap).and_then(|from| joined.get(from..));
            if known != content.get(..overlap) {
                let reason =
                    format!("the tail from {} to {} has other bytes than the one before it", tail.from, tail.to);
                return Err(Error::Corrupt { key, reason });
            }
            joined.extend_from_slice(content.get(overlap..).unwrap_or_default());
        }
        let end = start.advance(joined.len() as u64);
        Ok(StoredSegment::Open { bytes: joined.into(), end })
    }

    /// The history file of a timeline, byte for byte.
    ///
    /// # Errors
    /// The store fails, or the object is not what it should be.
    pub async fn read_history(&self, tli: TimelineId) -> Result<Bytes> {
        let key = self.layout().history(tli);
        let limit = self.object_limit(MAX_HISTORY_BYTES);
        let (header, frames) = self.lineage.get_enveloped::<HistoryHeader>(&key, limit).await?;
        let own =
            header.timeline == tli && header.system_identifier == self.lineage.lineage().lineage.system_identifier();
        if !own || header.bytes > MAX_HISTORY_BYTES {
            let reason = format!(
                "its header is that of timeline {} of cluster {} with {} bytes",
                header.timeline, header.system_identifier, header.bytes
            );
            return Err(Error::Corrupt { key, reason });
        }
        blocking(move || check_content(&key, &frames, header.bytes, header.blake3).map(Bytes::from)).await
    }

    /// Whether the history file of a timeline is stored.
    ///
    /// # Errors
    /// The store fails.
    pub async fn has_history(&self, tli: TimelineId) -> Result<bool> {
        Ok(self.lineage.store().exists(&self.layout().history(tli)).await?)
    }

    /// Every timeline of which anything is stored, in order.
    ///
    /// # Errors
    /// The store fails.
    pub async fn timelines(&self) -> Result<Vec<TimelineId>> {
        let children = self.lineage.store().list_children(&self.layout().wal()).await?;
        let mut timelines: Vec<_> =
            children.iter().filter_map(|child| TimelineId::from_hex(child.name()).ok()).collect();
        timelines.sort_unstable();
        Ok(timelines)
    }

    /// The logs of a timeline, in order.
    ///
    /// # Errors
    /// The store fails.
    pub async fn logs(&self, tli: TimelineId) -> Result<Vec<u32>> {
        let children = self.lineage.store().list_children(&self.layout().wal_timeline(tli)).await?;
        let mut logs: Vec<_> = children.iter().filter_map(LineageLayout::parse_log).collect();
        logs.sort_unstable();
        Ok(logs)
    }

    /// What stands in one log of a timeline.
    ///
    /// A listing is no picture of one moment: it may pass the name of a segment before that is stored, and the names of its
    /// tails when they are gone. So what it shows as a hole, or as the end, is asked for by name.
    ///
    /// # Errors
    /// The store fails.
    pub async fn log(&self, tli: TimelineId, log: u32) -> Result<WalLog> {
        let mut found = self.listed_log(tli, log).await?;
        for name in found.doubtful(self.lineage.lineage().wal_segment_size) {
            if self.lineage.store().exists(&self.layout().segment(name)).await?
                && let Err(at) = found.segments.binary_search(&name)
            {
                found.segments.insert(at, name);
            }
        }
        Ok(found)
    }

    async fn listed_log(&self, tli: TimelineId, log: u32) -> Result<WalLog> {
        let prefix = self.layout().wal_log(tli, log);
        let mut listed = self.lineage.store().list(&prefix);
        let mut found = WalLog::default();
        while let Some(meta) = listed.try_next().await? {
            match self.layout().parse_wal(&meta.key) {
                Some(WalObject::Segment(name)) => found.segments.push(name),
                Some(WalObject::Tail { segment, from, to }) => {
                    let tail = Tail { segment, from, to };
                    if self.is_tail(tail) {
                        found.tails.entry(segment).or_default().push(tail);
                    }
                }
                None => {}
            }
        }
        Ok(found)
    }
}
