//! One function for each kind of untrusted bytes. Each must return, whatever the bytes are, and demands what must always
//! hold. The test `fuzz_corpus` of the library includes this file.

use pitr::postgres::wal::testing::WalWriter;
use pitr::postgres::wal::{DecodeError, ResourceManager, WalDecoder};
use pitr::postgres::{Lsn, MajorVersion, SegmentNumber, TimelineId, TransactionId, WalSegmentSize};
use pitr::repository::summary_object::{self, SummaryHeader};
use pitr::repository::wal_object::{HistoryHeader, SegmentHeader, TailHeader};
use pitr::repository::{document, envelope};
use pitr::wal_summary::{SummaryBuilder, WalSummary, compose, from_bytes, to_bytes};

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).expect("a power of two")
}

/// WAL from the start of the segment that its first page names.
pub fn wal(input: &[u8]) {
    let address = input.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let start = Lsn::new(address);
    let whole = summarise(start, input, usize::MAX);
    let pieces = summarise(start, input, 4099);
    assert_eq!(whole, pieces, "how WAL is cut decides what it says");
}

type Summarised = (Vec<Lsn>, Option<DecodeError>, Option<WalSummary>);

fn summarise(start: Lsn, wal: &[u8], piece: usize) -> Summarised {
    let mut decoder = WalDecoder::new(start, TimelineId::FIRST, size());
    let (mut builder, mut starts, mut error) = (None, Vec::new(), None);
    'wal: for bytes in wal.chunks(piece.min(wal.len().max(1))) {
        decoder.feed(bytes);
        loop {
            let major = decoder.major();
            let record = match decoder.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(found) => {
                    error = Some(found);
                    break 'wal;
                }
            };
            starts.push(record.start_lsn());
            let major = major.unwrap_or(MajorVersion::V18);
            let builder = builder.get_or_insert_with(|| SummaryBuilder::new(TimelineId::FIRST, major, size(), start));
            let _ = builder.record(&record);
            let _ = record.meaning(major);
            let _ = record.body(major).map(|body| body.blocks().count());
        }
    }
    (starts, error, builder.and_then(|builder| summary_of(builder, start, wal)))
}

fn summary_of(builder: SummaryBuilder, start: Lsn, wal: &[u8]) -> Option<WalSummary> {
    let summary = builder.finish(start.advance(wal.len() as u64)).ok()?;
    let bytes = to_bytes(&summary).expect("it is small");
    assert_eq!(from_bytes(&bytes).as_ref(), Ok(&summary), "a summary is not read back");
    Some(summary)
}

/// Records with the right checksum: version; then resource manager, operation, transaction, length and what stands behind
/// the header, again and again.
pub fn records(input: &[u8]) {
    let Some((version, mut rest)) = input.split_first() else { return };
    let major = MajorVersion::ALL[usize::from(*version) % MajorVersion::ALL.len()];
    let mut writer = WalWriter::new(major, TimelineId::FIRST, SegmentNumber::new(1), size());
    while let Some(([manager, info, xid, length], after)) = rest.split_first_chunk::<4>() {
        let (fragments, after) = after.split_at(usize::from(*length).min(after.len()));
        // Others do not get past the decoder.
        let manager = if *manager > 21 && *manager < 128 { *manager % 22 } else { *manager };
        writer.append_fragments(ResourceManager::new(manager), *info, TransactionId::new(u32::from(*xid)), fragments);
        rest = after;
    }
    summarise(writer.start(), writer.bytes(), 1 << 16);
}

/// The stored form of a summary, and its object.
pub fn summary(input: &[u8]) {
    if let Ok(summary) = from_bytes(input) {
        assert_eq!(from_bytes(&to_bytes(&summary).expect("it was read")).as_ref(), Ok(&summary));
        let mut next = summary.clone();
        next.from = summary.to;
        next.to = next.to.advance(1 << 20);
        let _ = compose(&[summary, next]);
    }
    let _ = summary_object::decode(input);
}

/// Headers of objects, and documents.
pub fn document(input: &[u8]) {
    let _ = envelope::open::<SegmentHeader>(input);
    let _ = envelope::open::<TailHeader>(input);
    let _ = envelope::open::<HistoryHeader>(input);
    let _ = summary_object::decode_header(input);
    let _ = document::unseal::<SummaryHeader>(input);
}
