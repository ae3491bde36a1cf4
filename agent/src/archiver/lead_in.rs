//! Stored WAL that is read before the stream: a record that began before the place of resumption ends behind it.
//!
//! The stream starts at the start of a segment. What the decoder makes of the first bytes depends on the segment before,
//! which is stored whole, or in rare cases on several: a record can be a gigabyte long. They are read back to one in which
//! a record begins, and decoded from there, one at a time. Damage in them is no reason not to archive: the stream is then
//! decoded from its own start, and the record in question stays unknown.

use bytes::Bytes;
use pitr::postgres::wal::WalDecoder;
use pitr::postgres::{SegmentNumber, WalSegmentSize};
use pitr::repository::{self, WalStore};

use super::open_segment::StreamFacts;
use super::record_scan::{Listener, RecordScan};

/// No record is longer.
const MAX_RECORD_BYTES: u64 = 1 << 30;
/// As the stream brings them.
const PIECE: usize = 128 << 10;

/// A scan that has read what it must know before the first byte of `first`.
///
/// # Errors
/// The repository fails. Objects that are damaged are left out.
pub(super) async fn read(
    wal: &WalStore,
    facts: StreamFacts,
    first: SegmentNumber,
    listener: impl Listener + Clone + Send + 'static,
) -> Result<RecordScan, repository::Error> {
    let mut scan = RecordScan::new(facts);
    let mut number = begin(wal, facts, first).await?;
    while number < first {
        let Some(segment) = stored(wal, facts, number).await? else {
            tracing::warn!(segment = %facts.name(number), "a stored segment cannot be read; the records in it are passed over");
            return Ok(RecordScan::new(facts));
        };
        scan = decode(scan, number, segment, listener.clone()).await;
        number = number.next();
    }
    Ok(scan)
}

/// The last segment before `first` in which a record begins; `first` itself where none is stored.
async fn begin(wal: &WalStore, facts: StreamFacts, first: SegmentNumber) -> Result<SegmentNumber, repository::Error> {
    let own = facts.segment_size.segment_of(facts.begin);
    let mut number = first;
    for _ in 0..=longest_record(facts.segment_size) {
        let Some(before) = number.as_u64().checked_sub(1).map(SegmentNumber::new).filter(|before| *before >= own)
        else {
            break;
        };
        let Some(segment) = stored(wal, facts, before).await? else { return Ok(first) };
        number = before;
        if blocking(move || begins_record(facts, before, &segment)).await {
            return Ok(before);
        }
    }
    Ok(number)
}

/// In how many segments a record can go on.
const fn longest_record(size: WalSegmentSize) -> u64 {
    MAX_RECORD_BYTES.div_ceil(size.as_u64())
}

/// The whole segment; none where it is not stored, or damaged.
async fn stored(wal: &WalStore, facts: StreamFacts, number: SegmentNumber) -> Result<Option<Bytes>, repository::Error> {
    match wal.whole_segment(facts.name(number)).await {
        Ok(segment) => Ok(Some(segment)),
        Err(error) if error.is_not_found() || error.is_corruption() => Ok(None),
        Err(error) => Err(error),
    }
}

fn begins_record(facts: StreamFacts, number: SegmentNumber, segment: &Bytes) -> bool {
    let mut decoder = WalDecoder::new(facts.segment_size.start_of(number), facts.timeline, facts.segment_size);
    for piece in segment.chunks(PIECE) {
        decoder.feed(piece);
        match decoder.next_record() {
            Ok(None) => {}
            // Damage: nothing before it would help.
            Ok(Some(_)) | Err(_) => return true,
        }
    }
    decoder.incomplete_record().is_some()
}

