//! Archives in memory, for tests: real objects around WAL that was written for the test.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::clock::ManualClock;
use crate::postgres::time::to_postgres_microseconds;
use crate::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};
use crate::postgres::wal::{RecordBounds, ResourceManager};
use crate::postgres::{Lsn, MajorVersion, SegmentNumber, SystemIdentifier, TimelineId, TransactionId};
use crate::repository::backup::BackupManifest;
use crate::repository::catalog::testing::{MIB, at, backup, lineage, size, tli};
use crate::repository::layout::{MarkerKey, SummaryKey};
use crate::repository::lease::Lease;
use crate::repository::marker::{Finish, Marker, MarkerSource, Outcome};
use crate::repository::summary_store::ReadSummary;
use crate::repository::wal_store::{Tail, WalStore};
use crate::repository::{LineageStore, Repository, SummaryStore, document};
use crate::storage::fault::Faulty;
use crate::storage::{MemoryStore, ObjectStore, ObjectStoreExt as _, PutMode};
use crate::summarize::{Built, StoredSummaries, Survey, coverage};
use crate::wal_summary::fold;

pub(crate) const MAJOR: MajorVersion = MajorVersion::V15;

/// A lineage in memory, and the store that can be made to fail.
pub(crate) struct Archive {
    pub faults: Arc<Faulty>,
    pub lineage: LineageStore,
    pub wal: WalStore,
    pub clock: ManualClock,
}

impl Archive {
    pub(crate) async fn new() -> Self {
        Self::of(SYSTEM_IDENTIFIER).await
    }

    pub(crate) async fn of(system_identifier: SystemIdentifier) -> Self {
        let clock = ManualClock::new(at(86_400));
        let memory = MemoryStore::with_clock(Arc::new(clock.clone()));
        let faults = Arc::new(Faulty::new(Arc::new(memory), 7));
        let store: Arc<dyn ObjectStore> = faults.clone();
        let repository = Repository::open_or_create(store, &clock).await.unwrap();
        let lineage = repository.ensure_lineage(&lineage(system_identifier)).await.unwrap();
        Self { faults, wal: WalStore::new(lineage.clone()), lineage, clock }
    }

    /// Everything that was written: whole segments, and a tail of the open one. On `timeline` from `first` on.
    pub(crate) async fn put_wal(&self, timeline: u32, first: u64, wal: &WalWriter) {
        let open = size().segment_of(wal.position());
        for (segment, content) in wal.segments() {
            if segment.as_u64() < first {
                continue;
            }
            if segment == open {
                let used = usize::try_from(wal.position().distance_from(size().start_of(segment)).unwrap()).unwrap();
                self.put_tail(timeline, segment, 0, &content[..used]).await;
            } else {
                let name = segment.name(tli(timeline), size());
                self.wal.put(&self.wal.prepare_segment(name, MAJOR, &content).unwrap()).await.unwrap();
            }
        }
    }

    pub(crate) async fn put_tail(&self, timeline: u32, segment: SegmentNumber, offset: u64, content: &[u8]) {
        if content.is_empty() {
            return;
        }
        let from = size().start_of(segment).advance(offset);
        let tail = Tail { segment: segment.name(tli(timeline), size()), from, to: from.advance(content.len() as u64) };
        self.wal.put(&self.wal.prepare_tail(tail, content).unwrap()).await.unwrap();
    }

    pub(crate) async fn put_history(&self, timeline: u32, ancestors: &[(u32, Lsn)]) {
        let lines: String = ancestors.iter().map(|(id, lsn)| format!("{id}\t{lsn}\tno reason\n")).collect();
        self.wal.put(&self.wal.prepare_history(tli(timeline), lines.as_bytes()).unwrap()).await.unwrap();
    }

    pub(crate) async fn put_backup(&self, manifest: &BackupManifest) {
        self.lineage.create(&self.lineage.layout().manifest(&manifest.id), manifest).await.unwrap();
    }

    pub(crate) async fn put_marker(&self, timeline: u32, name: &str, record: RecordBounds, time: DateTime<Utc>) {
        let marker = Marker {
            name: name.to_owned(),
            timeline: tli(timeline),
            lsn: record.start,
            end_lsn: record.end,
            time,
            source: MarkerSource::Mark,
            who: None,
            key: None,
            meta: BTreeMap::new(),
        };
        let key = self.marker_key(timeline, name, record, false);
        self.lineage.create(&self.lineage.layout().marker(&key), &marker).await.unwrap();
    }

