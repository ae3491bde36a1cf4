use super::*;
use crate::postgres::TransactionId;
use crate::recovery::TransactionEnd;
use crate::repository::catalog::testing::{MIB, at, lsn, size, tli};
use crate::repository::catalog_load;
use crate::restore::prepare::testing::{Archive, History};

async fn ends(archive: &Archive) -> Vec<(u32, Option<u32>)> {
    let catalog = catalog_load::load(&archive.lineage).await.unwrap();
    let ends = window_ends(&archive.lineage, &catalog).await.unwrap();
    ends.into_iter().map(|end| (end.window.timeline.as_u32(), end.last.map(|last| last.xid))).collect()
}

#[tokio::test]
async fn the_last_transaction_of_the_open_segment_ends_the_window() {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    history.fill(3);
    history.commit(10);
    let xid = history.begin();
    history.wal.abort(TransactionId::new(xid), at(20));
    archive.put_wal(1, 0, &history.wal).await;
    assert_eq!(ends(&archive).await, [(1, Some(xid))]);
    archive.summarize().await;
    let catalog = catalog_load::load(&archive.lineage).await.unwrap();
    let last = window_ends(&archive.lineage, &catalog).await.unwrap().remove(0).last.unwrap();
    assert_eq!((last.xid, last.end, last.time), (xid, TransactionEnd::Abort, at(20)));
}

#[tokio::test]
async fn idle_segments_are_looked_through_by_their_summaries() {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    let (xid, _) = history.commit(10);
    history.fill(30);
    archive.put_wal(1, 0, &history.wal).await;
    archive.summarize().await;
    assert_eq!(ends(&archive).await, [(1, None)], "so many segments are not looked at one by one");
    let keys = archive.summaries().await;
    assert!(archive.fold(&keys[1..]).await);
    assert_eq!(ends(&archive).await, [(1, Some(xid))], "in a fold they are one");
}

#[tokio::test]
async fn windows_that_end_at_a_hole_and_old_timelines_have_a_last_transaction_too() {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    let (before_hole, _) = history.commit(10);
    history.fill(3);
    archive.put_backup(&history.backup(30)).await;
    let (on_both, _) = history.commit(40);
    let mut dead = history.clone();
    let fork = history.switch_timeline(2);
    let (dead_xid, _) = dead.commit(50);
    dead.commit(51);
    archive.put_wal(1, 0, &dead.wal).await;
    archive.put_history(2, &[(1, fork)]).await;
    history.fill(1);
    archive.put_wal(2, size().segment_of(fork).as_u64(), &history.wal).await;
    archive.delete_segment(1, 3).await;
    archive.summarize().await;
    let found = ends(&archive).await;
    assert_eq!(found, [(1, Some(before_hole)), (1, Some(dead_xid + 1)), (2, Some(on_both))]);
}

#[tokio::test]
async fn changes_of_the_schema_are_found_with_and_without_summaries() {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    let (_, old) = history.drop_table(10, 16_400);
    history.fill(2);
    history.commit(20);
    let (xid, record) = history.drop_table(4_000_000, 16_401);
    history.fill(1);
    let (_, newest) = history.drop_table(4_000_010, 16_402);
    archive.put_wal(1, 0, &history.wal).await;
    for _ in 0..2 {
        let catalog = catalog_load::load(&archive.lineage).await.unwrap();
        let recent = schema_changes(&archive.lineage, &catalog, tli(1), at(3_999_000)).await.unwrap();
        let found: Vec<_> = recent.moments.iter().map(|moment| (moment.lsn, moment.end_lsn)).collect();
        assert_eq!(found, [(record.start, record.end), (newest.start, newest.end)]);
        assert_eq!(recent.moments[0].change.xid.as_u32(), xid);
        assert_eq!(recent.unknown, []);
        let all = schema_changes(&archive.lineage, &catalog, tli(1), at(0)).await.unwrap();
        assert_eq!(all.moments.first().map(|moment| moment.lsn), Some(old.start));
        archive.summarize().await;
    }
    assert!(archive.summaries().await.iter().any(|key| key.from == lsn(3 * MIB)));
}
