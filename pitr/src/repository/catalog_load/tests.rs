use super::*;
use crate::postgres::SegmentNumber;
use crate::repository::backup::Intent;
use crate::repository::catalog::testing::{MIB, at, lease, lsn, size, tli};
use crate::restore::prepare::testing::{Archive, History};
use crate::storage::fault::{Fault, FaultRule};
use crate::storage::{ErrorKind, Operation};

/// A backup, three whole segments and tails, a finished marker, a second timeline, a lease.
async fn archive() -> (Archive, History) {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    let marker = history.wal.restore_point("release-42", at(5));
    let finish = history.wal.restore_point("release-42 finished", at(6));
    history.fill(3);
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", marker, at(5)).await;
    archive.finish_marker(1, "release-42", marker, finish).await;
    archive.put_history(2, &[(1, history.wal.position())]).await;
    archive.put_lease(&lease(1, history.wal.position().as_u64(), 60)).await;
    (archive, history)
}

#[tokio::test]
async fn everything_is_in_the_catalog() {
    let (archive, history) = archive().await;
    let catalog = load(&archive.lineage).await.unwrap();
    assert_eq!(catalog.backups.len(), 1);
    assert_eq!((catalog.incomplete.len(), catalog.damaged.as_slice()), (0, &[][..]));
    assert_eq!(catalog.markers.len(), 1);
    assert_eq!(catalog.markers[0].finish.as_ref().unwrap().time, at(0));
    assert_eq!(catalog.timelines.keys().copied().collect::<Vec<_>>(), [tli(1), tli(2)]);
    assert_eq!(catalog.path(tli(2)).unwrap().steps()[0].end, Some(history.wal.position()));
    let windows = catalog.windows();
    assert_eq!(windows.len(), 1);
    assert_eq!((windows[0].to.lsn, windows[0].to.time), (history.wal.position(), Some(at(60))));
    assert_eq!(catalog.gaps(), []);
    assert_eq!(catalog.listed_from, Lsn::INVALID);
}

#[tokio::test]
async fn backup_without_a_manifest_is_incomplete_and_a_damaged_one_is_told() {
    let (archive, mut history) = archive().await;
    let layout = archive.lineage.layout();
    let intent = Intent {
        id: BackupId::new(at(100), 1),
        parent: None,
        resumes: None,
        start_time: at(100),
        host: "db1".to_owned(),
    };
    archive.lineage.create(&layout.intent(&intent.id), &intent).await.unwrap();
    let id = BackupId::new(at(200), 1);
    archive.lineage.store().create_bytes(&layout.manifest(&id), "{\"format\":1}\n").await.unwrap();
    let mut other = history.backup(300);
    let place = BackupId::new(at(301), 1);
    archive.lineage.create(&layout.manifest(&place), &other).await.unwrap();
    (other.stop_lsn, other.id) = (other.start_lsn, BackupId::new(at(302), 1));
    archive.put_backup(&other).await;

    let catalog = load(&archive.lineage).await.unwrap();
    assert_eq!(catalog.backups.len(), 1, "damage hides no other backup");
    assert_eq!(catalog.incomplete, [intent.id]);
    let damaged: Vec<_> = catalog.damaged.iter().map(|object| object.reason.as_str()).collect();
    assert_eq!(damaged.len(), 3, "{damaged:?}");
    assert_eq!(damaged[1..], ["it is the manifest of another backup", "it ends before it begins"]);
}

#[tokio::test]
async fn damaged_lease_marker_and_history_are_told() {
    let (archive, _) = archive().await;
    archive.faults.add(FaultRule::new(Fault::FlippedBit).on(Operation::Get).keys("*/lease"));
    archive.faults.add(FaultRule::new(Fault::FlippedBit).on(Operation::Get).keys("*/markers/*"));
    archive.faults.add(FaultRule::new(Fault::FlippedBit).on(Operation::Get).keys("*.history.zst"));
    let catalog = load(&archive.lineage).await.unwrap();
    assert_eq!((catalog.lease.clone(), catalog.markers.len()), (None, 0));
    assert_eq!(catalog.damaged.len(), 4, "{:?}", catalog.damaged);
    assert!(catalog.path(tli(2)).is_err());
    assert_eq!(catalog.backups.len(), 1);
}

#[tokio::test]
async fn whatever_the_store_does_not_answer_fails_the_whole() {
    let (archive, _) = archive().await;
    let complete = load(&archive.lineage).await.unwrap();
    for fault in [ErrorKind::Unavailable, ErrorKind::Denied, ErrorKind::Transient] {
        for operation in [Operation::Get, Operation::List] {
            for nth in 1..20 {
                archive.faults.heal();
                let before = archive.faults.struck().len();
                archive.faults.add(FaultRule::new(Fault::ErrorBefore(fault)).on(operation).nth(nth));
                match load(&archive.lineage).await {
                    Ok(catalog) => {
                        assert_eq!(archive.faults.struck().len(), before, "{operation} {nth} was swallowed");
                        assert_eq!(catalog, complete);
                    }
                    Err(error) => assert!(!error.is_not_found(), "{error}"),
                }
            }
        }
    }
    assert!(archive.faults.struck().len() > 20);
}

#[tokio::test]
async fn markers_can_be_read_by_name_or_not_at_all() {
    let (archive, _) = archive().await;
    for (scope, expected) in [
        (MarkerScope::Named("release-42".to_owned()), 1),
        (MarkerScope::Named("other".to_owned()), 0),
        (MarkerScope::None, 0),
    ] {
        assert_eq!(load_without_wal(&archive.lineage, &scope).await.unwrap().markers.len(), expected);
    }
}

#[tokio::test]
async fn old_logs_are_not_listed() {
    let archive = Archive::new().await;
    // With segments of 1 MiB, 4096 make a log.
    for segment in [10, 4_097, 8_195, 12_289] {
        archive.put_tail(1, SegmentNumber::new(segment), 0, &[0; 64]).await;
    }
    let mut catalog = load_without_wal(&archive.lineage, &MarkerScope::None).await.unwrap();
    let before = archive.faults.calls_of(Operation::List);
    load_wal(&archive.lineage, &mut catalog, lsn(8_195 * MIB)).await.unwrap();
    let wal = &catalog.timelines[&tli(1)].wal;
    assert_eq!(wal.next_covered(SegmentNumber::new(0)), Some(SegmentNumber::new(8_195)));
    assert_eq!(archive.faults.calls_of(Operation::List) - before, 3, "the logs, and two of them");
    load_wal(&archive.lineage, &mut catalog, Lsn::INVALID).await.unwrap();
    assert_eq!(catalog.timelines[&tli(1)].wal.next_covered(SegmentNumber::new(0)), Some(SegmentNumber::new(10)));
}

#[tokio::test]
async fn end_that_moved_while_it_was_listed_is_listed_again() {
    let archive = Archive::new().await;
    archive.put_tail(1, SegmentNumber::new(2), 0, &[0; 64]).await;
    let hidden = Fault::LateListing { listings: 2 };
    archive.faults.add(FaultRule::new(hidden).on(Operation::Put).keys("*/000000010000000000000003.zst"));
    archive.replace_segment(1, 3, &vec![0; size().as_usize()]).await;
    assert_eq!(archive.faults.struck().len(), 1);
    archive.put_lease(&lease(1, 4 * MIB, 60)).await;
    let catalog = load(&archive.lineage).await.unwrap();
    assert!(catalog.timelines[&tli(1)].wal.is_whole(SegmentNumber::new(3)));
}
