use std::sync::Arc;

use chrono::DateTime;
use pitr::clock::ManualClock;
use pitr::postgres::wal::testing::SYSTEM_IDENTIFIER;
use pitr::postgres::{MajorVersion, ServerVersion};
use pitr::repository::Repository;
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::storage::MemoryStore;

use super::*;

const MIB: u64 = 1 << 20;

fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

async fn store() -> WalStore {
    let clock = ManualClock::new(DateTime::UNIX_EPOCH);
    let repository = Repository::open_or_create(Arc::new(MemoryStore::new()), &clock).await.unwrap();
    let lineage = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SYSTEM_IDENTIFIER, 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: size(),
        created: DateTime::UNIX_EPOCH,
        restore: None,
    };
    WalStore::new(repository.ensure_lineage(&lineage).await.unwrap())
}

async fn put_segments(wal: &WalStore, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let name = SegmentNumber::new(number).name(tli(timeline), size());
        let prepared = wal.prepare_segment(name, MajorVersion::V15, &vec![7; MIB as usize]).unwrap();
        wal.put(&prepared).await.unwrap();
    }
}

async fn put_tail(wal: &WalStore, timeline: u32, number: u64, to: u64) -> Tail {
    let start = Lsn::new(number * MIB);
    let segment = SegmentNumber::new(number).name(tli(timeline), size());
    let tail = Tail { segment, from: start, to: start.advance(to) };
    wal.put(&wal.prepare_tail(tail, &vec![7; to as usize]).unwrap()).await.unwrap();
    tail
}

fn path(text: &str) -> TimelinePath {
    match text {
        "" => TimelinePath::new(TimelineId::FIRST, None),
        text => {
            let lines = text.lines().count() as u32;
            let parent: u32 = text.lines().last().unwrap().split('\t').next().unwrap().parse().unwrap();
            let current = tli(parent.max(lines) + 1);
            TimelinePath::new(current, Some(&TimelineHistory::parse(current, text.as_bytes()).unwrap()))
        }
    }
}

async fn place(wal: &WalStore, path: &TimelinePath, restart: Option<u64>) -> Option<(u32, u64, Option<u64>)> {
    match find(wal, path, restart.map(Lsn::new)).await.unwrap() {
        Found::Resume(point, _) => {
            Some((point.timeline.as_u32(), point.segment.as_u64(), point.sealed.map(Lsn::as_u64)))
        }
        Found::Nothing(_) => None,
    }
}

#[tokio::test]
async fn nothing_stored_is_nothing_found() {
    let wal = store().await;
    assert_eq!(find(&wal, &path(""), None).await.unwrap(), Found::Nothing(None));
    let history = wal.prepare_history(tli(2), b"1\t0/300000\tx\n").unwrap();
    wal.put(&history).await.unwrap();
    assert_eq!(find(&wal, &path("1\t0/300000\tx\n"), None).await.unwrap(), Found::Nothing(None));
}

#[tokio::test]
async fn goes_on_after_the_last_whole_segment_with_what_its_tails_hold() {
    let wal = store().await;
    put_segments(&wal, 1, 3..=6).await;
    assert_eq!(place(&wal, &path(""), None).await, Some((1, 7, Some(7 * MIB))));
    let tail = put_tail(&wal, 1, 7, 5000).await;
    assert_eq!(place(&wal, &path(""), Some(5 * MIB)).await, Some((1, 7, Some(7 * MIB + 5000))));
    let leftover = put_tail(&wal, 1, 6, 100).await;
    let Found::Resume(point, divergence) = find(&wal, &path(""), None).await.unwrap() else { panic!() };
    assert_eq!((point.stored.tails, point.leftover, divergence), (vec![tail], vec![leftover], None));
}

