//! Targets by a marker.

use super::*;

#[tokio::test]
async fn before_a_marker_leaves_out_the_commit_right_behind_it() {
    let (archive, mut history) = protected().await;
    let (before, _) = history.commit(10);
    let record = history.wal.restore_point("release-42", at(11));
    let (after, _) = history.commit(12);
    let finished = history.wal.restore_point("release-42 finished", at(20));
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", record, at(11)).await;

    let plan = reach(&archive, marker(MarkerSide::Before, "release-42")).await.unwrap();
    assert_eq!(bounds(&plan), record);
    assert_eq!(kept_and_left_out(&plan), (Some(before), Some(after)));

    let refusal = reach(&archive, marker(MarkerSide::After, "release-42")).await.unwrap_err();
    assert_eq!(refusal, PlanError::MarkerNotFinished { name: "release-42".to_owned() });
    archive.finish_marker(1, "release-42", record, finished).await;
    let plan = reach(&archive, marker(MarkerSide::After, "release-42")).await.unwrap();
    assert_eq!(bounds(&plan), finished);
    assert_eq!(kept_and_left_out(&plan), (Some(after), None));
}

#[tokio::test]
async fn marker_may_be_the_last_record_and_be_named_by_either_position() {
    let (archive, mut history) = protected().await;
    let record = history.wal.restore_point("release-42", at(11));
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", record, at(11)).await;
    for position in [record.start, record.end] {
        let plan = reach(&archive, marker(MarkerSide::Before, &format!("release-42@{position}"))).await.unwrap();
        assert_eq!(bounds(&plan), record);
    }
}

#[tokio::test]
async fn several_markers_of_one_name_need_a_choice() {
    let (archive, mut history) = protected().await;
    let first = history.wal.restore_point("release-42", at(11));
    let second = history.wal.restore_point("release-42", at(12));
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", first, at(11)).await;
    archive.put_marker(1, "release-42", second, at(12)).await;

    let mut request = PlanRequest::new(marker(MarkerSide::Before, "release-42"));
    let refusal = plan(&archive, &request).await.unwrap_err();
    assert!(matches!(&refusal, PlanError::AmbiguousMarker { markers, .. } if markers.len() == 2), "{refusal}");
    assert_eq!(refusal.class(), RefusalClass::Usage);
    assert!(refusal.hint().unwrap().contains(&format!("release-42@{}", first.start)));
    request.several_markers = SeveralMarkers::TakeNewest;
    let newest = plan(&archive, &request).await.unwrap();
    assert_eq!(bounds(&newest), second);
    assert_eq!(newest.warnings, [PlanWarning::NewestOfSeveralMarkers { count: 2 }]);
    let named = reach(&archive, marker(MarkerSide::Before, &format!("release-42@{}", first.start))).await.unwrap();
    assert_eq!(bounds(&named), first);
}

#[tokio::test]
async fn unknown_marker_suggests_a_similar_one() {
    let (archive, mut history) = protected().await;
    let record = history.wal.restore_point("release-42", at(11));
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", record, at(11)).await;
    let refusal = reach(&archive, marker(MarkerSide::Before, "relaese-42")).await.unwrap_err();
    assert_eq!(refusal.hint().unwrap(), "did you mean \"release-42\"? \"pitr markers\" lists all");
    assert_eq!(refusal.class(), RefusalClass::NotReachable);
}

#[tokio::test]
async fn position_of_a_marker_that_holds_something_else_is_damage() {
    let (archive, mut history) = protected().await;
    let (_, commit) = history.commit(10);
    archive.put_wal(1, 0, &history.wal).await;
    archive.put_marker(1, "release-42", commit, at(11)).await;
    let refusal = reach(&archive, marker(MarkerSide::Before, "release-42")).await.unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::Corruption);
}
