//! Plans, from archives in memory.

mod choice;
mod holes;
mod markers;
mod targets;
mod timelines;

use super::testing::{Archive, History};
use super::*;
use crate::postgres::wal::RecordBounds;
use crate::postgres::wal::testing::SYSTEM_IDENTIFIER;
use crate::recovery::{
    MarkerRef, MarkerSide, PlanWarning, RecoveryTarget, RefusalClass, SeveralMarkers, TargetTimeline,
};
use crate::repository::catalog::testing::{MIB, at, lease, lsn, size, tli};
use crate::storage::fault::{Fault, FaultRule};
use crate::storage::{ErrorKind, Operation};

/// An archive with a backup, and what goes on behind it.
async fn protected() -> (Archive, History) {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    (archive, history)
}

async fn plan(archive: &Archive, request: &PlanRequest) -> Result<RestorePlan, PlanError> {
    match prepare(&archive.lineage, request, &archive.clock).await {
        Ok(plan) => {
            assert_sound(&plan);
            Ok(plan)
        }
        Err(PrepareError::Plan(refusal)) => Err(*refusal),
        Err(error) => panic!("the repository failed: {error:?}"),
    }
}

async fn reach(archive: &Archive, target: RecoveryTarget) -> Result<RestorePlan, PlanError> {
    plan(archive, &PlanRequest::new(target)).await
}

/// What holds for every plan.
fn assert_sound(plan: &RestorePlan) {
    let (first, last) = (plan.wal.first().unwrap(), plan.wal.last().unwrap());
    assert_eq!((first.from_lsn, last.to_lsn), (plan.backup.start_lsn, plan.target.end_lsn));
    assert!(plan.wal.windows(2).all(|runs| runs[0].to_lsn == runs[1].from_lsn), "{:?}", plan.wal);
    assert!(plan.target.end_lsn >= plan.backup.stop_lsn);
    assert_eq!(last.timeline, plan.target.timeline);
}

fn marker(side: MarkerSide, name: &str) -> RecoveryTarget {
    RecoveryTarget::Marker { side, marker: name.parse::<MarkerRef>().unwrap() }
}

fn time(second: i64) -> RecoveryTarget {
    RecoveryTarget::Time { time: at(second) }
}

fn bounds(plan: &RestorePlan) -> RecordBounds {
    RecordBounds { start: plan.target.lsn, end: plan.target.end_lsn }
}

fn kept_and_left_out(plan: &RestorePlan) -> (Option<u32>, Option<u32>) {
    let xid = |transaction: &Option<crate::recovery::Transaction>| transaction.as_ref().map(|t| t.xid);
    (xid(&plan.target.last_kept), xid(&plan.target.first_left_out))
}

/// Two backups, with commits before, between and behind; returns the commits.
async fn two_backups(archive: &Archive) -> (History, Vec<(u32, RecordBounds)>) {
    let mut history = History::new();
    let mut commits = vec![history.commit(-60)];
    archive.put_backup(&history.backup(0)).await;
    commits.push(history.commit(10));
    history.fill(3);
    commits.push(history.commit(20));
    archive.put_backup(&history.backup(30)).await;
    commits.push(history.commit(40));
    archive.put_wal(1, 0, &history.wal).await;
    (history, commits)
}
