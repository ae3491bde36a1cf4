//! Catalogs for tests, in segments of 1 MiB.

use super::*;
use crate::postgres::history::TimelineHistory;
use crate::postgres::{ServerVersion, SystemIdentifier};
use crate::repository::backup::{BackupSource, MinimumSettings, Owner};
use crate::repository::hash::ContentHash;
use crate::repository::lease::WalPosition;
use crate::repository::lineage::LineageId;
use chrono::{DateTime, TimeDelta, Utc};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

pub(crate) fn lsn(position: u64) -> Lsn {
    Lsn::new(position)
}

pub(crate) fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

/// The way to `timeline`, by where each ancestor was left.
pub(crate) fn path(timeline: u32, ancestors: &[(u32, u64)]) -> TimelinePath {
    if ancestors.is_empty() {
        return TimelinePath::without_history(tli(timeline));
    }
    let lines = ancestors.iter().map(|(id, end)| format!("{id}\t{}\tno reason\n", lsn(*end)));
    let history = TimelineHistory::parse(tli(timeline), lines.collect::<String>().as_bytes()).unwrap();
    TimelinePath::new(&history)
}

/// Noon of the day, and some seconds.
pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    let noon: DateTime<Utc> = "2026-11-22T12:00:00Z".parse().unwrap();
    noon + TimeDelta::seconds(seconds)
}

pub(crate) fn lineage(system_identifier: SystemIdentifier) -> Lineage {
    Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(system_identifier, 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: size(),
        created: at(-3600),
        restore: None,
    }
}

/// A backup between two positions that ended at noon and `stop_second` seconds.
pub(crate) fn backup(timeline: u32, start: u64, stop: u64, stop_second: i64) -> BackupManifest {
    BackupManifest {
        id: BackupId::new(at(stop_second), 1),
        cluster: "main".parse().unwrap(),
        system_identifier: SystemIdentifier::new(7),
        postgres_version: ServerVersion::new(150_018),
        catalog_version: 202_209_061,
        control_version: 1300,
        wal_segment_size: size(),
        data_checksums: true,
        timeline: tli(timeline),
        start_lsn: lsn(start),
        checkpoint_lsn: lsn(start),
        stop_lsn: lsn(stop),
        end_record_lsn: lsn(stop.saturating_sub(40)),
        start_time: at(stop_second - 10),
        stop_time: at(stop_second),
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
        files: 1_000,
        size_bytes: 30_000_000,
        stored_bytes: 4_000_000,
        new_bytes: 4_000_000,
        pages_read: 3_000,
        corrupt_pages: Vec::new(),
        parent: None,
        sharing: crate::repository::backup::Sharing::default(),
        contents: ContentHash::of(b""),
        agent_version: "0.1.0".to_owned(),
    }
}

pub(crate) fn lease(timeline: u32, sealed: u64, commit_second: i64) -> Lease {
    let sealed = Some(WalPosition { timeline: tli(timeline), lsn: lsn(sealed) });
    Lease {
        lineage: None,
        holder: "a".to_owned(),
        host: "db1".to_owned(),
        pid: 1,
        epoch: 1,
        time: at(commit_second),
        expires: at(commit_second + 30),
        server: sealed,
        sealed,
        sealed_commit_time: Some(at(commit_second)),
        problem: None,
    }
}

pub(crate) fn catalog() -> Catalog {
    Catalog {
        lineage: lineage(SystemIdentifier::new(7)),
        backups: Vec::new(),
        incomplete: Vec::new(),
        damaged: Vec::new(),
        timelines: BTreeMap::new(),
        markers: Vec::new(),
        gap_notes: Vec::new(),
        lease: None,
        listed_from: Lsn::INVALID,
    }
}

impl Catalog {
    /// Adds a timeline with whole segments, and tails from the start of one segment to a position.
    pub(crate) fn with_timeline(
        mut self,
        timeline: u32,
        ancestors: &[(u32, u64)],
        segments: impl IntoIterator<Item = u64>,
        tail_to: Option<u64>,
    ) -> Self {
        let mut wal = DurableWal::new(size());
        for segment in segments {
            wal.add_segment(SegmentNumber::new(segment));
        }
        if let Some(to) = tail_to {
            let segment = size().segment_before(lsn(to));
            wal.add_tail(segment, LsnRange { from: size().start_of(segment), to: lsn(to) }).unwrap();
        }
        let path = Some(path(timeline, ancestors));
        self.timelines.insert(tli(timeline), CatalogTimeline { path, wal });
        self
    }

    pub(crate) fn with_backup(mut self, backup: BackupManifest) -> Self {
        self.backups.push(backup);
        self.backups.sort_by_key(|b| b.id.clone());
        self
    }

    pub(crate) fn with_lease(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }
}
