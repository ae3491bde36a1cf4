//! Targets across timelines.

use super::*;

/// Timeline 1 up to `forks.0`, then 2 up to `forks.1`, then 3; a backup on timeline 1; one commit on each.
struct Branches {
    commits: Vec<(u32, RecordBounds)>,
    forks: (Lsn, Lsn),
}

async fn three_timelines(archive: &Archive) -> Branches {
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    history.fill(2);
    let mut commits = vec![history.commit(10)];
    let mut dead = History::new();
    dead.wal = history.wal.clone();
    let first_fork = history.switch_timeline(2);
    // What timeline 1 went on with after the others left it.
    commits.push({
        let bounds = dead.wal.commit(crate::postgres::TransactionId::new(900), at(15));
        (900, bounds)
    });
    dead.fill(2);
    archive.put_wal(1, 0, &dead.wal).await;

    commits.push(history.commit(20));
    history.fill(2);
    archive.put_wal(2, size().segment_of(first_fork).as_u64(), &history.wal).await;
    archive.put_history(2, &[(1, first_fork)]).await;
    let second_fork = history.switch_timeline(3);
    commits.push(history.commit(30));
    history.fill(1);
    archive.put_wal(3, size().segment_of(second_fork).as_u64(), &history.wal).await;
    archive.put_history(3, &[(1, first_fork), (2, second_fork)]).await;
    Branches { commits, forks: (first_fork, second_fork) }
}

#[tokio::test]
async fn plan_follows_the_timelines() {
    let archive = Archive::new().await;
    let branches = three_timelines(&archive).await;
    let plan = reach(&archive, time(30)).await.unwrap();
    assert_eq!(bounds(&plan), branches.commits[3].1);
    assert_eq!(plan.target.timeline, tli(3));
    let runs: Vec<u32> = plan.wal.iter().map(|run| run.timeline.as_u32()).collect();
    assert_eq!(runs, [1, 2, 3]);
    let shared = size().segment_of(branches.forks.0).name(tli(2), size()).to_string();
    assert_eq!(plan.wal[1].first_segment, shared, "the segment in which timeline 2 begins is read from its own file");
}

#[tokio::test]
async fn target_before_a_switch_is_on_the_timeline_that_wrote_it() {
    let archive = Archive::new().await;
    let branches = three_timelines(&archive).await;
    let first = reach(&archive, time(10)).await.unwrap();
    assert_eq!((first.target.timeline, bounds(&first)), (tli(1), branches.commits[0].1));
    assert_eq!(
        first.target.first_left_out.unwrap().xid,
        branches.commits[2].0,
        "the live branch goes on with this one"
    );
    let second = reach(&archive, RecoveryTarget::Lsn { lsn: branches.forks.1 }).await.unwrap();
    assert_eq!(second.target.timeline, tli(2));
}

#[tokio::test]
async fn dead_branch_is_reached_only_by_its_number() {
    let archive = Archive::new().await;
    let branches = three_timelines(&archive).await;
    let dead = branches.commits[1];
    let refusal = reach(&archive, RecoveryTarget::Xid { xid: dead.0.into() }).await.unwrap_err();
    assert!(matches!(refusal, PlanError::XidNotFound { .. }), "{refusal}");
    let mut request = PlanRequest::new(RecoveryTarget::Xid { xid: dead.0.into() });
    request.timeline = TargetTimeline::Id(tli(1));
    let on_branch = plan(&archive, &request).await.unwrap();
    assert_eq!((on_branch.target.timeline, bounds(&on_branch)), (tli(1), dead.1));
    request.timeline = TargetTimeline::Id(tli(9));
    assert!(matches!(plan(&archive, &request).await, Err(PlanError::UnknownTimeline { .. })));
    request = PlanRequest::new(RecoveryTarget::Latest);
    request.timeline = TargetTimeline::Current;
    assert_eq!(plan(&archive, &request).await.unwrap().target.timeline, tli(1), "the backup is on timeline 1");
}

#[tokio::test]
async fn marker_of_a_dead_branch_says_where_it_is() {
    let archive = Archive::new().await;
    let branches = three_timelines(&archive).await;
    let at_dead = branches.commits[1].1;
    archive.put_marker(1, "release-42", at_dead, at(15)).await;
    let refusal = reach(&archive, marker(MarkerSide::Before, "release-42")).await.unwrap_err();
    assert!(matches!(refusal, PlanError::MarkerElsewhere { .. }), "{refusal}");
    assert!(refusal.hint().unwrap().contains("--timeline 1"), "{:?}", refusal.hint());
}

#[tokio::test]
async fn backup_of_a_dead_branch_is_refused_with_the_reason() {
    let archive = Archive::new().await;
    let branches = three_timelines(&archive).await;
    let mut dead = crate::repository::catalog::testing::backup(
        1,
        branches.forks.0.as_u64() - 100,
        branches.commits[1].1.end.as_u64(),
        16,
    );
    dead.system_identifier = SYSTEM_IDENTIFIER;
    archive.put_backup(&dead).await;
    let mut request = PlanRequest::new(RecoveryTarget::Latest);
    request.backup = Some(dead.id.clone());
    let refusal = plan(&archive, &request).await.unwrap_err();
    assert!(refusal.to_string().contains("branched off before"), "{refusal}");
    assert_eq!(reach(&archive, RecoveryTarget::Latest).await.unwrap().backup.stop_time, at(0));
}

#[tokio::test]
async fn timeline_without_its_history_is_refused() {
    let archive = Archive::new().await;
    three_timelines(&archive).await;
    archive.lineage.store().delete(&[archive.lineage.layout().history(tli(3))]).await.unwrap();
    let refusal = reach(&archive, RecoveryTarget::Latest).await.unwrap_err();
    assert_eq!(refusal, PlanError::NoHistory { timeline: tli(3) });
    let mut request = PlanRequest::new(RecoveryTarget::Latest);
    request.timeline = TargetTimeline::Id(tli(2));
    assert!(plan(&archive, &request).await.is_ok());
}

#[tokio::test]
async fn timeline_that_has_just_begun_does_not_hide_its_parent() {
    let (archive, mut history) = protected().await;
    let (_, last) = history.commit(10);
    let record = history.wal.restore_point("release-42", at(11));
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", record, at(11)).await;
    archive.put_history(2, &[(1, history.wal.position())]).await;
    assert_eq!(bounds(&reach(&archive, RecoveryTarget::Latest).await.unwrap()), record);
    let mut request = PlanRequest::new(marker(MarkerSide::Before, "release-42"));
    request.timeline = TargetTimeline::Id(tli(2));
    let plan = plan(&archive, &request).await.unwrap();
    assert_eq!((plan.target.timeline, bounds(&plan)), (tli(1), record));
    assert!(plan.target.lsn > last.start);
}
