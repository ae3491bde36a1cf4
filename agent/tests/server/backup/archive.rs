//! Does the archiver's part by hand: stores finished segments of `pg_wal` and says how far WAL is sealed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pitr::postgres::wal::{RecordMeaning, WalDecoder};
use pitr::postgres::{Lsn, MajorVersion, SegmentNumber, TimelineId, WalSegmentSize};
use pitr::repository::LineageStore;
use pitr::repository::lease::WalPosition;
use pitr::repository::wal_store::WalStore;
use pitr_agent::archiver::{ArchiveProgress, Landmark, LandmarkKind};
use pitr_agent::postgres::sql;
use tokio_util::task::AbortOnDropHandle;

use crate::support::Server;

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

pub struct Archive {
    pub pg_wal: PathBuf,
    held: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Archive {
    pub async fn start(server: &Server, lineage: LineageStore, progress: ArchiveProgress) -> Self {
        let (pg_wal, held) = (server.data().join("pg_wal"), Arc::new(AtomicBool::new(false)));
        let session = sql::connect(&server.conninfo()).await.unwrap();
        let wal = WalStore::new(lineage);
        let first = SIZE.segment_of(flushed(&session).await);
        let task = tokio::spawn(follow(session, wal, progress, pg_wal.clone(), first, Arc::clone(&held)));
        Self { pg_wal, held, _task: AbortOnDropHandle::new(task) }
    }

    /// From now on nothing is archived.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }
}

async fn flushed(session: &sql::SqlSession) -> Lsn {
    let row = session.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

async fn follow(
    session: sql::SqlSession,
    wal: WalStore,
    progress: ArchiveProgress,
    pg_wal: PathBuf,
    first: SegmentNumber,
    held: Arc<AtomicBool>,
) {
    let mut next = first;
    let mut decoder = WalDecoder::new(SIZE.start_of(first), TimelineId::FIRST, SIZE);
    loop {
        let end = flushed(&session).await;
        while next < SIZE.segment_of(end) && !held.load(Ordering::Relaxed) {
            let name = next.name(TimelineId::FIRST, SIZE);
            let content = std::fs::read(pg_wal.join(name.to_string())).unwrap();
            let prepared = wal.prepare_segment(name, MajorVersion::V15, &content).unwrap();
            wal.put(&prepared).await.unwrap();
            decoder.feed(&content);
            ends_of_backups(&mut decoder).into_iter().for_each(|landmark| progress.record_landmark(landmark));
            next = next.next();
        }
        // What is in the open segment is as good as sealed: backups end with a finished one.
        if !held.load(Ordering::Relaxed) {
            progress.update(|now| now.sealed = Some(WalPosition { timeline: TimelineId::FIRST, lsn: end }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The ends of backups among what was fed.
fn ends_of_backups(decoder: &mut WalDecoder) -> Vec<Landmark> {
    let mut found = Vec::new();
    loop {
        let major = decoder.major();
        let Some(record) = decoder.next_record().unwrap() else { return found };
        if let Some(Ok(RecordMeaning::BackupEnd { start_lsn })) = major.map(|major| record.meaning(major)) {
            found.push(Landmark {
                timeline: TimelineId::FIRST,
                start_lsn: record.start_lsn(),
                end_lsn: record.end_lsn(),
                kind: LandmarkKind::BackupEnd { start_lsn },
            });
        }
    }
}
