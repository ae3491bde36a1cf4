use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::super::page::PageFault;
use super::super::testing::{SYSTEM_IDENTIFIER, WalWriter};
use super::*;
use crate::postgres::time::from_postgres_microseconds;
use crate::postgres::{SegmentNumber, TransactionId};

const PAGE: u64 = WAL_PAGE_SIZE as u64;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

fn writer() -> WalWriter {
    WalWriter::new(MajorVersion::V17, TimelineId::FIRST, SegmentNumber::new(3), size())
}

fn time() -> DateTime<Utc> {
    from_postgres_microseconds(848_656_801_234_567).unwrap()
}

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    records: Vec<(RecordBounds, RecordHeader, Vec<u8>)>,
    error: Option<DecodeError>,
    incomplete: Option<Lsn>,
}

impl Outcome {
    fn bounds(&self) -> Vec<RecordBounds> {
        self.records.iter().map(|(bounds, ..)| *bounds).collect()
    }

    fn error(&self) -> DecodeErrorKind {
        self.error.unwrap_or_else(|| panic!("no error after {} records", self.records.len())).kind
    }
}

fn decode_with(mut decoder: WalDecoder, bytes: &[u8], mut pieces: impl FnMut() -> usize) -> Outcome {
    let mut records = Vec::new();
    let mut rest = bytes;
    loop {
        match decoder.next_record() {
            Ok(Some(record)) => {
                let bounds = RecordBounds { start: record.start_lsn(), end: record.end_lsn() };
                records.push((bounds, *record.header(), record.bytes().to_vec()));
                assert_eq!(decoder.last_record(), Some(bounds));
            }
            Ok(None) if rest.is_empty() => {
                return Outcome { records, error: None, incomplete: decoder.incomplete_record() };
            }
            Ok(None) => {
                let (piece, after) = rest.split_at(pieces().clamp(1, rest.len()));
                decoder.feed(piece);
                rest = after;
            }
            Err(error) => {
                assert_eq!(decoder.next_record().unwrap_err(), error, "an error stays");
                return Outcome { records, error: Some(error), incomplete: decoder.incomplete_record() };
            }
        }
    }
}

fn decode_from(start: Lsn, bytes: &[u8]) -> Outcome {
    decode_with(WalDecoder::new(start, TimelineId::FIRST, size()), bytes, || usize::MAX)
}

fn decode(writer: &WalWriter) -> Outcome {
    decode_from(writer.start(), writer.bytes())
}

/// Records of all kinds of lengths, so that headers and bodies fall on page and segment boundaries in all ways.
fn busy() -> &'static (WalWriter, Vec<RecordBounds>) {
    static BUSY: LazyLock<(WalWriter, Vec<RecordBounds>)> = LazyLock::new(write_busy);
    &BUSY
}

fn write_busy() -> (WalWriter, Vec<RecordBounds>) {
    let mut writer = writer();
    let mut bounds = vec![writer.filler(8192 * 3), writer.restore_point("here", time())];
    for length in 0..600 {
        bounds.push(writer.filler(length));
        bounds.push(writer.commit(TransactionId::new(700), time()));
    }
    bounds.push(writer.filler((1 << 20) + 12_345));
    bounds.push(writer.overwritten(20_000, time()));
    bounds.push(writer.switch());
    bounds.push(writer.filler(5));
    (writer, bounds)
}

#[test]
fn finds_every_record_that_was_written() {
    let (writer, bounds) = busy();
    let outcome = decode(writer);
    assert_eq!(outcome.error, None);
    assert_eq!(outcome.bounds(), *bounds);
    let previous: Vec<_> = outcome.records.iter().map(|(_, header, _)| header.previous).collect();
    assert_eq!(previous[1..], bounds[..bounds.len() - 1].iter().map(|bounds| bounds.start).collect::<Vec<_>>());
}

#[test]
fn learns_version_and_system_from_the_pages() {
    let (writer, _) = busy();
    let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
    assert_eq!((decoder.major(), decoder.system_identifier()), (None, None));
    decoder.feed(&writer.bytes()[..64]);
    assert!(decoder.next_record().unwrap().is_none());
    assert_eq!((decoder.major(), decoder.system_identifier()), (Some(MajorVersion::V17), Some(SYSTEM_IDENTIFIER)));
}

