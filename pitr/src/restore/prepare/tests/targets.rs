//! Targets by time, position and transaction.

use super::*;

#[tokio::test]
async fn latest_is_the_last_record_of_the_tails() {
    let (archive, mut history) = protected().await;
    history.fill(2);
    let (xid, last) = history.commit(60);
    archive.put_wal(1, 0, &history.wal).await;
    let plan = reach(&archive, RecoveryTarget::Latest).await.unwrap();
    assert_eq!(bounds(&plan), last);
    assert_eq!(kept_and_left_out(&plan), (Some(xid), None));
    assert_eq!(plan.wal.len(), 1);
    assert_eq!((plan.wal[0].first_segment.as_str(), plan.wal[0].segments), ("000000010000000000000002", 3));
    assert!(plan.wal[0].ends_in_tails);
    assert_eq!(plan.warnings, []);
}

#[tokio::test]
async fn wal_that_ends_within_a_record_ends_before_it() {
    let (archive, mut history) = protected().await;
    let (_, last) = history.commit(60);
    let whole = history.wal.filler(20_000);
    let segment = size().segment_of(whole.start);
    let cut = usize::try_from(whole.start.distance_from(history.wal.start()).unwrap()).unwrap() + 9_000;
    archive.put_tail(1, segment, 0, &history.wal.bytes()[..cut]).await;
    assert_eq!(bounds(&reach(&archive, RecoveryTarget::Latest).await.unwrap()), last);
}

#[tokio::test]
async fn whole_last_segment_may_end_in_zeros() {
    let (archive, mut history) = protected().await;
    let (_, last) = history.commit(60);
    let (segment, content) = history.wal.segments().remove(0);
    archive.replace_segment(1, segment.as_u64(), &content).await;
    assert_eq!(bounds(&reach(&archive, RecoveryTarget::Latest).await.unwrap()), last);
}

#[tokio::test]
async fn time_beyond_the_last_commit_warns_unless_the_agent_was_there() {
    let archive = Archive::new().await;
    let (history, commits) = two_backups(&archive).await;
    let plan = reach(&archive, time(500)).await.unwrap();
    assert_eq!(bounds(&plan), commits[3].1);
    assert_eq!(plan.warnings, [PlanWarning::BeyondLastCommit { last: Some(at(40)) }]);

    archive.put_lease(&lease(1, history.wal.position().as_u64(), 600)).await;
    let plan = reach(&archive, time(500)).await.unwrap();
    assert_eq!((bounds(&plan), plan.warnings), (commits[3].1, vec![]));
}

#[tokio::test]
async fn future_is_refused() {
    let archive = Archive::new().await;
    let (history, _) = two_backups(&archive).await;
    let refusal = reach(&archive, time(86_401)).await.unwrap_err();
    assert!(matches!(refusal, PlanError::InTheFuture { .. }), "{refusal}");
    let end = history.wal.position();
    let refusal = reach(&archive, RecoveryTarget::Lsn { lsn: end.advance(1) }).await.unwrap_err();
    assert!(matches!(refusal, PlanError::BeyondEnd { end: known, .. } if known == end), "{refusal}");
    assert!(reach(&archive, RecoveryTarget::Lsn { lsn: end }).await.is_ok());
}

#[tokio::test]
async fn unknown_running_and_sub_transactions_are_refused() {
    let (archive, mut history) = protected().await;
    let running = crate::postgres::TransactionId::new(500);
    history.wal.append(crate::postgres::wal::ResourceManager::HEAP, 0, running, &[0; 8]);
    archive.put_wal(1, 0, &history.wal).await;
    let refusal = reach(&archive, RecoveryTarget::Xid { xid: 500 }).await.unwrap_err();
    assert!(matches!(refusal, PlanError::XidNotFound { seen: true, .. }), "{refusal}");
    let refusal = reach(&archive, RecoveryTarget::Xid { xid: 501 }).await.unwrap_err();
    assert!(matches!(refusal, PlanError::XidNotFound { seen: false, .. }), "{refusal}");
}

#[tokio::test]
async fn wide_transaction_id_is_taken_by_its_low_half() {
    let archive = Archive::new().await;
    let (_, commits) = two_backups(&archive).await;
    let plan = reach(&archive, RecoveryTarget::Xid { xid: (3 << 32) + u64::from(commits[3].0) }).await.unwrap();
    assert_eq!(bounds(&plan), commits[3].1);
}

#[tokio::test]
async fn exclusive_stops_before() {
    let (archive, mut history) = protected().await;
    let (_, kept) = history.commit(10);
    let (xid, _) = history.commit(20);
    archive.put_wal(1, 0, &history.wal).await;
    for target in [RecoveryTarget::Xid { xid: xid.into() }, time(20)] {
        let request = PlanRequest { exclusive: true, ..PlanRequest::new(target) };
        let plan = plan(&archive, &request).await.unwrap();
        assert_eq!(bounds(&plan), kept);
        assert_eq!(plan.target.first_left_out.unwrap().xid, xid);
    }
    let request = PlanRequest { exclusive: true, ..PlanRequest::new(RecoveryTarget::Latest) };
    assert_eq!(plan(&archive, &request).await.unwrap_err().class(), RefusalClass::Usage);
}
