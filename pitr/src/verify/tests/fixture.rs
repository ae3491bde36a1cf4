//! A repository with an object of every kind, two of most: two timelines, two backups that share packs and a map.

use std::collections::BTreeMap;

use crate::postgres::page::{Page, page_checksum};
use crate::postgres::wal::RecordBounds;
use crate::postgres::{Lsn, PAGE_SIZE, SegmentNumber, SystemIdentifier, TimelineId, WalFileName};
use crate::recovery::RecoveryTarget;
use crate::repository::LineageStore;
use crate::repository::backup::{BackupId, BackupManifest, Intent};
use crate::repository::catalog::testing::{MIB, at, lease, size, tli};
use crate::repository::gap::{GapCause, GapNote};
use crate::repository::layout::{GapKey, MarkerKey};
use crate::repository::lease::Lease;
use crate::repository::marker::{Finish, Marker, MarkerName, MarkerSource, Outcome};
use crate::restore::certificate::{Certificate, RestoredBytes, Verdict};
use crate::restore::prepare::testing::{Archive, History};
use crate::restore::testing::{BackupSpan, BackupWriter};

pub(super) struct Fixture {
    pub(super) archive: Archive,
    pub(super) backups: Vec<BackupManifest>,
    /// Up to where the live timeline goes.
    pub(super) end: Lsn,
    /// The finish of the first marker.
    pub(super) finish: RecordBounds,
    /// Where timeline 2 begins.
    pub(super) fork: Lsn,
    pub(super) old_lease: Lease,
}

impl Fixture {
    pub(super) fn lineage(&self) -> &LineageStore {
        &self.archive.lineage
    }

    pub(super) async fn new() -> Self {
        Self::of(crate::postgres::wal::testing::SYSTEM_IDENTIFIER, 100).await
    }

    /// Of another cluster, at other positions.
    pub(super) async fn other() -> Self {
        Self::of(SystemIdentifier::new(7_450_000_000_000_000_999), 5000).await
    }

    async fn of(system_identifier: SystemIdentifier, shift: usize) -> Self {
        let archive = Archive::of(system_identifier).await;
        let mut history = History::new();
        history.wal.system_identifier = system_identifier;
        history.wal.filler(shift);
        let first = span_of_backup(&mut history, 0);
        let (first, lines) = base_backup(&archive, at(0), first, shift as u8).await;
        history.commit(10);
        let one = mark(&archive, &mut history, "one", 20).await;
        history.commit(22);
        let finish = finish(&archive, &mut history, "one", one, 25).await;
        let two = mark(&archive, &mut history, "two", 30).await;
        history.commit(32);
        self::finish(&archive, &mut history, "two", two, 35).await;
        history.fill(2);
        // What timeline 1 went on with after it was left.
        let mut dead = history.clone();
        dead.commit(40);
        dead.wal.filler(3000);
        archive.put_wal(1, 0, &dead.wal).await;

        let fork = history.switch_timeline(2);
        archive.put_history(2, &[(1, fork)]).await;
        history.commit(50);
        let second = span_of_backup(&mut history, 60);
        let second = shared_backup(&archive, at(60), second, &first, &lines).await;
        mark(&archive, &mut history, "three", 70).await;
        history.fill(1);
        history.commit(80);
        let end = history.wal.position();
        put_live_wal(&archive, &history, fork).await;
        archive.summarize().await;
        let own = Some(archive.lineage.lineage().lineage);
        let old_lease = Lease { lineage: own, ..lease(1, fork.as_u64(), 32) };
        archive.put_lease(&Lease { lineage: own, ..lease(2, end.as_u64(), 80) }).await;
        others(&archive, &[&first, &second]).await;
        Self { archive, backups: vec![first, second], end, finish, fork, old_lease }
    }
}

fn span_of_backup(history: &mut History, second: i64) -> BackupSpan {
    let start = history.wal.filler(100);
    let checkpoint = history.wal.filler(100);
    history.commit(second - 5);
    let end = history.wal.backup_end(start.start);
    BackupSpan {
        timeline: history.wal.tli,
        start: start.start,
        checkpoint: checkpoint.start,
        end_record: end.start,
        stop: end.end,
    }
}