async fn decode(
    mut scan: RecordScan,
    number: SegmentNumber,
    segment: Bytes,
    mut listener: impl Listener + Send + 'static,
) -> RecordScan {
    blocking(move || {
        let mut start = scan.facts().segment_size.start_of(number);
        for piece in segment.chunks(PIECE) {
            if let Err(error) = scan.feed(start, piece, &mut listener) {
                tracing::warn!(%error, "stored WAL cannot be decoded");
            }
            start = start.advance(piece.len() as u64);
        }
        scan
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down refuses the work; whoever waits for it is about to be dropped.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;
    use pitr::clock::SystemClock;
    use pitr::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};
    use pitr::postgres::{Lsn, MajorVersion, ServerVersion, TimelineId};
    use pitr::repository::Repository;
    use pitr::repository::lineage::{Lineage, LineageId};
    use pitr::storage::{MemoryStore, ObjectKey, PutMode};
    use pitr::wal_summary::WalSummary;

    use super::*;
    use crate::archiver::Landmark;

    const SIZE: usize = 1 << 20;

    fn facts() -> StreamFacts {
        StreamFacts {
            timeline: TimelineId::FIRST,
            begin: Lsn::INVALID,
            system_identifier: SYSTEM_IDENTIFIER,
            major: MajorVersion::V15,
            segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        }
    }

    #[derive(Clone, Default)]
    struct Heard(Vec<Landmark>);

    impl Listener for Heard {
        fn landmark(&mut self, landmark: Landmark) {
            self.0.push(landmark);
        }

        fn summary(&mut self, _: Box<WalSummary>) {}
    }

    /// WAL with a restore point that begins in the last of `before` segments and ends in the next one.
    fn straddling(before: usize) -> (WalWriter, Landmark) {
        let mut writer =
            WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), facts().segment_size);
        while before * SIZE - writer.bytes().len() > 2000 {
            writer.filler(600);
        }
        // The page has no header in what is left of it.
        writer.filler(before * SIZE - writer.bytes().len() - 80);
        let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let point = writer.restore_point("between", time);
        let boundary = Lsn::new((3 + before as u64) * SIZE as u64);
        assert!(point.start < boundary && point.end > boundary, "{point:?} {boundary}");
        writer.filler(1000);
        let landmark = Landmark {
            timeline: TimelineId::FIRST,
            start_lsn: point.start,
            end_lsn: point.end,
            kind: crate::archiver::LandmarkKind::RestorePoint { name: "between".to_owned(), time },
        };
        (writer, landmark)
    }

    async fn store(writer: &WalWriter, segments: usize) -> WalStore {
        let repository = Repository::open_or_create(Arc::new(MemoryStore::new()), &SystemClock).await.unwrap();
        let lineage = Lineage {
            cluster: "main".parse().unwrap(),
            lineage: LineageId::new(SYSTEM_IDENTIFIER, 1),
            postgres_version: ServerVersion::new(150_018),
            wal_segment_size: facts().segment_size,
            created: DateTime::UNIX_EPOCH,
            restore: None,
        };
        let wal = WalStore::new(repository.ensure_lineage(&lineage).await.unwrap());
        for (number, segment) in writer.segments().into_iter().take(segments) {
            let prepared = wal.prepare_segment(facts().name(number), MajorVersion::V15, &segment).unwrap();
            wal.put(&prepared).await.unwrap();
        }
        wal
    }

    /// What is found when the stream starts behind `segments` that are stored.
    async fn found(wal: &WalStore, writer: &WalWriter, segments: usize) -> Vec<Landmark> {
        let first = SegmentNumber::new(3 + segments as u64);
        let mut scan = read(wal, facts(), first, Heard::default()).await.unwrap();
        let mut heard = Heard::default();
        let stream = &writer.bytes()[segments * SIZE..];
        scan.feed(facts().segment_size.start_of(first), stream, &mut heard).unwrap();
        heard.0
    }

    #[tokio::test]
    async fn a_record_over_the_boundary_is_decoded() {
        let (writer, point) = straddling(2);
        let wal = store(&writer, 2).await;
        assert_eq!(found(&wal, &writer, 2).await, [point]);
    }

    #[tokio::test]
    async fn reads_back_to_where_a_record_over_several_segments_begins() {
        let mut writer =
            WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), facts().segment_size);
        writer.filler(1000);
        writer.filler(3 * SIZE);
        let point = writer.restore_point("behind", DateTime::from_timestamp(1_800_000_000, 0).unwrap());
        let wal = store(&writer, 2).await;
        assert_eq!(begin(&wal, facts(), SegmentNumber::new(5)).await.unwrap(), SegmentNumber::new(3));
        let found = found(&wal, &writer, 2).await;
        assert_eq!(found.iter().map(|landmark| landmark.start_lsn).collect::<Vec<_>>(), [point.start]);
    }

    #[tokio::test]
    async fn neither_absence_nor_damage_stands_in_the_way() {
        let (writer, _) = straddling(2);
        let wal = store(&writer, 0).await;
        assert_eq!(found(&wal, &writer, 2).await, []);
        let key: ObjectKey = wal.lineage().layout().segment(facts().name(SegmentNumber::new(4)));
        wal.lineage().store().put(&key, b"no segment".to_vec().into(), PutMode::CreateNew).await.unwrap();
        assert_eq!(found(&wal, &writer, 2).await, []);
    }
}
