//! Missing and damaged objects.

use super::*;

#[tokio::test]
async fn missing_segment_refuses_what_lies_behind_it() {
    let (archive, mut history) = protected().await;
    let (_, before) = history.commit(10);
    history.fill(3);
    let (behind_xid, behind) = history.commit(20);
    archive.put_wal(1, 0, &history.wal).await;
    archive.delete_segment(1, 3).await;

    let xid = RecoveryTarget::Xid { xid: behind_xid.into() };
    for target in [RecoveryTarget::Latest, time(15), time(25), RecoveryTarget::Lsn { lsn: behind.end }] {
        let refusal = reach(&archive, target).await.unwrap_err();
        let PlanError::Gap { missing, nearest, .. } = &refusal else { panic!("{refusal}") };
        assert_eq!(missing.segment.to_string(), "000000010000000000000003");
        assert_eq!((missing.from, missing.to), (lsn(3 * MIB), lsn(4 * MIB)));
        assert_eq!(nearest.before.unwrap().lsn, lsn(3 * MIB));
    }
    let refusal = reach(&archive, xid).await.unwrap_err();
    assert!(refusal.hint().unwrap().contains("0/300000"), "{:?}", refusal.hint());
    let plan = reach(&archive, RecoveryTarget::Lsn { lsn: before.end }).await.unwrap();
    assert_eq!(bounds(&plan), before);
}

#[tokio::test]
async fn backup_behind_a_gap_serves_again() {
    let (archive, mut history) = protected().await;
    history.commit(10);
    history.fill(2);
    let second = history.backup(30);
    archive.put_backup(&second).await;
    let (_, last) = history.commit(40);
    archive.put_wal(1, 0, &history.wal).await;
    archive.delete_segment(1, 3).await;
    assert_eq!(bounds(&reach(&archive, RecoveryTarget::Latest).await.unwrap()), last);
    let refusal = reach(&archive, time(20)).await.unwrap_err();
    let PlanError::Gap { nearest, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!(nearest.after.unwrap().time, Some(at(30)));
    assert_eq!(refusal.class(), RefusalClass::NotReachable);
}

#[tokio::test]
async fn sealed_wal_that_is_gone_refuses_latest() {
    let archive = Archive::new().await;
    let (history, commits) = two_backups(&archive).await;
    archive.put_lease(&lease(1, history.wal.position().advance(4_000).as_u64(), 600)).await;
    let refusal = reach(&archive, RecoveryTarget::Latest).await.unwrap_err();
    assert!(matches!(refusal, PlanError::Gap { .. }), "{refusal}");
    assert!(reach(&archive, RecoveryTarget::Lsn { lsn: commits[3].1.end }).await.is_ok());
}

#[tokio::test]
async fn damaged_wal_before_the_target_refuses_and_behind_it_does_not() {
    let (archive, mut history) = protected().await;
    let (_, before) = history.commit(10);
    history.fill(3);
    history.commit(20);
    archive.put_wal(1, 0, &history.wal).await;
    let mut damaged = history.wal.segments()[1].1.clone();
    damaged[300_000] ^= 1;
    archive.replace_segment(1, 3, &damaged).await;

    let refusal = reach(&archive, RecoveryTarget::Latest).await.unwrap_err();
    let PlanError::Wal { segment, last_good, .. } = &refusal else { panic!("{refusal}") };
    assert_eq!(segment.to_string(), "000000010000000000000003");
    assert!(last_good.unwrap().lsn > before.end);
    assert_eq!(refusal.class(), RefusalClass::Corruption);
    let plan = reach(&archive, RecoveryTarget::Lsn { lsn: before.end }).await.unwrap();
    assert_eq!((bounds(&plan), plan.target.first_left_out), (before, None));
}

#[tokio::test]
async fn damaged_object_is_named() {
    let archive = Archive::new().await;
    let (_, _) = two_backups(&archive).await;
    archive.faults.add(FaultRule::new(Fault::FlippedBit).on(Operation::Get).keys("*000000010000000000000005*"));
    let error = prepare(&archive.lineage, &PlanRequest::new(RecoveryTarget::Latest), &archive.clock).await.unwrap_err();
    let PrepareError::Repository(error) = error else { panic!("{error}") };
    assert!(error.is_corruption() && error.to_string().contains("000000010000000000000005"), "{error}");
    assert!(!archive.faults.struck().is_empty());
}

#[tokio::test]
async fn store_that_does_not_answer_is_no_refusal() {
    let archive = Archive::new().await;
    two_backups(&archive).await;
    for operation in [Operation::Get, Operation::List] {
        for nth in 1..6 {
            archive.faults.heal();
            archive.faults.add(FaultRule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).on(operation).from_nth(nth));
            let planned = prepare(&archive.lineage, &PlanRequest::new(time(35)), &archive.clock).await;
            let Err(PrepareError::Repository(error)) = planned else { panic!("{operation} {nth}: {planned:?}") };
            assert!(!error.is_not_found() && !error.is_corruption(), "{error}");
        }
    }
}

#[tokio::test]
async fn corrupt_manifest_hides_no_other_backup() {
    let archive = Archive::new().await;
    let (_, commits) = two_backups(&archive).await;
    archive
        .faults
        .add(FaultRule::new(Fault::FlippedBit).on(Operation::Get).keys("*/backups/20261122T120030Z/manifest.json"));
    let plan = reach(&archive, RecoveryTarget::Latest).await.unwrap();
    assert_eq!((plan.backup.stop_time, bounds(&plan)), (at(0), commits[3].1));
}

#[tokio::test]
async fn empty_repository_has_no_backup() {
    let archive = Archive::new().await;
    let refusal = reach(&archive, RecoveryTarget::Latest).await.unwrap_err();
    assert_eq!(refusal, PlanError::NoBackup { incomplete: 0, damaged: 0 });
}

#[tokio::test]
async fn manifest_that_names_another_end_is_damage() {
    let archive = Archive::new().await;
    let mut history = History::new();
    let mut manifest = history.backup(0);
    manifest.end_record_lsn = manifest.start_lsn;
    archive.put_backup(&manifest).await;
    history.commit(10);
    archive.put_wal(1, 0, &history.wal).await;
    let refusal = reach(&archive, RecoveryTarget::Latest).await.unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::Corruption);
}