#[test]
fn starts_on_any_page_and_at_any_record() {
    let (writer, bounds) = busy();
    let start = writer.start();
    let end = bounds.last().unwrap().end;
    let switched = bounds[bounds.len() - 2].end;
    let mut pages = 0;
    let mut page = start;
    while page < end {
        let outcome = decode_from(page, &writer.bytes()[(page.as_u64() - start.as_u64()) as usize..]);
        if page < switched || size().offset_of(page) == 0 {
            let expected: Vec<_> = bounds.iter().copied().filter(|bounds| bounds.start >= page).collect();
            assert_eq!((outcome.error, outcome.bounds()), (None, expected), "from page {page}");
            pages += 1;
        } else {
            assert_eq!(outcome.error(), EndOfWal::ZeroPage.into(), "from page {page}");
        }
        page = page.advance(PAGE);
    }
    assert!(pages > 150, "{pages}");
    for (index, from) in bounds.iter().enumerate() {
        let outcome = decode_from(from.start, &writer.bytes()[(from.start.as_u64() - start.as_u64()) as usize..]);
        assert_eq!((outcome.error, outcome.bounds()), (None, bounds[index..].to_vec()), "from record {}", from.start);
    }
}

#[test]
fn does_not_start_where_no_record_can_be() {
    for lsn in [0x30_0004, 0x30_0001, 0x30_0008, 0x30_0020, 0x30_2008, 0x30_2010] {
        assert_eq!(decode_from(Lsn::new(lsn), &[]).error(), DecodeErrorKind::Start, "{lsn:X}");
    }
    for lsn in [0x30_0028, 0x30_2018] {
        assert_eq!(decode_from(Lsn::new(lsn), &[]).error, None, "{lsn:X}");
    }
}

#[test]
fn end_at_a_page_boundary_is_the_boundary() {
    let mut writer = writer();
    let header_and_length = 24 + 5;
    let bounds = writer.filler(8192 - 40 - header_and_length);
    assert_eq!(bounds.end, writer.start().advance(PAGE));
    let next = writer.filler(1);
    assert_eq!(next.start, bounds.end.advance(24));
    assert_eq!(decode(&writer).bounds(), [bounds, next]);
}

#[test]
fn a_record_is_there_before_its_padding() {
    let mut writer = writer();
    let bounds = writer.filler(1);
    assert_eq!(bounds.end.as_u64() - bounds.start.as_u64(), 32);
    let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
    decoder.feed(&writer.bytes()[..40 + 27]);
    assert_eq!(decoder.next_record().unwrap().unwrap().end_lsn(), bounds.end);
    assert_eq!(decoder.position(), bounds.end);
    assert_eq!(decoder.fed(), writer.start().advance(40 + 27));
    let next = writer.commit(TransactionId::new(5), time());
    decoder.feed(&writer.bytes()[40 + 27..]);
    assert_eq!(decoder.next_record().unwrap().unwrap().start_lsn(), next.start);
}

#[test]
fn an_unfinished_record_is_named() {
    let mut writer = writer();
    let first = writer.filler(10);
    let second = writer.filler(9000);
    let bytes = &writer.bytes()[..8192 + 100];
    let outcome = decode_from(writer.start(), bytes);
    assert_eq!(outcome.bounds(), [first]);
    assert_eq!((outcome.error, outcome.incomplete), (None, Some(second.start)));
    let zeros = [bytes[..8192].to_vec(), vec![0; 8192]].concat();
    let outcome = decode_from(writer.start(), &zeros);
    assert_eq!((outcome.error(), outcome.incomplete), (EndOfWal::ZeroPage.into(), Some(second.start)));
    assert!(outcome.error.unwrap().is_end_of_wal());
}

#[test]
fn zeros_are_the_end_and_not_damage() {
    let mut writer = writer();
    let bounds = writer.filler(10);
    let (_, segment) = writer.segments().remove(0);
    let outcome = decode_from(writer.start(), &segment);
    assert_eq!(outcome.bounds(), [bounds]);
    assert_eq!(outcome.error, Some(DecodeError { lsn: bounds.end, kind: EndOfWal::ZeroLength.into() }));
    let full = writer.filler(8192 - 40 - 40 - 24 - 5);
    let (_, segment) = writer.segments().remove(0);
    let outcome = decode_from(writer.start(), &segment);
    assert_eq!(outcome.bounds(), [bounds, full]);
    assert_eq!(outcome.error, Some(DecodeError { lsn: full.end, kind: EndOfWal::ZeroPage.into() }));
    assert_eq!(outcome.error.unwrap().to_string(), "end of WAL at 0/302000: the header of the next page is zero");
}

