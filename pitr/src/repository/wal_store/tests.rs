use std::sync::Arc;

use chrono::DateTime;

use super::*;
use crate::postgres::{ServerVersion, SystemIdentifier, WalSegmentSize};
use crate::repository::Repository;
use crate::repository::lineage::{Lineage, LineageId};
use crate::storage::fault::{Fault, FaultRule, Faulty};
use crate::storage::{MemoryStore, ObjectStore};

const SIZE: usize = 1 << 20;

async fn store() -> WalStore {
    store_on(Arc::new(MemoryStore::new())).await
}

async fn store_on(store: Arc<dyn ObjectStore>) -> WalStore {
    let clock = crate::clock::ManualClock::new(DateTime::UNIX_EPOCH);
    let repository = Repository::open_or_create(store, &clock).await.unwrap();
    let lineage = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SystemIdentifier::new(7), 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: WalSegmentSize::new(SIZE as u32).unwrap(),
        created: DateTime::UNIX_EPOCH,
        restore: None,
    };
    WalStore::new(repository.ensure_lineage(&lineage).await.unwrap())
}

fn name() -> SegmentName {
    "000000010000000000000003".parse().unwrap()
}

const START: u64 = 3 << 20;

fn content() -> Vec<u8> {
    (0..SIZE).map(|i| (i / 7 % 251) as u8).collect()
}

fn tail(from: usize, to: usize) -> Tail {
    Tail { segment: name(), from: Lsn::new(START + from as u64), to: Lsn::new(START + to as u64) }
}

async fn put_tail(wal: &WalStore, from: usize, to: usize) {
    let prepared = wal.prepare_tail(tail(from, to), &content()[from..to]).unwrap();
    assert!(wal.put(&prepared).await.unwrap());
}

#[tokio::test]
async fn a_segment_is_read_back_and_put_again() {
    let wal = store().await;
    assert_eq!(wal.read_segment(name()).await.unwrap(), None);
    let prepared = wal.prepare_segment(name(), MajorVersion::V15, &content()).unwrap();
    assert!(wal.put(&prepared).await.unwrap());
    assert!(!wal.put(&prepared).await.unwrap());
    assert_eq!(wal.read_segment(name()).await.unwrap(), Some(StoredSegment::Whole(content().into())));
    assert_eq!(wal.log(TimelineId::FIRST, 0).await.unwrap().segments, [name()]);
    assert_eq!(wal.timelines().await.unwrap(), [TimelineId::FIRST]);
    assert_eq!(wal.logs(TimelineId::FIRST).await.unwrap(), [0]);
}

#[tokio::test]
async fn same_content_by_another_compressor_is_the_same() {
    let wal = store().await;
    wal.put(&wal.prepare_segment(name(), MajorVersion::V15, &content()).unwrap()).await.unwrap();
    let other = wal.clone().with_compression_level(7).prepare_segment(name(), MajorVersion::V15, &content()).unwrap();
    assert!(!wal.put(&other).await.unwrap());
}

#[tokio::test]
async fn same_content_by_several_threads_is_the_same() {
    let wal = store().await;
    let alone = wal.prepare_segment(name(), MajorVersion::V15, &content()).unwrap();
    for threads in [2, 3, 8] {
        let together =
            wal.clone().with_threads(threads).prepare_segment(name(), MajorVersion::V15, &content()).unwrap();
        assert_eq!(together.plain_hash(), alone.plain_hash());
        assert_ne!(together.object, alone.object, "it is one frame");
        let store = store().await;
        assert!(store.put(&together).await.unwrap());
        assert!(!store.put(&alone).await.unwrap());
        assert_eq!(store.whole_segment(name()).await.unwrap(), content());
    }
}

#[tokio::test]
async fn other_content_is_a_conflict_and_changes_nothing() {
    let wal = store().await;
    wal.put(&wal.prepare_segment(name(), MajorVersion::V15, &content()).unwrap()).await.unwrap();
    let mut other = content();
    other[SIZE - 1] ^= 1;
    let prepared = wal.prepare_segment(name(), MajorVersion::V15, &other).unwrap();
    assert!(matches!(wal.put(&prepared).await, Err(Error::Conflict { .. })));
    assert_eq!(wal.whole_segment(name()).await.unwrap(), content());

    let history = wal.prepare_history(TimelineId::FIRST, b"1\t0/3000000\tone\n").unwrap();
    wal.put(&history).await.unwrap();
    assert!(!wal.put(&history).await.unwrap());
    let history = wal.prepare_history(TimelineId::FIRST, b"1\t0/3000000\ttwo\n").unwrap();
    assert!(matches!(wal.put(&history).await, Err(Error::Conflict { .. })));
    assert_eq!(wal.read_history(TimelineId::FIRST).await.unwrap(), "1\t0/3000000\tone\n");
}

