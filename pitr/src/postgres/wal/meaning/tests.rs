use super::super::decoder::WalDecoder;
use super::super::testing::WalWriter;
use super::*;
use crate::postgres::time::to_postgres_microseconds;
use crate::postgres::{SegmentNumber, TransactionId, WalSegmentSize};

const TIME: i64 = 848_656_801_234_567;

fn meaning_of<T>(
    manager: ResourceManager,
    info: u8,
    data: &[u8],
    major: MajorVersion,
    check: impl FnOnce(Result<RecordMeaning<'_>, RecordError>) -> T,
) -> T {
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let mut writer = WalWriter::new(major, TimelineId::FIRST, SegmentNumber::new(1), size);
    // A switch only means something to the decoder after it was handed out.
    writer.append(manager, info, TransactionId::new(700), data);
    let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size);
    decoder.feed(writer.bytes());
    check(decoder.next_record().unwrap().expect("it is complete").meaning(major))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

/// The right data is understood, a byte more or less is not.
fn exact(manager: ResourceManager, info: u8, data: &[u8], major: MajorVersion, check: impl Fn(RecordMeaning<'_>)) {
    // The low half of `xl_info` belongs to the record format.
    for bits in 0..4 {
        meaning_of(manager, info | bits, data, major, |meaning| check(meaning.unwrap()));
    }
    let longer = [data, &[0]].concat();
    meaning_of(manager, info, &longer, major, |meaning| assert!(meaning.is_err(), "a byte more"));
    for length in 0..data.len() {
        meaning_of(manager, info, &data[..length], major, |meaning| assert!(meaning.is_err(), "{length} bytes"));
    }
}

#[test]
fn restore_points_have_time_and_name() {
    let mut data = TIME.to_le_bytes().to_vec();
    data.extend(b"release-42");
    data.resize(72, 0);
    exact(ResourceManager::XLOG, 0x70, &data, MajorVersion::V13, |meaning| {
        let RecordMeaning::RestorePoint(point) = meaning else { panic!("{meaning:?}") };
        assert_eq!((to_postgres_microseconds(point.time), point.name), (TIME, &b"release-42"[..]));
    });
    let unterminated = [&TIME.to_le_bytes()[..], &[b'x'; 64]].concat();
    meaning_of(ResourceManager::XLOG, 0x70, &unterminated, MajorVersion::V13, |meaning| assert!(meaning.is_err()));
}

#[test]
fn checkpoints_say_where_recovery_begins() {
    let mut data = 0x0200_0028_u64.to_le_bytes().to_vec();
    data.extend(words(&[4, 3]));
    data.extend([1, 0, 0, 0]);
    data.extend(words(&[2]));
    for (info, shutdown) in [(0x00, true), (0x10, false)] {
        for (rest, major) in [(56, MajorVersion::V13), (64, MajorVersion::V18)] {
            let data = [data.clone(), vec![0; rest]].concat();
            meaning_of(ResourceManager::XLOG, info, &data, major, |meaning| {
                let RecordMeaning::Checkpoint(checkpoint) = meaning.unwrap() else { panic!("not a checkpoint") };
                let expected = Checkpoint {
                    shutdown,
                    redo_lsn: Lsn::new(0x0200_0028),
                    tli: tli(4),
                    previous_tli: tli(3),
                    full_page_writes: true,
                    wal_level: (major == MajorVersion::V18).then_some(2),
                };
                assert_eq!(checkpoint, expected);
            });
        }
    }
    let no_timeline = [vec![0; 8], words(&[0, 1]), vec![0; 8]].concat();
    meaning_of(ResourceManager::XLOG, 0, &no_timeline, MajorVersion::V18, |meaning| {
        assert_eq!(meaning.unwrap_err().fault, RecordFault::Timeline);
    });
}

#[test]
fn ends_of_backups_and_of_recoveries() {
    exact(ResourceManager::XLOG, 0x50, &0x28_u64.to_le_bytes(), MajorVersion::V14, |meaning| {
        assert!(matches!(meaning, RecordMeaning::BackupEnd { start_lsn } if start_lsn == Lsn::new(0x28)));
    });
    for (level, major) in [(&[][..], MajorVersion::V16), (&[1, 0, 0, 0], MajorVersion::V17)] {
        let data = [&TIME.to_le_bytes(), &words(&[8, 7])[..], level].concat();
        meaning_of(ResourceManager::XLOG, 0x90, &data, major, |meaning| {
            let RecordMeaning::EndOfRecovery(end) = meaning.unwrap() else { panic!("not an end of recovery") };
            assert_eq!((end.tli, end.previous_tli), (tli(8), tli(7)));
            assert_eq!(end.wal_level, (major == MajorVersion::V17).then_some(1));
        });
    }
}

#[test]
fn settings_that_replay_depends_on() {
    let data = [words(&[100, 8, 10, 2, 64, 1]), vec![0, 1, 0, 0]].concat();
    meaning_of(ResourceManager::XLOG, 0x60, &data, MajorVersion::V16, |meaning| {
        let RecordMeaning::ParameterChange(change) = meaning.unwrap() else { panic!("not a change of parameters") };
        let expected = ParameterChange {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 2,
            max_locks_per_transaction: 64,
            wal_level: 1,
            wal_log_hints: false,
            track_commit_timestamp: true,
        };
        assert_eq!(change, expected);
    });
}

#[test]
fn switches_and_overwritten_records() {
    meaning_of(ResourceManager::XLOG, 0x40, &[], MajorVersion::V15, |meaning| {
        assert!(matches!(meaning.unwrap(), RecordMeaning::Switch));
    });
    let data = [0x28_u64.to_le_bytes(), TIME.to_le_bytes()].concat();
    exact(ResourceManager::XLOG, 0xD0, &data, MajorVersion::V15, |meaning| {
        let RecordMeaning::OverwriteContrecord { overwritten_lsn, time } = meaning else { panic!("{meaning:?}") };
        assert_eq!((overwritten_lsn, to_postgres_microseconds(time)), (Lsn::new(0x28), TIME));
    });
}

#[test]
fn tablespaces_have_a_path() {
    let data = [&words(&[16_400])[..], b"/srv/a b\0"].concat();
    exact(ResourceManager::TABLESPACE, 0x00, &data, MajorVersion::V15, |meaning| {
        assert!(matches!(meaning, RecordMeaning::CreateTablespace { tablespace: 16_400, path: b"/srv/a b" }));
    });
    exact(ResourceManager::TABLESPACE, 0x10, &words(&[16_400]), MajorVersion::V15, |meaning| {
        assert!(matches!(meaning, RecordMeaning::DropTablespace { tablespace: 16_400 }));
    });
}

#[test]
fn database_operations_were_renumbered_in_15() {
    let copy = words(&[16_500, 1663, 1, 1663]);
    let drop = words(&[16_500, 2, 1663, 16_400]);
    for major in MajorVersion::ALL {
        exact(ResourceManager::DATABASE, 0x00, &copy, major, |meaning| {
            let RecordMeaning::CreateDatabase(create) = meaning else { panic!("{meaning:?}") };
            assert_eq!((create.database, create.copied_from), (16_500, Some((1, 1663))));
        });
        let new = major >= MajorVersion::V15;
        exact(ResourceManager::DATABASE, if new { 0x20 } else { 0x10 }, &drop, major, |meaning| {
            let RecordMeaning::DropDatabase(drop) = meaning else { panic!("{meaning:?}") };
            assert_eq!((drop.database, drop.tablespaces().collect::<Vec<_>>()), (16_500, vec![1663, 16_400]));
        });
        if new {
            exact(ResourceManager::DATABASE, 0x10, &words(&[16_500, 1663]), major, |meaning| {
                let RecordMeaning::CreateDatabase(create) = meaning else { panic!("{meaning:?}") };
                assert_eq!((create.tablespace, create.copied_from), (1663, None));
            });
        }
    }
}

#[test]
fn files_of_relations_come_and_shrink() {
    let relation = RelationLocator { tablespace: 1663, database: 5, relfilenode: 16_384 };
    exact(ResourceManager::STORAGE, 0x10, &words(&[1663, 5, 16_384, 3]), MajorVersion::V13, |meaning| {
        let RecordMeaning::CreateStorage { relation: created, fork } = meaning else { panic!("{meaning:?}") };
        assert_eq!((created, fork), (relation, Fork::Init));
    });
    meaning_of(ResourceManager::STORAGE, 0x10, &words(&[1663, 5, 16_384, 4]), MajorVersion::V13, |meaning| {
        assert_eq!(meaning.unwrap_err().fault, RecordFault::Fork { number: 4 });
    });
    exact(ResourceManager::STORAGE, 0x20, &words(&[7, 1663, 5, 16_384, 5]), MajorVersion::V18, |meaning| {
        let RecordMeaning::TruncateStorage(truncate) = meaning else { panic!("{meaning:?}") };
        assert_eq!((truncate.relation, truncate.blocks), (relation, 7));
        assert_eq!((truncate.main, truncate.visibility_map, truncate.free_space_map), (true, false, true));
    });
    let data = [words(&[5, 1663, 8]), vec![0xAA; 8]].concat();
    meaning_of(ResourceManager::RELMAP, 0x00, &data, MajorVersion::V15, |meaning| {
        let meaning = meaning.unwrap();
        let RecordMeaning::UpdateRelationMap { database: 5, tablespace: 1663, map } = meaning else {
            panic!("{meaning:?}")
        };
        assert_eq!(map, [0xAA; 8]);
    });
}

#[test]
fn running_transactions_have_bounds() {
    let data = words(&[1, 0, 0, 710, 705, 709, 705]);
    meaning_of(ResourceManager::STANDBY, 0x10, &data, MajorVersion::V14, |meaning| {
        let RecordMeaning::RunningTransactions { next_xid, oldest_running_xid } = meaning.unwrap() else {
            panic!("not running transactions")
        };
        assert_eq!((next_xid.as_u32(), oldest_running_xid.as_u32()), (710, 705));
    });
    meaning_of(ResourceManager::STANDBY, 0x10, &data[..16], MajorVersion::V14, |meaning| {
        assert_eq!(meaning.unwrap_err().fault, RecordFault::MainDataTooShort);
    });
}

#[test]
fn full_page_writes_and_redo_points() {
    exact(ResourceManager::XLOG, 0x80, &[0], MajorVersion::V13, |meaning| {
        assert!(matches!(meaning, RecordMeaning::FullPageWrites { enabled: false }));
    });
    exact(ResourceManager::XLOG, 0xE0, &words(&[2]), MajorVersion::V17, |meaning| {
        assert!(matches!(meaning, RecordMeaning::CheckpointRedo { wal_level: 2 }));
    });
}

#[test]
fn everything_else_is_other() {
    for (manager, info) in [
        (ResourceManager::XLOG, 0x30),
        (ResourceManager::HEAP, 0x00),
        (ResourceManager::new(200), 0x00),
        (ResourceManager::TRANSACTION, 0x50),
        (ResourceManager::DATABASE, 0x70),
    ] {
        meaning_of(manager, info, &[1, 2, 3], MajorVersion::V16, |meaning| {
            assert!(matches!(meaning.unwrap(), RecordMeaning::Other), "{manager:?} {info:x}");
        });
    }
}
