use std::path::PathBuf;
use std::sync::Arc;

use pitr::postgres::control_file::{ClusterState, WalLevel};
use pitr::postgres::{
    BackupLabel, MajorVersion, ServerVersion, SystemIdentifier, TablespaceMap, TimelineId, WalSegmentSize,
};
use pitr::repository::hash::ContentHash;
use pitr::storage::MemoryStore;

use super::*;
use crate::backup::config_files::ConfigFiles;
use crate::backup::copy::MapSummary;
use crate::backup::listing::{FileList, ListedDirectory};
use crate::backup::testing::{self, Reader};

const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-22 06:31:00 UTC
LABEL: pitr
START TIMELINE: 1
";

fn control() -> ControlFile {
    ControlFile {
        system_identifier: SystemIdentifier::new(7),
        major: MajorVersion::V15,
        control_version: 1300,
        catalog_version: 202_209_061,
        state: ClusterState::InProduction,
        checkpoint_lsn: Lsn::new(0x200_0060),
        redo_lsn: Lsn::new(0x200_0028),
        tli: TimelineId::FIRST,
        previous_tli: TimelineId::FIRST,
        full_page_writes: true,
        min_recovery_lsn: Lsn::INVALID,
        min_recovery_tli: None,
        wal_level: WalLevel::Replica,
        wal_log_hints: false,
        hot_standby_minimums: HotStandbyMinimums {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
        },
        wal_segment_size: WalSegmentSize::DEFAULT,
        data_checksums: true,
    }
}

fn copy(name: &[u8], files: u64, pack: u32, live: u64) -> TablespaceCopy {
    let hash = ContentHash::of(name);
    let id: BackupId = "20261122T063100Z".parse().unwrap();
    TablespaceCopy {
        maps: vec![MapSummary { hash, first: None, files, file_bytes: 1000 * files, stored_bytes: 10 }],
        live_bytes: BTreeMap::from([(PackId { backup: id, number: pack }, live)]),
    }
}

fn tablespace(oid: u32, in_place: bool) -> BackupTablespace {
    let location = if in_place { String::new() } else { format!("/mnt/listed {oid}") };
    BackupTablespace { oid, location, in_place, mode: 0o750 }
}

/// A backup with files in no tablespace, in 16399 and in 16500, of which the server knows the first; and one in place.
fn published() -> Published {
    let directory = |path: &str| ListedDirectory { path: path.to_owned().try_into().unwrap(), mode: 0o700 };
    let map = b"16398 /mnt/dropped\n16399 /mnt/known\n".to_vec();
    Published {
        id: "20261122T063100Z".parse().unwrap(),
        compression_level: 1,
        agent_version: "1".to_owned(),
        facts: ServerFacts {
            version: ServerVersion::new(150_018),
            data_directory: PathBuf::from("/data"),
            control: control(),
            config_files: ConfigFiles {
                config_file: PathBuf::new(),
                hba_file: PathBuf::new(),
                ident_file: PathBuf::new(),
                setting_files: Vec::new(),
            },
        },
        started: StartedBackup { start_lsn: Lsn::new(0x200_0028), time: "2026-11-22T06:31:00Z".parse().unwrap() },
        stopped: StoppedBackup {
            stop_lsn: Lsn::new(0x200_0138),
            label: BackupLabel::parse(LABEL.as_bytes()).unwrap(),
            tablespace_map: TablespaceMap::parse(&map).unwrap(),
            tablespace_map_bytes: map,
            time: "2026-11-22T06:32:00Z".parse().unwrap(),
        },
        control: control(),
        end_record_lsn: Lsn::new(0x200_0110),
        listing: Listing {
            directories: ["base", "pg_tblspc", "pg_tblspc/16399/PG_15_1", "pg_tblspc/16400", "pg_tblspc/16500/PG_15_1"]
                .map(directory)
                .to_vec(),
            links: Vec::new(),
            files: FileList::default(),
            tablespaces: vec![tablespace(16399, false), tablespace(16400, true), tablespace(16500, false)],
            data_directory: DataDirectoryStat { uid: 0, gid: 0, mode: 0o700 },
            warnings: Vec::new(),
        },
        external: Vec::new(),
        files: CopiedFiles {
            tablespaces: BTreeMap::from([
                (None, copy(b"base", 10, 0, 100)),
                (Some(16399), copy(b"known", 3, 0, 50)),
                (Some(16400), copy(b"in place", 2, 1, 40)),
                (Some(16500), copy(b"new", 5, 2, 30)),
            ]),
            corrupt_pages: Vec::new(),
        },
        given: copy(b"given", 3, 3, 5),
        stored: Stored {
            pack_bytes: BTreeMap::from([(0, 1000), (1, 1001), (2, 1002), (3, 1003)]),
            frame_bytes: BTreeMap::from([(0, 900), (1, 901), (2, 902), (3, 903)]),
            new_bytes: 5000,
        },
        parent: None,
        shared_packs: BTreeMap::new(),
        shared_frames: BTreeMap::new(),
        sharing: Sharing::default(),
        pages_read: 20,
    }
}

