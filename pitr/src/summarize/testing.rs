//! A lineage in memory whose WAL was written by hand.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::clock::ManualClock;
use crate::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};
use crate::postgres::{MajorVersion, SegmentNumber, ServerVersion, TimelineId, TransactionId, WalSegmentSize};
use crate::repository::lineage::{Lineage, LineageId};
use crate::repository::{Repository, WalStore};
use crate::storage::MemoryStore;

pub const SEGMENT: u64 = 1 << 20;

pub fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

pub fn time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

pub async fn wal() -> WalStore {
    let repository = Repository::open_or_create(Arc::new(MemoryStore::new()), &ManualClock::new(time())).await.unwrap();
    let lineage = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SYSTEM_IDENTIFIER, 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: size(),
        created: time(),
        restore: None,
    };
    WalStore::new(repository.ensure_lineage(&lineage).await.unwrap())
}

/// From segment `first` on.
pub fn writer(first: u64) -> WalWriter {
    WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(first), size())
}

/// Commits up to the end of segment `last`, of which the last one goes over it.
pub fn fill(writer: &mut WalWriter, last: u64) {
    while writer.position() < size().end_of(SegmentNumber::new(last)) {
        writer.commit(TransactionId::new(700), time());
        writer.filler(3000);
    }
}

/// Stores what was written: whole segments, and the rest as a tail.
pub async fn store(wal: &WalStore, writer: &WalWriter) {
    let mut rest = writer.bytes();
    let mut number = size().segment_of(writer.start());
    while !rest.is_empty() {
        let name = number.name(writer.tli, size());
        let (content, after) = rest.split_at(rest.len().min(size().as_usize()));
        let prepared = if content.len() == size().as_usize() {
            wal.prepare_segment(name, MajorVersion::V15, content).unwrap()
        } else {
            let from = size().start_of(number);
            let tail =
                crate::repository::wal_store::Tail { segment: name, from, to: from.advance(content.len() as u64) };
            wal.prepare_tail(tail, content).unwrap()
        };
        wal.put(&prepared).await.unwrap();
        rest = after;
        number = number.next();
    }
}
