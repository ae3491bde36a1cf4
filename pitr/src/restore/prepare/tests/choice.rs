//! Which backup a plan begins with.

use super::*;

#[tokio::test]
async fn newest_backup_that_serves_is_taken() {
    let archive = Archive::new().await;
    let (_, commits) = two_backups(&archive).await;
    let backup_of = async |target| reach(&archive, target).await.unwrap().backup.stop_time;
    assert_eq!(backup_of(RecoveryTarget::Latest).await, at(30));
    assert_eq!(backup_of(RecoveryTarget::Immediate).await, at(30));
    assert_eq!(backup_of(time(35)).await, at(30));
    assert_eq!(backup_of(time(25)).await, at(0));
    assert_eq!(backup_of(RecoveryTarget::Lsn { lsn: commits[3].1.end }).await, at(30));
    assert_eq!(backup_of(RecoveryTarget::Lsn { lsn: commits[2].1.end }).await, at(0));
    assert_eq!(backup_of(RecoveryTarget::Xid { xid: commits[3].0.into() }).await, at(30));
    assert_eq!(backup_of(RecoveryTarget::Xid { xid: commits[1].0.into() }).await, at(0));
}

#[tokio::test]
async fn backup_can_be_named() {
    let archive = Archive::new().await;
    let (_, commits) = two_backups(&archive).await;
    let mut request = PlanRequest::new(RecoveryTarget::Latest);
    request.backup = Some(crate::repository::backup::BackupId::new(at(0), 1));
    let older = plan(&archive, &request).await.unwrap();
    assert_eq!((older.backup.stop_time, bounds(&older)), (at(0), commits[3].1));
    request.backup = Some(crate::repository::backup::BackupId::new(at(30), 1));
    request.target = RecoveryTarget::Lsn { lsn: commits[1].1.end };
    let refusal = plan(&archive, &request).await.unwrap_err();
    assert!(matches!(refusal, PlanError::BeforeNamedBackup { .. }), "{refusal}");
    request.backup = Some(crate::repository::backup::BackupId::new(at(31), 1));
    let refusal = plan(&archive, &request).await.unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::Usage);
}

#[tokio::test]
async fn immediate_is_the_end_of_the_newest_backup() {
    let archive = Archive::new().await;
    let (_, commits) = two_backups(&archive).await;
    let plan = reach(&archive, RecoveryTarget::Immediate).await.unwrap();
    assert_eq!((plan.target.lsn, plan.target.end_lsn), (plan.backup.end_record_lsn, plan.backup.stop_lsn));
    assert_eq!(plan.target.first_left_out.unwrap().xid, commits[3].0);
}

#[tokio::test]
async fn transaction_that_ended_during_the_newest_backup_needs_the_one_before() {
    let archive = Archive::new().await;
    two_backups(&archive).await;
    // History::backup commits one transaction between start and end.
    let plan = reach(&archive, RecoveryTarget::Xid { xid: 104 }).await.unwrap();
    assert_eq!(plan.backup.stop_time, at(0));
    assert_eq!(plan.target.last_kept.unwrap().xid, 104);
}

#[tokio::test]
async fn time_right_at_the_end_of_a_backup_is_never_below_it() {
    let (archive, mut history) = protected().await;
    history.commit(10);
    archive.put_wal(1, 0, &history.wal).await;
    let plan = reach(&archive, time(5)).await.unwrap();
    assert_eq!(plan.target.end_lsn, plan.backup.stop_lsn);
    assert_eq!(kept_and_left_out(&plan), (Some(100), Some(101)));
}

#[tokio::test]
async fn time_before_the_first_backup_names_the_earliest_moment() {
    let archive = Archive::new().await;
    two_backups(&archive).await;
    let refusal = reach(&archive, time(-30)).await.unwrap_err();
    assert!(matches!(refusal, PlanError::BeforeFirstBackup { .. }), "{refusal}");
    assert!(refusal.hint().unwrap().contains("2026-11-22T12:00:00.000000Z"), "{:?}", refusal.hint());
    let refusal = reach(&archive, RecoveryTarget::Lsn { lsn: lsn(2 * MIB + 100) }).await.unwrap_err();
    assert!(matches!(refusal, PlanError::BeforeFirstBackup { .. }), "{refusal}");
    let refusal = reach(&archive, RecoveryTarget::Xid { xid: 100 }).await.unwrap_err();
    assert!(matches!(refusal, PlanError::XidNotFound { seen: false, .. }), "{refusal}");
}

#[tokio::test]
async fn clock_that_was_set_back_between_backups_is_told() {
    let (archive, mut history) = protected().await;
    let (_, kept) = history.commit(1_000);
    history.commit(5_000);
    archive.put_backup(&history.backup(5_001)).await;
    let set_back = history.backup(100);
    archive.put_backup(&set_back).await;
    history.commit(1_200);
    archive.put_wal(1, 0, &history.wal).await;
    let plan = reach(&archive, time(1_500)).await.unwrap();
    assert_eq!((bounds(&plan), plan.backup.stop_time), (kept, at(0)), "the first of the moments");
    assert!(plan.warnings.contains(&PlanWarning::TimesNotMonotonic { lsn: set_back.stop_lsn }), "{:?}", plan.warnings);
}

#[tokio::test]
async fn standby_backup_ends_with_any_record_or_within_one() {
    for within in [0, 8] {
        let archive = Archive::new().await;
        let mut history = History::new();
        let first = history.wal.filler(100);
        let (_, last) = history.commit(-5);
        let stop = last.end.as_u64() + within;
        let mut manifest = crate::repository::catalog::testing::backup(1, first.start.as_u64(), stop, 0);
        manifest.system_identifier = SYSTEM_IDENTIFIER;
        manifest.source = crate::repository::backup::BackupSource::Standby;
        archive.put_backup(&manifest).await;
        let next = history.wal.filler(100);
        history.commit(10);
        archive.put_wal(1, 0, &history.wal).await;
        let expected = if within == 0 { last } else { next };
        let plan = reach(&archive, RecoveryTarget::Immediate).await.unwrap();
        assert_eq!(bounds(&plan), expected, "the server is consistent once it replayed all of the backup");
        let position = reach(&archive, RecoveryTarget::Lsn { lsn: lsn(stop) }).await;
        assert_eq!(position.is_ok(), within == 0);
    }
}