    pub(crate) async fn finish_marker(&self, timeline: u32, name: &str, marker: RecordBounds, end: RecordBounds) {
        let finish = Finish {
            marker: None,
            outcome: Outcome::Ok,
            timeline: tli(timeline),
            lsn: end.start,
            end_lsn: end.end,
            time: at(0),
            who: None,
            meta: BTreeMap::new(),
        };
        let key = self.marker_key(timeline, name, marker, true);
        self.lineage.create(&self.lineage.layout().marker(&key), &finish).await.unwrap();
    }

    fn marker_key(&self, timeline: u32, name: &str, record: RecordBounds, finish: bool) -> MarkerKey {
        MarkerKey { tli: tli(timeline), lsn: record.start, name: name.to_owned(), finish }
    }

    pub(crate) async fn put_lease(&self, lease: &Lease) {
        let key = self.lineage.layout().lease();
        self.lineage.store().put_bytes(&key, document::seal(lease), PutMode::Overwrite).await.unwrap();
    }

    pub(crate) async fn delete_segment(&self, timeline: u32, segment: u64) {
        let key = self.lineage.layout().segment(SegmentNumber::new(segment).name(tli(timeline), size()));
        self.lineage.store().delete(&[key]).await.unwrap();
    }

    /// Builds every summary that can be built, as an agent would.
    pub(crate) async fn summarize(&self) {
        let summaries = SummaryStore::new(self.lineage.clone());
        for timeline in Survey::take(&self.wal, |_| true).await.unwrap().timelines {
            for run in coverage::runs(&timeline.missing, 64) {
                let wal = WalStore::new(self.lineage.clone());
                let mut built = StoredSummaries::new(wal, timeline.timeline, timeline.begin, run).unwrap();
                while let Some(built) = built.next().await.unwrap() {
                    if let Built::Summary(summary) = built {
                        summaries.put(&summaries.prepare(*summary).await.unwrap()).await.unwrap();
                    }
                }
            }
        }
    }

    /// The summaries that there are, by timeline and range.
    pub(crate) async fn summaries(&self) -> Vec<SummaryKey> {
        let store = SummaryStore::new(self.lineage.clone());
        let mut keys = Vec::new();
        for timeline in self.wal.timelines().await.unwrap() {
            keys.extend(store.list(timeline).await.unwrap().into_iter().map(|listed| listed.key));
        }
        keys
    }

    /// Puts one summary of the whole range of `keys`, which are neighbours, beside them; false where one is damaged.
    pub(crate) async fn fold(&self, keys: &[SummaryKey]) -> bool {
        let store = SummaryStore::new(self.lineage.clone());
        let mut parts = Vec::new();
        for key in keys {
            let ReadSummary::Usable(summary) = store.read(*key).await.unwrap() else { return false };
            parts.push(*summary);
        }
        store.put(&store.prepare(fold(&parts).unwrap()).await.unwrap()).await.unwrap();
        true
    }

    pub(crate) async fn delete_summary(&self, key: SummaryKey) {
        self.lineage.store().delete(&[self.lineage.layout().summary(key)]).await.unwrap();
    }

    pub(crate) async fn damage_summary(&self, key: SummaryKey) {
        let key = self.lineage.layout().summary(key);
        let mut bytes = self.lineage.store().get_bytes(&key, 64 << 20).await.unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        self.lineage.store().put_bytes(&key, bytes, PutMode::Overwrite).await.unwrap();
    }

    /// Other bytes in place of a segment, with a header that is right for them.
    pub(crate) async fn replace_segment(&self, timeline: u32, segment: u64, content: &[u8]) {
        self.delete_segment(timeline, segment).await;
        let name = SegmentNumber::new(segment).name(tli(timeline), size());
        self.wal.put(&self.wal.prepare_segment(name, MAJOR, content).unwrap()).await.unwrap();
    }
}

/// WAL with the records of backups in it.
#[derive(Clone)]
pub(crate) struct History {
    pub wal: WalWriter,
    next_xid: u32,
}

impl History {
    /// Begins with segment 2 of timeline 1.
    pub(crate) fn new() -> Self {
        Self { wal: WalWriter::new(MAJOR, TimelineId::FIRST, SegmentNumber::new(2), size()), next_xid: 100 }
    }

    /// A backup that takes some WAL, and ends at noon and `second` seconds.
    pub(crate) fn backup(&mut self, second: i64) -> BackupManifest {
        let first = self.wal.filler(100);
        self.commit(second - 5);
        let end = self.wal.backup_end(first.start);
        let mut manifest = backup(self.wal.tli.as_u32(), first.start.as_u64(), end.end.as_u64(), second);
        manifest.system_identifier = SYSTEM_IDENTIFIER;
        manifest.end_record_lsn = end.start;
        manifest
    }

    /// The next transaction.
    pub(crate) fn commit(&mut self, second: i64) -> (u32, RecordBounds) {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.change(xid);
        (xid, self.wal.commit(TransactionId::new(xid), at(second)))
    }