async fn lineage_with_packs(packs: &[(u32, u64)]) -> LineageStore {
    let lineage = testing::lineage(Arc::new(MemoryStore::new()), SystemIdentifier::new(7)).await;
    for (number, bytes) in packs {
        let id = PackId { backup: published().id, number: *number };
        let content = vec![0; usize::try_from(*bytes).unwrap()];
        lineage.store().put(&lineage.layout().pack(&id), content.into(), PutMode::CreateNew).await.unwrap();
    }
    lineage
}

#[tokio::test]
async fn tablespaces_are_those_of_the_server() {
    let lineage = lineage_with_packs(&[(0, 1000), (1, 1001), (2, 1002), (3, 1003)]).await;
    let manifest = publish(&lineage, published()).await.unwrap();
    let found: Vec<_> = manifest.tablespaces.iter().map(|t| (t.oid, t.location.as_str(), t.in_place, t.mode)).collect();
    let expected = [
        // Dropped before we looked: the server makes its link all the same.
        (16398, "/mnt/dropped", false, 0o700),
        (16399, "/mnt/known", false, 0o750),
        (16400, "", true, 0o750),
    ];
    assert_eq!(found, expected);
    // That of 16500 is left out.
    assert_eq!((manifest.files, manifest.size_bytes), (10 + 3 + 2 + 3, 18_000));
    assert_eq!(manifest.stored_bytes, 1000 + 1001 + 1003);

    let (read, lines) = Reader::new(&lineage).backup(&manifest.id).await;
    assert_eq!(read, manifest);
    let mut packs = Vec::new();
    let mut maps = Vec::new();
    let mut directories = Vec::new();
    for line in lines {
        match line {
            ContentsLine::Pack { id, bytes, live_bytes, frame_bytes } => {
                assert_eq!(frame_bytes, Some(u64::from(id.number) + 900));
                packs.push((id.number, bytes, live_bytes));
            }
            ContentsLine::Map { hash, .. } => maps.push(hash),
            ContentsLine::Directory { path, .. } => directories.push(path.to_string()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(packs, [(0, 1000, 150), (1, 1001, 40), (3, 1003, 5)]);
    assert_eq!(maps, [&b"base"[..], b"known", b"in place", b"given"].map(ContentHash::of));
    assert_eq!(directories, ["base", "pg_tblspc", "pg_tblspc/16399/PG_15_1", "pg_tblspc/16400"]);
}

#[tokio::test]
async fn a_pack_that_is_missing_or_of_another_size_ends_the_backup() {
    for (packs, lost, reason) in [
        (&[(0, 1000), (1, 1001), (3, 1003)][..], 2, "missing"),
        (&[(0, 1000), (1, 1000), (2, 1002), (3, 1003)], 1, "1000 bytes instead of 1001"),
    ] {
        let lineage = lineage_with_packs(packs).await;
        let error = publish(&lineage, published()).await.unwrap_err();
        assert!(matches!(&error, BackupError::PackLost { pack, .. } if pack.number == lost), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(lineage.list(&lineage.layout().backups()).await.unwrap().is_empty());
    }
}