#[tokio::test]
async fn a_hole_that_a_crash_left_is_where_to_go_on() {
    let wal = store().await;
    put_segments(&wal, 1, (3..=9).chain([11, 12])).await;
    assert_eq!(place(&wal, &path(""), None).await, Some((1, 10, Some(10 * MIB))));
    // A hole of long ago is a gap: nothing brings it back.
    put_segments(&wal, 1, 13..=30).await;
    assert_eq!(place(&wal, &path(""), None).await, Some((1, 31, Some(31 * MIB))));
    // Unless the slot says that it was never confirmed.
    assert_eq!(place(&wal, &path(""), Some(10 * MIB + 7)).await, Some((1, 10, Some(10 * MIB))));
}

#[tokio::test]
async fn the_first_segments_of_an_archive_can_be_the_hole() {
    let wal = store().await;
    put_tail(&wal, 1, 3, 100).await;
    put_segments(&wal, 1, [4, 5]).await;
    assert_eq!(place(&wal, &path(""), Some(3 * MIB + 40)).await, Some((1, 3, Some(3 * MIB + 100))));
    assert_eq!(place(&wal, &path(""), None).await, Some((1, 3, Some(3 * MIB + 100))));
    assert_eq!(place(&wal, &path(""), Some(2 * MIB + 40)).await, Some((1, 2, Some(2 * MIB))));
}

#[tokio::test]
async fn a_new_slot_beyond_the_end_does_not_hide_the_end() {
    let wal = store().await;
    put_segments(&wal, 1, 3..=6).await;
    assert_eq!(place(&wal, &path(""), Some(50 * MIB)).await, Some((1, 7, Some(7 * MIB))));
}

#[tokio::test]
async fn logs_are_crossed() {
    let wal = store().await;
    put_segments(&wal, 1, [4093, 4094, 4096]).await;
    assert_eq!(place(&wal, &path(""), None).await, Some((1, 4095, Some(4095 * MIB))));
}

#[tokio::test]
async fn the_old_timeline_is_finished_before_the_new_one() {
    let wal = store().await;
    put_segments(&wal, 1, 3..=6).await;
    let switched = path("1\t0/A80000\tx\n");
    assert_eq!(place(&wal, &switched, None).await, Some((1, 7, Some(7 * MIB))));
    put_segments(&wal, 1, 7..=9).await;
    // The segment of the switch point: as much of it as the old timeline has.
    assert_eq!(place(&wal, &switched, None).await, Some((1, 10, Some(10 * MIB))));
    put_tail(&wal, 2, 10, 600_000).await;
    assert_eq!(place(&wal, &switched, None).await, Some((2, 10, Some(10 * MIB + 600_000))));
    assert_eq!(place(&wal, &switched, Some(8 * MIB)).await, Some((2, 10, Some(10 * MIB + 600_000))));
}

#[tokio::test]
async fn wal_beyond_the_fork_stays_and_is_told() {
    let wal = store().await;
    put_segments(&wal, 1, 3..=20).await;
    let found = find(&wal, &path("1\t0/A80000\tx\n"), None).await.unwrap();
    let expected = at_switch(tli(2), Lsn::new(0xA8_0000), size());
    let divergence = Divergence { timeline: tli(1), from: Some(Lsn::new(0xA8_0000)) };
    assert_eq!(found, Found::Resume(expected, Some(divergence)));
}

#[tokio::test]
async fn a_branch_the_server_does_not_know_is_left() {
    let wal = store().await;
    put_segments(&wal, 1, 3..=10).await;
    put_segments(&wal, 2, 10..=15).await;
    let third = TimelinePath::new(tli(3), Some(&TimelineHistory::parse(tli(3), b"1\t0/880000\tx\n").unwrap()));
    let Found::Resume(point, divergence) = find(&wal, &third, None).await.unwrap() else { panic!() };
    assert_eq!((point.timeline, point.segment), (tli(3), SegmentNumber::new(8)));
    assert_eq!(divergence.unwrap().timeline, tli(2));
}

#[test]
fn a_position_is_on_one_timeline_of_the_path() {
    let path = path("1\t0/300000\tx\n2\t0/500000\ty\n");
    let at = |lsn: u64| path.timeline_at(Lsn::new(lsn)).unwrap().as_u32();
    assert_eq!([at(1), at(0x30_0000), at(0x4F_FFFF), at(0x50_0000)], [1, 2, 2, 3]);
}