    /// Something that the transaction wrote.
    pub(crate) fn change(&mut self, xid: u32) -> RecordBounds {
        self.wal.append(ResourceManager::new(21), 0, TransactionId::new(xid), &[0; 40])
    }

    /// The number of a transaction that has begun.
    pub(crate) fn begin(&mut self) -> u32 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.change(xid);
        xid
    }

    /// The commit of a transaction with so many parts; the record takes four bytes for each.
    pub(crate) fn commit_of_parts(&mut self, second: i64, parts: u32) -> (u32, RecordBounds) {
        let xid = self.begin();
        let mut data = to_postgres_microseconds(at(second)).to_le_bytes().to_vec();
        data.extend(2_u32.to_le_bytes());
        data.extend(parts.to_le_bytes());
        (0..parts).for_each(|part| data.extend((self.next_xid + part).to_le_bytes()));
        self.next_xid += parts;
        (xid, self.wal.append(ResourceManager::TRANSACTION, 0x80, TransactionId::new(xid), &data))
    }

    /// `PREPARE TRANSACTION`: the header of a state file, and the name behind it.
    pub(crate) fn prepare(&mut self, second: i64) -> (u32, RecordBounds) {
        let xid = self.begin();
        let mut data = vec![0; 72];
        data[8..12].copy_from_slice(&xid.to_le_bytes());
        data[16..24].copy_from_slice(&to_postgres_microseconds(at(second)).to_le_bytes());
        data[54..56].copy_from_slice(&2_u16.to_le_bytes());
        data.extend(b"g\0\0\0\0\0\0\0");
        (xid, self.wal.append(ResourceManager::TRANSACTION, 0x10, TransactionId::new(xid), &data))
    }

    /// A commit that drops the file of a relation.
    pub(crate) fn drop_table(&mut self, second: i64, relfilenode: u32) -> (u32, RecordBounds) {
        let xid = self.begin();
        let mut data = to_postgres_microseconds(at(second)).to_le_bytes().to_vec();
        data.extend(4_u32.to_le_bytes());
        data.extend(1_u32.to_le_bytes());
        [1663, 5, relfilenode].iter().for_each(|word: &u32| data.extend(word.to_le_bytes()));
        (xid, self.wal.append(ResourceManager::TRANSACTION, 0x80, TransactionId::new(xid), &data))
    }

    pub(crate) fn commit_prepared(&mut self, xid: u32, second: i64) -> RecordBounds {
        let mut data = to_postgres_microseconds(at(second)).to_le_bytes().to_vec();
        data.extend(0x10_u32.to_le_bytes());
        data.extend(xid.to_le_bytes());
        self.wal.append(ResourceManager::TRANSACTION, 0x30 | 0x80, TransactionId::INVALID, &data)
    }

    /// What a server says at every checkpoint of the transactions that run.
    pub(crate) fn running(&mut self, oldest: Option<u32>) -> RecordBounds {
        let mut data = vec![0; 24];
        data[12..16].copy_from_slice(&self.next_xid.to_le_bytes());
        data[16..20].copy_from_slice(&oldest.unwrap_or(self.next_xid).to_le_bytes());
        self.wal.append(ResourceManager::STANDBY, 0x10, TransactionId::INVALID, &data)
    }

    pub(crate) fn parameters(&mut self, max_connections: i32) -> RecordBounds {
        let mut data = Vec::new();
        [max_connections, 8, 10, 0, 64, 1].iter().for_each(|value: &i32| data.extend(value.to_le_bytes()));
        data.extend([0; 4]);
        self.wal.append(ResourceManager::XLOG, 0x60, TransactionId::INVALID, &data)
    }

    pub(crate) fn create_tablespace(&mut self, oid: u32) -> RecordBounds {
        let mut data = oid.to_le_bytes().to_vec();
        data.extend(format!("/srv/{oid}\0").as_bytes());
        self.wal.append(ResourceManager::TABLESPACE, 0x00, TransactionId::INVALID, &data)
    }

    pub(crate) fn drop_tablespace(&mut self, oid: u32) -> RecordBounds {
        self.wal.append(ResourceManager::TABLESPACE, 0x10, TransactionId::INVALID, &oid.to_le_bytes())
    }

    /// So many segments full of nothing.
    pub(crate) fn fill(&mut self, segments: u64) {
        let end = self.wal.position().advance(segments * MIB);
        while self.wal.position() < end {
            self.wal.filler(20_000);
        }
    }

    /// From here on on another timeline.
    pub(crate) fn switch_timeline(&mut self, timeline: u32) -> Lsn {
        self.wal.tli = tli(timeline);
        self.wal.position()
    }
}