#[test]
fn behind_a_switch_pages_may_have_headers_and_nothing_else() {
    let mut writer = writer();
    let switch = writer.switch();
    let next = writer.filler(3);
    let mut bytes = writer.bytes().to_vec();
    let header = super::super::page::tests::header_bytes(MajorVersion::V17, 1, Lsn::new(0x30_4000), 0, size());
    bytes[0x4000..0x4000 + header.len()].copy_from_slice(&header);
    assert_eq!(decode_from(writer.start(), &bytes).bounds(), [switch, next]);
    for offset in [100, 8191, 8192, 8192 + 24, 0x4000 + 24, (1 << 20) - 1] {
        let mut bytes = bytes.clone();
        bytes[offset] = 1;
        let outcome = decode_from(writer.start(), &bytes);
        assert_eq!(outcome.bounds(), [switch]);
        assert!(!outcome.error.unwrap().is_end_of_wal(), "at {offset}");
    }
}

#[test]
fn what_overwrites_a_record_must_name_it() {
    let mut writer = writer();
    let before = writer.filler(100);
    let overwrite = writer.overwritten(10_000, time());
    let after = writer.filler(7);
    assert_eq!(decode(&writer).bounds(), [before, overwrite, after]);

    let mut other = self::writer();
    other.filler(100);
    other.overwritten(10_000, time());
    let mut bytes = other.bytes().to_vec();
    // The record behind the short header of the second page, with another address in it and a checksum to match.
    let record = &mut bytes[8192 + 24..8192 + 24 + 42];
    record[26] ^= 8;
    let crc = record_crc(record).unwrap().to_le_bytes();
    record[20..24].copy_from_slice(&crc);
    let kind = DecodeErrorKind::Overwrite { overwritten: before.end };
    assert_eq!(decode_from(other.start(), &bytes).error(), kind);
}

#[test]
fn damage_is_told_by_kind() {
    let build = || {
        let mut writer = writer();
        let first = writer.filler(100);
        let second = writer.filler(9000);
        (writer, first, second)
    };
    let (writer, first, second) = build();
    let second_at = (second.start.as_u64() - writer.start().as_u64()) as usize;
    type Check = fn(DecodeErrorKind) -> bool;
    let table: [(usize, u8, Check); 9] = [
        (60, 1, |kind| matches!(kind, DecodeErrorKind::Checksum { .. })),
        (40 + 17, 99, |kind| matches!(kind, DecodeErrorKind::ResourceManager { .. })),
        (40 + 8, 0xFF, |kind| matches!(kind, DecodeErrorKind::Checksum { .. })),
        (40 + 15, 0xFF, |kind| matches!(kind, DecodeErrorKind::PreviousNotBefore { .. })),
        (second_at + 8, 0x10, |kind| matches!(kind, DecodeErrorKind::Previous { .. })),
        (second_at + 3, 0xFF, |kind| matches!(kind, DecodeErrorKind::RecordLength { .. })),
        (8192 + 16, 1, |kind| matches!(kind, DecodeErrorKind::Continuation { .. })),
        (8192 + 2, 1, |kind| matches!(kind, DecodeErrorKind::Continuation { found: 0, .. })),
        (8192 + 10, 1, |kind| matches!(kind, DecodeErrorKind::Page(PageFault::Address { .. }))),
    ];
    for (offset, flip, check) in table {
        let mut bytes = writer.bytes().to_vec();
        bytes[offset] ^= flip;
        let outcome = decode_from(writer.start(), &bytes);
        assert!(check(outcome.error()), "byte {offset}: {}", outcome.error.unwrap());
        assert_eq!(outcome.bounds().len(), usize::from(offset >= second_at), "byte {offset}");
    }
    assert_eq!(first.end, second.start);
}

#[test]
fn a_continuation_of_nothing_is_refused() {
    let mut writer = writer();
    writer.filler(8192 - 40 - 29);
    writer.filler(1);
    let mut bytes = writer.bytes().to_vec();
    bytes[8192 + 2] |= 1;
    assert_eq!(decode_from(writer.start(), &bytes).error(), DecodeErrorKind::UnexpectedContinuation);
}

