use super::super::decoder::WalDecoder;
use super::super::testing::WalWriter;
use super::*;
use crate::postgres::time::to_postgres_microseconds;
use crate::postgres::{SegmentNumber, TimelineId, WalSegmentSize};

const TIME: i64 = 848_656_801_234_567;

/// Hands the only record of these contents, as a decoder gives it, to `check`.
fn with_record<T>(
    manager: ResourceManager,
    info: u8,
    data: &[u8],
    major: MajorVersion,
    check: impl FnOnce(Record<'_>) -> T,
) -> T {
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let mut writer = WalWriter::new(major, TimelineId::FIRST, SegmentNumber::new(1), size);
    writer.append(manager, info, TransactionId::new(700), data);
    let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size);
    decoder.feed(writer.bytes());
    check(decoder.next_record().unwrap().expect("it is complete"))
}

fn end_of<T>(info: u8, data: &[u8], major: MajorVersion, check: impl FnOnce(TransactionEnd<'_>) -> T) -> T {
    with_record(ResourceManager::TRANSACTION, info, data, major, |record| {
        check(record.transaction_end(major).unwrap().expect("it ends a transaction"))
    })
}

fn fault(info: u8, data: &[u8], major: MajorVersion) -> RecordFault {
    with_record(ResourceManager::TRANSACTION, info, data, major, |record| {
        record.transaction_end(major).expect_err("it was accepted").fault
    })
}

/// Every optional part, as `XactLogCommitRecord` and `XactLogAbortRecord` write them.
fn everything(commit: bool, major: MajorVersion) -> Vec<u8> {
    let stats = if major >= MajorVersion::V15 { HAS_DROPPED_STATS } else { 0 };
    let invalidations = if commit { HAS_INVALIDATIONS } else { 0 };
    let parts = HAS_DATABASE | HAS_SUBTRANSACTIONS | HAS_RELATIONS | HAS_TWO_PHASE | HAS_GID | HAS_ORIGIN;
    let mut data = TIME.to_le_bytes().to_vec();
    let mut words = |words: &[u32]| words.iter().for_each(|word| data.extend(word.to_le_bytes()));
    // The upper bits ask for things at commit, and have no part of their own.
    words(&[parts | stats | invalidations | 1 << 30, 5, 1663]);
    words(&[3, 701, 702, 703]);
    words(&[2, 1663, 5, 16_384, 1664, 0, 1260]);
    match major {
        MajorVersion::V13 | MajorVersion::V14 => {}
        MajorVersion::V18 => words(&[1, 2, 5, 16_384, 0]),
        _ => words(&[1, 2, 5, 16_384]),
    }
    if commit {
        words(&[2, 0xFE, 5, 16_384, 0, 33, 5, 16_385, 0]);
    }
    words(&[777]);
    data.extend(b"a gid\0");
    data.extend(0x1234_5678_u64.to_le_bytes());
    data.extend((TIME - 5).to_le_bytes());
    data
}

#[test]
fn a_bare_commit_is_its_time() {
    end_of(COMMIT, &TIME.to_le_bytes(), MajorVersion::V15, |end| {
        assert_eq!((end.outcome, end.prepared, end.xid), (Outcome::Commit, false, TransactionId::new(700)));
        assert_eq!(to_postgres_microseconds(end.time), TIME);
        assert!(end.subtransactions.is_empty() && end.dropped_relations.is_empty());
        assert_eq!((end.database, end.gid, end.origin), (None, None, None));
    });
}

#[test]
fn every_part_is_read_in_every_version() {
    for major in MajorVersion::ALL {
        for (info, commit) in [(COMMIT_PREPARED, true), (ABORT_PREPARED, false)] {
            end_of(info | HAS_XINFO, &everything(commit, major), major, |end| {
                assert_eq!(end.outcome, if commit { Outcome::Commit } else { Outcome::Abort });
                assert!(end.prepared);
                assert_eq!(end.xid, TransactionId::new(777), "the prepared transaction's, not the record's");
                assert_eq!(end.database, Some(TransactionDatabase { database: 5, tablespace: 1663 }));
                let xids: Vec<_> = end.subtransactions.iter().map(TransactionId::as_u32).collect();
                assert_eq!((xids, end.subtransactions.len()), (vec![701, 702, 703], 3));
                let relations: Vec<_> = end.dropped_relations.iter().map(|relation| relation.to_string()).collect();
                assert_eq!(relations, ["1663/5/16384", "1664/0/1260"]);
                assert_eq!(end.gid, Some(&b"a gid"[..]));
                assert_eq!(end.invalidations.len(), if commit { 2 } else { 0 });
                let forgotten: Vec<_> = end.invalidations.relations().collect();
                assert_eq!(forgotten, if commit { vec![16_384] } else { vec![] });
                let origin = TransactionOrigin { lsn: Lsn::new(0x1234_5678), time_microseconds: TIME - 5 };
                assert_eq!(end.origin, Some(origin));
            });
        }
    }
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    for major in MajorVersion::ALL {
        let data = everything(true, major);
        for length in 0..data.len() {
            let found = fault(COMMIT_PREPARED | HAS_XINFO, &data[..length], major);
            assert_eq!(found, RecordFault::MainDataTooShort, "{length} bytes of {major}");
        }
        let longer = [&data[..], &[0]].concat();
        assert_eq!(fault(COMMIT_PREPARED | HAS_XINFO, &longer, major), RecordFault::MainDataTooLong { excess: 1 });
    }
}

#[test]
fn statistics_of_another_version_do_not_pass() {
    let of_17 = everything(true, MajorVersion::V17);
    fault(COMMIT_PREPARED | HAS_XINFO, &of_17, MajorVersion::V18);
    fault(COMMIT_PREPARED | HAS_XINFO, &of_17, MajorVersion::V14);
}

#[test]
fn a_prepared_end_names_its_transaction() {
    assert_eq!(fault(COMMIT_PREPARED, &TIME.to_le_bytes(), MajorVersion::V16), RecordFault::MainDataTooShort);
}

#[test]
fn counts_are_not_believed() {
    let mut data = TIME.to_le_bytes().to_vec();
    data.extend(HAS_SUBTRANSACTIONS.to_le_bytes());
    for count in [i32::MAX, -1, 2] {
        let data = [&data[..], &count.to_le_bytes(), &[0; 4]].concat();
        assert_eq!(fault(COMMIT | HAS_XINFO, &data, MajorVersion::V16), RecordFault::MainDataTooShort);
    }
}

#[test]
fn times_that_cannot_be_told_are_refused() {
    let found = fault(ABORT, &i64::MAX.to_le_bytes(), MajorVersion::V14);
    assert_eq!(found, RecordFault::Time { microseconds: i64::MAX });
}

#[test]
fn other_records_end_nothing() {
    let none = |manager, info| {
        with_record(manager, info, &TIME.to_le_bytes(), MajorVersion::V15, |record| {
            assert!(record.transaction_end(MajorVersion::V15).unwrap().is_none());
        });
    };
    none(ResourceManager::XLOG, 0xF0);
    none(ResourceManager::HEAP, 0x20);
    for info in [PREPARE, 0x50, 0x60] {
        none(ResourceManager::TRANSACTION, info);
    }
}

/// The layout of `xl_xact_prepare`, whose two counts of statistics came with 15.
#[test]
fn prepare_names_transaction_and_gid() {
    for major in MajorVersion::ALL {
        let counts: &[u32] = if major >= MajorVersion::V15 { &[3, 1, 1, 0, 0, 0] } else { &[3, 1, 1, 0] };
        let mut data = vec![0; 8];
        data.extend(812_u32.to_le_bytes());
        data.extend(5_u32.to_le_bytes());
        data.extend(TIME.to_le_bytes());
        data.extend([0; 4]);
        counts.iter().for_each(|count| data.extend(count.to_le_bytes()));
        data.extend([0, 0]);
        data.extend(4_u16.to_le_bytes());
        data.extend(vec![0; 16]);
        data.extend(b"gid\0\0\0\0\0");
        [813, 814, 815, 0, 1663, 5, 16_384, 0, 1663, 5, 16_385, 0]
            .iter()
            .for_each(|word: &u32| data.extend(word.to_le_bytes()));
        data.extend(b"and more");
        with_record(ResourceManager::TRANSACTION, PREPARE, &data, major, |record| {
            let TransactionRecord::Prepare(prepare) = record.transaction_record(major).unwrap() else {
                panic!("{major}: not a prepare");
            };
            assert_eq!((prepare.xid, prepare.database), (TransactionId::new(812), 5), "{major}");
            assert_eq!((prepare.gid, to_postgres_microseconds(prepare.time)), (&b"gid"[..], TIME), "{major}");
            assert_eq!(prepare.subtransactions.iter().map(TransactionId::as_u32).collect::<Vec<_>>(), [813, 814, 815]);
            let dropped = |relations: RelationLocators<'_>| relations.iter().map(|r| r.relfilenode).collect::<Vec<_>>();
            assert_eq!(
                (dropped(prepare.dropped_on_commit), dropped(prepare.dropped_on_abort)),
                (vec![16_384], vec![16_385])
            );
        });
        with_record(ResourceManager::TRANSACTION, PREPARE, &data[..110], major, |record| {
            assert!(record.transaction_record(major).is_err());
        });
    }
}
