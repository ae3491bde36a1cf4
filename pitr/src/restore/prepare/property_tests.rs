//! Random archives with holes, against a model that knows every record.

use proptest::prelude::*;

use super::testing::{Archive, History};
use super::*;
use crate::postgres::wal::RecordBounds;
use crate::recovery::{MarkerRef, MarkerSide, RecoveryTarget};
use crate::repository::backup::BackupManifest;
use crate::repository::catalog::testing::{at, size};
use crate::restore::wal_feed::{FetchOutcome, WalFeed};

#[derive(Clone, Copy, Debug)]
enum Step {
    Commit,
    Fill,
    Backup,
    Marker,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => Just(Step::Commit), 3 => Just(Step::Fill), 1 => Just(Step::Backup), 1 => Just(Step::Marker)]
}

#[derive(Default)]
struct Model {
    backups: Vec<BackupManifest>,
    /// Transaction, second, record.
    commits: Vec<(u32, i64, RecordBounds)>,
    markers: Vec<(String, RecordBounds)>,
    missing: Vec<u64>,
}

impl Model {
    /// Some backup ends before the record, and every segment from its start on is there.
    fn reachable(&self, record: RecordBounds) -> bool {
        self.backups.iter().any(|backup| {
            let segments = size().segment_of(backup.start_lsn).as_u64()..=size().segment_before(record.end).as_u64();
            backup.stop_lsn <= record.end && !self.missing.iter().any(|missing| segments.contains(missing))
        })
    }
}

async fn build(steps: &[Step], holes: &[prop::sample::Index]) -> (Archive, Model) {
    let archive = Archive::new().await;
    let (mut history, mut model) = (History::new(), Model::default());
    for (second, step) in (0..).step_by(10).zip(steps) {
        match step {
            Step::Fill => history.fill(1),
            Step::Backup => {
                let backup = history.backup(second);
                archive.put_backup(&backup).await;
                model.backups.push(backup);
            }
            Step::Commit => {
                let (xid, bounds) = history.commit(second);
                model.commits.push((xid, second, bounds));
            }
            Step::Marker => {
                let name = format!("m{second}");
                let bounds = history.wal.restore_point(&name, at(second));
                archive.put_marker(1, &name, bounds, at(second)).await;
                model.markers.push((name, bounds));
            }
        }
    }
    archive.put_wal(1, 0, &history.wal).await;
    let open = size().segment_of(history.wal.position()).as_u64();
    for hole in holes {
        let segment = 2 + hole.index(usize::try_from(open).unwrap()) as u64;
        if segment < open {
            archive.delete_segment(1, segment).await;
            model.missing.push(segment);
        }
    }
    (archive, model)
}

/// Every segment that the plan names is delivered to a server.
async fn assert_fed(archive: &Archive, plan: &RestorePlan) {
    let scratch = tempfile::tempdir().unwrap();
    let destination = scratch.path().join("RECOVERYXLOG");
    let feed = WalFeed::for_target(archive.lineage.clone(), Some(plan.target.timeline), &plan.wal).unwrap();
    for run in &plan.wal {
        let mut number = size().segment_of(run.from_lsn);
        while size().start_of(number) < run.to_lsn {
            let name = number.name(run.timeline, size()).to_string();
            let outcome = feed.fetch(&name, &destination).await.unwrap();
            assert!(matches!(outcome, FetchOutcome::Found { .. }), "{name}");
            number = number.next();
        }
    }
}

async fn check(steps: &[Step], holes: &[prop::sample::Index]) {
    let (archive, model) = build(steps, holes).await;
    let reach = async |target| prepare(&archive.lineage, &PlanRequest::new(target), &archive.clock).await;
    for (xid, second, record) in &model.commits {
        let planned = reach(RecoveryTarget::Xid { xid: u64::from(*xid) }).await;
        assert_eq!(planned.is_ok(), model.reachable(*record), "{xid}: {planned:?}");
        if let Ok(plan) = planned {
            assert_eq!((plan.target.lsn, plan.target.end_lsn), (record.start, record.end));
            assert!(plan.backup.stop_lsn <= plan.target.end_lsn);
            assert_fed(&archive, &plan).await;
        }
        // Where the next commit is in a hole, nobody knows which one is the last of that time.
        if let Ok(plan) = reach(RecoveryTarget::Time { time: at(*second) }).await {
            assert_eq!(plan.target.lsn, record.start, "time of {xid}");
        }
        let by_lsn = reach(RecoveryTarget::Lsn { lsn: record.end }).await;
        assert_eq!(by_lsn.ok().map(|plan| plan.target.lsn), model.reachable(*record).then_some(record.start));
    }
    for (name, record) in &model.markers {
        let marker = MarkerRef { name: name.clone(), lsn: None };
        let planned = reach(RecoveryTarget::Marker { side: MarkerSide::Before, marker }).await;
        assert_eq!(
            planned.ok().map(|plan| plan.target.lsn),
            model.reachable(*record).then_some(record.start),
            "{name}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_is_reachable_is_planned(
        steps in prop::collection::vec(step(), 1..14),
        holes in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&steps, &holes));
    }
}
