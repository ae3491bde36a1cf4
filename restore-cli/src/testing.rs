//! Values for tests of documents.

use pitr::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use pitr::repository::backup::{BackupId, BackupManifest, BackupSource, MinimumSettings, Owner};
use pitr::repository::catalog::Catalog;
use pitr::repository::hash::ContentHash;
use pitr::repository::lease::{Lease, WalPosition};
use pitr::repository::lineage::{Lineage, LineageId};

const SYSTEM_IDENTIFIER: SystemIdentifier = SystemIdentifier::new(7_450_000_000_000_000_000);

pub fn lineage() -> Lineage {
    Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SYSTEM_IDENTIFIER, 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: WalSegmentSize::DEFAULT,
        created: "2026-11-20T00:00:00Z".parse().unwrap(),
        restore: None,
    }
}

/// A backup that started at `time` and took two minutes.
pub fn manifest(time: &str, start: u64, stop: u64) -> BackupManifest {
    let start_time: chrono::DateTime<chrono::Utc> = time.parse().unwrap();
    BackupManifest {
        id: BackupId::new(start_time, 1),
        cluster: "main".parse().unwrap(),
        system_identifier: SYSTEM_IDENTIFIER,
        postgres_version: ServerVersion::new(150_018),
        catalog_version: 202_209_061,
        control_version: 1300,
        wal_segment_size: WalSegmentSize::DEFAULT,
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn::new(start),
        checkpoint_lsn: Lsn::new(start),
        stop_lsn: Lsn::new(stop),
        end_record_lsn: Lsn::new(stop - 0x28),
        start_time,
        stop_time: start_time + chrono::TimeDelta::minutes(2),
        source: BackupSource::Primary,
        tablespaces: Vec::new(),
        settings: MinimumSettings {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
        },
        owner: Owner { uid: 105, gid: 105, user: Some("postgres".to_owned()), group: None },
        directory_mode: 0o700,
        data_directory: "/var/lib/postgresql/15/main".to_owned(),
        files: 1203,
        size_bytes: 3 << 30,
        stored_bytes: 700 << 20,
        new_bytes: 300 << 20,
        pages_read: 393_216,
        corrupt_pages: Vec::new(),
        parent: None,
        sharing: pitr::repository::backup::Sharing::default(),
        contents: ContentHash::of(b""),
        agent_version: "0.1.0".to_owned(),
    }
}

pub fn lease(server: u64, sealed: u64) -> Lease {
    let position = |lsn| Some(WalPosition { timeline: TimelineId::FIRST, lsn: Lsn::new(lsn) });
    Lease {
        lineage: None,
        holder: "a".to_owned(),
        host: "db1".to_owned(),
        pid: 4711,
        epoch: 1,
        time: "2026-11-22T11:59:57Z".parse().unwrap(),
        expires: "2026-11-22T12:00:27Z".parse().unwrap(),
        server: position(server),
        sealed: position(sealed),
        sealed_commit_time: Some("2026-11-22T11:59:50.5Z".parse().unwrap()),
        problem: None,
    }
}

/// A lineage with nothing in it.
pub fn catalog() -> Catalog {
    Catalog {
        lineage: lineage(),
        backups: Vec::new(),
        incomplete: Vec::new(),
        damaged: Vec::new(),
        timelines: std::collections::BTreeMap::new(),
        markers: Vec::new(),
        gap_notes: Vec::new(),
        lease: None,
        listed_from: Lsn::INVALID,
    }
}
