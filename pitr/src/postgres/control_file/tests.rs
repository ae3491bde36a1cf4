use super::*;

/// A control file with every field that is read set to something of its own.
fn written(control_version: u32, catalog_version: u32) -> Vec<u8> {
    let mut bytes = vec![0; CONTROL_FILE_SIZE];
    let mut set = |offset: usize, value: &[u8]| put(&mut bytes, offset, value);
    set(0, &7_450_000_000_000_000_001_u64.to_le_bytes());
    set(8, &control_version.to_le_bytes());
    set(12, &catalog_version.to_le_bytes());
    set(16, &6_u32.to_le_bytes());
    set(32, &0x0300_0060_u64.to_le_bytes());
    set(40, &0x0300_0028_u64.to_le_bytes());
    set(48, &4_u32.to_le_bytes());
    set(52, &3_u32.to_le_bytes());
    set(56, &[1]);
    set(136, &0x0200_0000_u64.to_le_bytes());
    set(144, &2_u32.to_le_bytes());
    set(172, &1_i32.to_le_bytes());
    set(176, &[1]);
    for (offset, value) in [(180, 100_i32), (184, 8), (188, 10), (192, 2), (196, 64)] {
        set(offset, &value.to_le_bytes());
    }
    set(216, &8192_u32.to_le_bytes());
    set(224, &8192_u32.to_le_bytes());
    set(228, &(1_u32 << 20).to_le_bytes());
    set(252, &1_u32.to_le_bytes());
    sign(bytes)
}

fn crc_offset(bytes: &[u8]) -> usize {
    if bytes[8..12] == 1800_u32.to_le_bytes() { 292 } else { 288 }
}

fn sign(mut bytes: Vec<u8>) -> Vec<u8> {
    let offset = crc_offset(&bytes);
    let crc = crc32c::crc32c(&bytes[..offset]);
    put(&mut bytes, offset, &crc.to_le_bytes());
    bytes
}

const RELEASES: [(u32, u32, MajorVersion); 6] = [
    (1300, 202_007_201, MajorVersion::V13),
    (1300, 202_107_181, MajorVersion::V14),
    (1300, 202_209_061, MajorVersion::V15),
    (1300, 202_307_071, MajorVersion::V16),
    (1700, 202_406_281, MajorVersion::V17),
    (1800, 202_506_291, MajorVersion::V18),
];

#[test]
fn every_field_is_where_it_should_be() {
    for (control_version, catalog_version, major) in RELEASES {
        let expected = ControlFile {
            system_identifier: SystemIdentifier::new(7_450_000_000_000_000_001),
            major,
            control_version,
            catalog_version,
            state: ClusterState::InProduction,
            checkpoint_lsn: Lsn::new(0x0300_0060),
            redo_lsn: Lsn::new(0x0300_0028),
            tli: TimelineId::new(4).unwrap(),
            previous_tli: TimelineId::new(3).unwrap(),
            full_page_writes: true,
            min_recovery_lsn: Lsn::new(0x0200_0000),
            min_recovery_tli: TimelineId::new(2),
            wal_level: WalLevel::Replica,
            wal_log_hints: true,
            hot_standby_minimums: HotStandbyMinimums {
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 2,
                max_locks_per_transaction: 64,
            },
            wal_segment_size: WalSegmentSize::new(1 << 20).unwrap(),
            data_checksums: true,
        };
        assert_eq!(ControlFile::parse(&written(control_version, catalog_version)), Ok(expected));
    }
    let control = ControlFile::parse(&written(1300, 202_209_061)).unwrap();
    assert_eq!(control.tablespace_version_directory(), "PG_15_202209061");
}

#[test]
fn a_torn_read_is_told_from_a_foreign_file() {
    let mut torn = written(1700, 202_406_281);
    torn[40] ^= 1;
    let error = ControlFile::parse(&torn).unwrap_err();
    assert!(matches!(error, ControlFileError::Checksum { .. }) && error.may_be_torn());
    let short = ControlFile::parse(&torn[..291]).unwrap_err();
    assert!(short.may_be_torn(), "{short}");
    let foreign = ControlFile::parse(&sign(written(1201, 202_007_201))).unwrap_err();
    assert_eq!(foreign, ControlFileError::Version { found: 1201 });
    assert!(!foreign.may_be_torn());
    let beta = ControlFile::parse(&written(1300, 202_209_060)).unwrap_err();
    assert_eq!(beta, ControlFileError::CatalogVersion { found: 202_209_060 });
}

#[test]
fn only_what_the_checksum_covers_matters() {
    for (control_version, catalog_version, _) in RELEASES {
        let bytes = written(control_version, catalog_version);
        let end = crc_offset(&bytes) + 4;
        assert!(ControlFile::parse(&bytes[..end]).is_ok());
        for offset in 0..end {
            let mut bytes = bytes.clone();
            bytes[offset] ^= 0x40;
            assert!(ControlFile::parse(&bytes).is_err(), "byte {offset} of {catalog_version}");
        }
    }
}

#[test]
fn fields_out_of_range_are_refused() {
    for offset in [16, 48, 52, 172, 216, 224, 228, 252] {
        let mut bytes = written(1300, 202_209_061);
        let value: u32 = if matches!(offset, 48 | 52) { 0 } else { 99 };
        put(&mut bytes, offset, &value.to_le_bytes());
        let error = ControlFile::parse(&sign(bytes)).unwrap_err();
        assert!(matches!(error, ControlFileError::Field { .. }), "offset {offset}: {error}");
    }
}

#[test]
fn an_invalidated_checkpoint_changes_nothing_else() {
    for (control_version, catalog_version, _) in RELEASES {
        let bytes = written(control_version, catalog_version);
        let changed = invalidate_checkpoint(&bytes).unwrap();
        let mut expected = ControlFile::parse(&bytes).unwrap();
        expected.checkpoint_lsn = Lsn::new(0xDEAD);
        assert_eq!(ControlFile::parse(&changed), Ok(expected));
        assert_eq!(changed.len(), bytes.len());
    }
    assert!(invalidate_checkpoint(&[0; 300]).is_err());
    let mut torn = written(1300, 202_209_061);
    torn[0] ^= 1;
    assert!(matches!(invalidate_checkpoint(&torn), Err(ControlFileError::Checksum { .. })));
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        assert!(ControlFile::parse(&bytes).is_err());
    }
}