#[tokio::test]
async fn damage_behind_a_right_header_is_not_success() {
    let wal = store().await;
    let prepared = wal.prepare_segment(name(), MajorVersion::V15, &content()).unwrap();
    let mut object = prepared.object.to_vec();
    let last = object.len() - 10;
    object[last] ^= 1;
    wal.lineage().store().put(prepared.key(), object.into(), PutMode::CreateNew).await.unwrap();
    assert!(wal.put(&prepared).await.unwrap_err().is_corruption());
    assert!(wal.read_segment(name()).await.unwrap_err().is_corruption());
}

#[tokio::test]
async fn a_segment_under_another_name_is_refused() {
    let wal = store().await;
    let prepared = wal.prepare_segment(name(), MajorVersion::V15, &content()).unwrap();
    let other: SegmentName = "000000010000000000000004".parse().unwrap();
    let key = wal.layout().segment(other);
    wal.lineage().store().put(&key, prepared.object.into(), PutMode::CreateNew).await.unwrap();
    assert!(wal.whole_segment(other).await.unwrap_err().is_corruption());
}

#[tokio::test]
async fn tails_join_to_the_longest_run_from_the_start() {
    let wal = store().await;
    put_tail(&wal, 0, 100).await;
    put_tail(&wal, 100, 300).await;
    put_tail(&wal, 400, 500).await;
    let open = |end: usize| {
        let bytes = content()[..end].to_vec().into();
        Some(StoredSegment::Open { bytes, end: Lsn::new(START + end as u64) })
    };
    assert_eq!(wal.read_segment(name()).await.unwrap(), open(300));
    put_tail(&wal, 0, 450).await;
    assert_eq!(wal.read_segment(name()).await.unwrap(), open(500));
    let log = wal.log(TimelineId::FIRST, 0).await.unwrap();
    assert_eq!(log.tails_end(name(), Lsn::new(START)), Lsn::new(START + 500));
    wal.delete_tails(&[tail(0, 100), tail(100, 300)]).await.unwrap();
    assert_eq!(wal.tails(name()).await.unwrap(), [tail(0, 450), tail(400, 500)]);
    assert_eq!(wal.read_segment(name()).await.unwrap(), open(500));
}

#[tokio::test]
async fn tails_that_do_not_begin_at_the_start_are_an_empty_beginning() {
    let wal = store().await;
    put_tail(&wal, 100, 200).await;
    let expected = StoredSegment::Open { bytes: Bytes::new(), end: Lsn::new(START) };
    assert_eq!(wal.read_segment(name()).await.unwrap(), Some(expected));
}

#[tokio::test]
async fn tails_that_disagree_are_refused() {
    let wal = store().await;
    put_tail(&wal, 0, 300).await;
    let mut other = content()[200..400].to_vec();
    other[0] ^= 1;
    wal.put(&wal.prepare_tail(tail(200, 400), &other).unwrap()).await.unwrap();
    assert!(wal.read_segment(name()).await.unwrap_err().is_corruption());
}

#[tokio::test]
async fn refuses_content_of_another_size() {
    let wal = store().await;
    assert!(wal.prepare_segment(name(), MajorVersion::V15, &content()[1..]).is_err());
    assert!(wal.prepare_tail(tail(0, 100), &content()[..99]).is_err());
    assert!(wal.prepare_tail(tail(0, SIZE + 1), &vec![0; SIZE + 1]).is_err());
    assert!(wal.prepare_tail(tail(5, 5), &[]).is_err());
}

#[tokio::test]
async fn a_segment_that_is_stored_while_its_log_is_listed_is_no_hole() {
    let store = Arc::new(Faulty::new(Arc::new(MemoryStore::new()), 1));
    let wal = store_on(Arc::clone(&store) as Arc<dyn ObjectStore>).await;
    let segment = |number: u64| {
        crate::postgres::SegmentNumber::new(number).name(TimelineId::FIRST, wal.lineage().lineage().wal_segment_size)
    };
    let put = async |number: u64| {
        let prepared = wal.prepare_segment(segment(number), MajorVersion::V15, &content()).unwrap();
        assert!(wal.put(&prepared).await.unwrap());
    };
    put(2).await;
    // Its tails are gone, and the listing has passed its name.
    for late in [3, 4] {
        store.add(FaultRule::new(Fault::LateListing { listings: 1 }).keys("*0000000*.zst").nth(1));
        put(late).await;
        let found = wal.log(TimelineId::FIRST, 0).await.unwrap().segments;
        assert_eq!(found, (2..=late).map(segment).collect::<Vec<_>>());
    }
    store.add(FaultRule::new(Fault::LateListing { listings: 1 }).keys("*0000000*.zst").nth(1));
    put(5).await;
    put(6).await;
    assert_eq!(wal.log(TimelineId::FIRST, 0).await.unwrap().segments, (2..=6).map(segment).collect::<Vec<_>>());
}
