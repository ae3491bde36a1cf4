use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::postgres::wal::WalDecoder;
use crate::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};
use crate::postgres::{Lsn, MajorVersion, SegmentNumber, ServerVersion, TransactionId, WalSegmentSize};
use crate::repository::Repository;
use crate::repository::lineage::{Lineage, LineageId};
use crate::storage::MemoryStore;
use crate::wal_summary::SummaryBuilder;

const TIME: &str = "2026-11-22T11:40:00.123456Z";

async fn store() -> SummaryStore {
    let clock = ManualClock::new(TIME.parse().unwrap());
    let repository = Repository::open_or_create(Arc::new(MemoryStore::new()), &clock).await.unwrap();
    let lineage = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SYSTEM_IDENTIFIER, 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: WalSegmentSize::DEFAULT,
        created: TIME.parse().unwrap(),
        restore: None,
    };
    SummaryStore::new(repository.ensure_lineage(&lineage).await.unwrap())
}

/// Of a segment with so many commits.
fn summary(segment: u64, commits: u32) -> WalSummary {
    let size = WalSegmentSize::DEFAULT;
    let number = SegmentNumber::new(segment);
    let mut writer = WalWriter::new(MajorVersion::V15, TimelineId::FIRST, number, size);
    let mut builder = SummaryBuilder::new(TimelineId::FIRST, MajorVersion::V15, size, size.start_of(number));
    (0..commits).for_each(|xid| {
        writer.commit(TransactionId::new(700 + xid), TIME.parse().unwrap());
    });
    let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size);
    decoder.feed(writer.bytes());
    while let Some(record) = decoder.next_record().unwrap() {
        builder.record(&record).unwrap();
    }
    builder.finish(size.end_of(number)).unwrap()
}

async fn put(store: &SummaryStore, summary: WalSummary) -> Result<PutSummary> {
    store.put(&store.prepare(summary).await.unwrap()).await
}

#[tokio::test]
async fn what_is_put_is_listed_and_read() {
    let store = store().await;
    for segment in [0x105, 3] {
        assert_eq!(put(&store, summary(segment, 3)).await.unwrap(), PutSummary::Created);
    }
    let listed = store.list(TimelineId::FIRST).await.unwrap();
    let starts: Vec<_> = listed.iter().map(|listed| listed.key.from).collect();
    assert_eq!(starts, [Lsn::new(0x300_0000), Lsn::new(0x1_0500_0000)]);
    let ReadSummary::Usable(read) = store.read(listed[0].key).await.unwrap() else { panic!() };
    assert_eq!(*read, summary(3, 3));
    let header = store.header(listed[0].key).await.unwrap();
    assert_eq!(header.times.commits.unwrap().count, 3);
    store.delete(&[listed[0].key]).await.unwrap();
    assert!(store.read(listed[0].key).await.unwrap_err().is_not_found());
    assert_eq!(store.list(TimelineId::FIRST).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_same_is_success_and_another_a_conflict() {
    let store = store().await;
    put(&store, summary(3, 3)).await.unwrap();
    assert_eq!(put(&store, summary(3, 3)).await.unwrap(), PutSummary::Same);
    assert!(matches!(put(&store, summary(3, 4)).await, Err(Error::Conflict { .. })));
}

#[tokio::test]
async fn what_cannot_be_used_gives_way_and_what_is_newer_stays() {
    let store = store().await;
    let prepared = store.prepare(summary(3, 3)).await.unwrap();
    let key = store.object_key(prepared.key());
    let place = |bytes: Vec<u8>| store.lineage().store().put(&key, bytes.into(), PutMode::Overwrite);
    let mut damaged_content = prepared.object.to_vec();
    *damaged_content.last_mut().unwrap() ^= 1;
    for bytes in [b"no summary".to_vec(), damaged_content, by_decoder(&prepared, DECODER_VERSION - 1)] {
        place(bytes).await.unwrap();
        assert!(matches!(store.read(prepared.key()).await.unwrap(), ReadSummary::Unusable { .. }));
        assert_eq!(store.put(&prepared).await.unwrap(), PutSummary::Replaced);
        assert!(matches!(store.read(prepared.key()).await.unwrap(), ReadSummary::Usable(_)));
    }
    place(by_decoder(&prepared, DECODER_VERSION + 1)).await.unwrap();
    assert_eq!(store.put(&prepared).await.unwrap(), PutSummary::LeftNewer);
    assert!(matches!(store.read(prepared.key()).await.unwrap(), ReadSummary::Unusable { outdated: true, .. }));
}

fn by_decoder(prepared: &PreparedSummary, decoder: u32) -> Vec<u8> {
    let header = SummaryHeader { decoder, ..prepared.header.clone() };
    let mut object = crate::repository::envelope::header(&header);
    let own = crate::repository::envelope::header_bytes(&prepared.object).unwrap();
    object.extend_from_slice(&prepared.object[own..]);
    object
}