#[test]
fn the_caller_can_say_what_came_before() {
    let (writer, bounds) = busy();
    let rest = &writer.bytes()[(bounds[5].start.as_u64() - writer.start().as_u64()) as usize..];
    let decoder = || WalDecoder::new(bounds[5].start, TimelineId::FIRST, size());
    let whole = |decoder| decode_with(decoder, rest, || usize::MAX);
    assert_eq!(whole(decoder().with_previous(bounds[4].start)).bounds(), bounds[5..]);
    let refused = whole(decoder().with_previous(bounds[3].start));
    assert_eq!(refused.error(), DecodeErrorKind::Previous { found: bounds[4].start, expected: bounds[3].start });
    assert!(matches!(whole(decoder().with_major(MajorVersion::V16)).error(), DecodeErrorKind::Page(_)));
    let other = decoder().with_system_identifier(SystemIdentifier::new(1));
    assert!(matches!(whole(other).error(), DecodeErrorKind::Page(PageFault::SystemIdentifier { .. })));
}

#[test]
fn pages_of_the_parent_timeline_are_accepted_and_those_of_a_later_one_are_not() {
    let mut writer = writer();
    let mut bounds = vec![writer.filler(20_000)];
    writer.tli = TimelineId::new(4).unwrap();
    bounds.push(writer.filler(20_000));
    let on = |tli| {
        let decoder = WalDecoder::new(writer.start(), TimelineId::new(tli).unwrap(), size());
        decode_with(decoder, writer.bytes(), || usize::MAX)
    };
    assert_eq!((on(4).error, on(4).bounds()), (None, bounds));
    assert!(matches!(on(3).error(), DecodeErrorKind::Page(PageFault::Timeline { found: 4, .. })));
}

/// A length of a gigabyte in an otherwise sound header: nothing is reserved for it, and the next page ends it.
#[test]
fn a_claimed_length_reserves_nothing() {
    let mut writer = writer();
    let mut record = writer.record(ResourceManager::new(21), 0, TransactionId::INVALID, &[0; 100]);
    record[..4].copy_from_slice(&MAX_RECORD_LENGTH.to_le_bytes());
    writer.filler(8192 - 40 - 29);
    let mut bytes = writer.bytes().to_vec();
    bytes.truncate(40);
    bytes.extend(record);
    bytes.resize(8192, 7);
    let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
    decoder.feed(&bytes);
    assert!(decoder.next_record().unwrap().is_none());
    assert_eq!(decoder.spanning.len(), 8192 - 40);
    assert!(decoder.spanning.capacity() < 1 << 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_way_bytes_are_cut_makes_no_difference(cuts in prop::collection::vec(1_usize..20_000, 1..50)) {
        let (writer, _) = busy();
        let mut next = cuts.iter().cycle().copied();
        let decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
        let outcome = decode_with(decoder, writer.bytes(), || next.next().unwrap());
        prop_assert!(outcome == decode(writer));
    }

    #[test]
    fn damage_is_found_alike_however_bytes_are_cut(
        offset in 0_usize..60_000, flip in 1_u8.., cuts in prop::collection::vec(1_usize..200, 1..50),
    ) {
        let (writer, bounds) = busy();
        let mut bytes = writer.bytes()[..60_000].to_vec();
        bytes[offset] ^= flip;
        let whole = decode_from(writer.start(), &bytes);
        let mut next = cuts.iter().cycle().copied();
        let decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
        prop_assert!(decode_with(decoder, &bytes, || next.next().unwrap()) == whole);
        // Whatever was damaged, every record handed out is one that was written.
        prop_assert!(whole.bounds().iter().all(|found| bounds.contains(found)));
    }

    #[test]
    fn single_bytes_make_no_difference(length in 1_usize..30_000) {
        let (writer, _) = busy();
        let bytes = &writer.bytes()[..length];
        let decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
        prop_assert!(decode_with(decoder, bytes, || 1) == decode_from(writer.start(), bytes));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40_000), start in 0_u64..(1 << 22)) {
        decode_from(Lsn::new(start), &bytes);
        decode_from(Lsn::new(start & !8191), &bytes);
    }
}