/// A page with a checksum that is right for its place.
fn page(block: u32, seed: u8) -> Page {
    let mut page = [seed; PAGE_SIZE];
    for (at, byte) in page.iter_mut().enumerate() {
        *byte = byte.wrapping_mul(31).wrapping_add((at / 7) as u8) ^ block as u8;
    }
    page[0..8].fill(0);
    page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn relation(blocks: u32, seed: u8) -> Vec<u8> {
    (0..blocks).flat_map(|block| if block == 3 { [0; PAGE_SIZE] } else { page(block, seed) }).collect()
}

async fn base_backup(
    archive: &Archive,
    time: chrono::DateTime<chrono::Utc>,
    span: BackupSpan,
    seed: u8,
) -> (BackupManifest, Vec<crate::repository::backup::ContentsLine>) {
    let id = BackupId::new(time, 1);
    put_intent(archive, &id, None).await;
    let mut writer = BackupWriter::at(archive.lineage.clone(), id, span).with_checksums();
    writer.directory("base", 0o700);
    writer.directory("base/5", 0o700);
    writer.file("base/5/1259", &relation(40, seed));
    writer.file("base/5/1260", &relation(6, seed ^ 0x55));
    writer.file("base/5/PG_VERSION", b"15\n");
    writer.close_map().await;
    writer.next_pack();
    writer.needed_files();
    writer.finish_with_lines().await
}

async fn shared_backup(
    archive: &Archive,
    time: chrono::DateTime<chrono::Utc>,
    span: BackupSpan,
    parent: &BackupManifest,
    lines: &[crate::repository::backup::ContentsLine],
) -> BackupManifest {
    let id = BackupId::new(time, 1);
    put_intent(archive, &id, Some(&parent.id)).await;
    let mut writer = BackupWriter::at(archive.lineage.clone(), id, span).with_checksums();
    writer.directory("base", 0o700);
    writer.directory("base/5", 0o700);
    writer.share(&parent.id, lines);
    writer.needed_files();
    writer.file("base/5/1300", &relation(3, 77));
    writer.finish().await
}

async fn put_intent(archive: &Archive, id: &BackupId, parent: Option<&BackupId>) {
    let intent = Intent {
        id: id.clone(),
        parent: parent.cloned(),
        resumes: None,
        start_time: id.time(),
        host: "db1".to_owned(),
    };
    archive.lineage.create(&archive.lineage.layout().intent(id), &intent).await.unwrap();
}

async fn mark(archive: &Archive, history: &mut History, name: &str, second: i64) -> RecordBounds {
    let record = history.wal.restore_point(name, at(second));
    let timeline = history.wal.tli;
    let marker = Marker {
        name: name.to_owned(),
        timeline,
        lsn: record.start,
        end_lsn: record.end,
        time: at(second),
        source: MarkerSource::Mark,
        who: None,
        key: None,
        meta: BTreeMap::new(),
    };
    let key = MarkerKey { tli: timeline, lsn: record.start, name: name.to_owned(), finish: false };
    archive.lineage.create(&archive.lineage.layout().marker(&key), &marker).await.unwrap();
    record
}

async fn finish(
    archive: &Archive,
    history: &mut History,
    name: &str,
    marker: RecordBounds,
    second: i64,
) -> RecordBounds {
    let record = history.wal.restore_point(&format!("finish:{name}"), at(second));
    let timeline = history.wal.tli;
    let finish = Finish {
        marker: Some(MarkerName { name: name.to_owned(), timeline, lsn: marker.start }),
        outcome: Outcome::Ok,
        timeline,
        lsn: record.start,
        end_lsn: record.end,
        time: at(second),
        who: None,
        meta: BTreeMap::new(),
    };
    let key = MarkerKey { tli: timeline, lsn: marker.start, name: name.to_owned(), finish: true };
    archive.lineage.create(&archive.lineage.layout().marker(&key), &finish).await.unwrap();
    record
}

/// Whole segments, the open one in two tails, and one tail that was not removed.
async fn put_live_wal(archive: &Archive, history: &History, fork: Lsn) {
    let (wal, open) = (&history.wal, size().segment_of(history.wal.position()));
    for (segment, content) in wal.segments() {
        if segment < size().segment_of(fork) {
            continue;
        }
        if segment == open {
            let used = size().offset_of(wal.position()) as usize;
            archive.put_tail(2, segment, 0, &content[..used / 2]).await;
            archive.put_tail(2, segment, used as u64 / 2, &content[used / 2..used]).await;
            continue;
        }
        let name = segment.name(tli(2), size());
        archive
            .wal
            .put(&archive.wal.prepare_segment(name, crate::postgres::MajorVersion::V15, &content).unwrap())
            .await
            .unwrap();
        if segment == size().segment_of(fork) {
            archive.put_tail(2, segment, 0, &content[..5000]).await;
        }
    }
}

/// Gaps, certificates, files that a server archived, and what a backup left that was given up.
async fn others(archive: &Archive, backups: &[&BackupManifest]) {
    let lineage = &archive.lineage;
    for (from, to) in [(MIB / 4, MIB / 2), (MIB / 2, MIB)] {
        let note = GapNote {
            timeline: TimelineId::FIRST,
            from_lsn: Lsn::new(from),
            to_lsn: Some(Lsn::new(to)),
            cause: GapCause::SlotLost,
            reason: "the slot was lost".to_owned(),
            noticed: at(-100),
            who: "db1/1".to_owned(),
        };
        let key = GapKey { tli: note.timeline, from: note.from_lsn, to: note.to_lsn };
        lineage.create(&lineage.layout().gap(&key), &note).await.unwrap();
    }
    for (restore, backup) in ["20261122T121500Z-00001a2b", "20261122T121600Z-00001a2c"].iter().zip(backups) {
        let certificate = certificate(lineage, restore, backup);
        lineage.create(&lineage.layout().restore(restore).unwrap(), &certificate).await.unwrap();
    }
    let segment = SegmentNumber::new(2).name(TimelineId::FIRST, size());
    let files = [
        (
            WalFileName::BackupHistory { segment, offset: 0x28 },
            format!("START WAL LOCATION: 0/200028 (file {segment})\n"),
        ),
        (WalFileName::Partial(SegmentNumber::new(4).name(TimelineId::FIRST, size())), "partial".repeat(2000)),
    ];
    for (name, content) in files {
        archive.wal.put(&archive.wal.prepare_archived_file(name, content.as_bytes()).unwrap()).await.unwrap();
    }
    let given_up = BackupId::new(at(90), 1);
    put_intent(archive, &given_up, None).await;
    let mut left = crate::repository::backup::pack::header(&crate::repository::backup::PackId {
        backup: given_up.clone(),
        number: 0,
    });
    left.extend(b"never finished");
    let key = lineage.layout().pack(&crate::repository::backup::PackId { backup: given_up, number: 0 });
    crate::storage::ObjectStoreExt::create_bytes(lineage.store().as_ref(), &key, left).await.unwrap();
}

fn certificate(lineage: &LineageStore, restore: &str, backup: &BackupManifest) -> Certificate {
    Certificate {
        restore: restore.parse().unwrap(),
        cluster: lineage.lineage().cluster.clone(),
        lineage: lineage.lineage().lineage,
        system_identifier: backup.system_identifier,
        asked: RecoveryTarget::Immediate,
        backup: backup.id.clone(),
        data_directory: "/srv/restored".into(),
        started: at(100),
        finished: at(110),
        timeline_before: backup.timeline,
        timeline_after: None,
        target_lsn: backup.end_record_lsn,
        reached_lsn: None,
        last_kept: None,
        first_left_out: None,
        checks: Vec::new(),
        seconds: Vec::new(),
        bytes: RestoredBytes::default(),
        server: None,
        notes: Vec::new(),
        failure: None,
        verdict: Verdict::Reached,
    }
}
