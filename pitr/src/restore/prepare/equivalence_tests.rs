//! A plan by summaries is the plan that decoding all WAL gives.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::testing::{Archive, History};
use super::*;
use crate::postgres::TransactionId;
use crate::postgres::wal::RecordBounds;
use crate::recovery::{MarkerRef, MarkerSide, RecoveryTarget, TargetTimeline};
use crate::repository::catalog::testing::{at, lsn, size, tli};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Seconds since the one before; the clock can be set back.
    Commit(i64),
    Abort(i64),
    /// A record that takes so many KiB, which can be segments.
    LongCommit(u32),
    Prepare(i64),
    CommitPrepared(i64),
    Begin,
    Running,
    Filler(usize),
    Switch,
    Parameters(i32),
    Tablespace,
    Backup,
    Marker,
    Timeline,
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = || prop_oneof![3 => Just(0_i64), 6 => 1_i64..20, 1 => -40_i64..0];
    prop_oneof![
        8 => seconds().prop_map(Step::Commit),
        2 => seconds().prop_map(Step::Abort),
        1 => prop_oneof![Just(80), Just(1_100), Just(2_300)].prop_map(Step::LongCommit),
        2 => seconds().prop_map(Step::Prepare),
        2 => seconds().prop_map(Step::CommitPrepared),
        1 => Just(Step::Begin),
        2 => Just(Step::Running),
        8 => prop_oneof![4 => 500_usize..1_200, 1 => 1_200_usize..3_000].prop_map(Step::Filler),
        1 => Just(Step::Switch),
        1 => (50_i32..300).prop_map(Step::Parameters),
        1 => Just(Step::Tablespace),
        1 => Just(Step::Backup),
        1 => Just(Step::Marker),
        1 => Just(Step::Timeline),
    ]
}

/// What becomes of summaries once all were made.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Fold { first: Index, length: usize, keep: bool },
    Delete(Index),
    Damage(Index),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => (any::<Index>(), 2_usize..9, any::<bool>())
            .prop_map(|(first, length, keep)| Fate::Fold { first, length, keep }),
        2 => any::<Index>().prop_map(Fate::Delete),
        1 => any::<Index>().prop_map(Fate::Damage),
    ]
}

/// An archive, and what may be asked of it.
struct Asked {
    archive: Archive,
    xids: Vec<u32>,
    seconds: Vec<i64>,
    records: Vec<RecordBounds>,
    markers: Vec<String>,
    timelines: u32,
}

async fn build(steps: &[Step]) -> Asked {
    let archive = Archive::new().await;
    let mut asked = Asked { archive, xids: vec![7], seconds: vec![], records: vec![], markers: vec![], timelines: 1 };
    let mut history = History::new();
    let (mut second, mut prepared, mut ancestors) = (0, Vec::new(), Vec::new());
    let (mut oldest, mut named) = (None, BTreeSet::from([second]));
    asked.archive.put_backup(&history.backup(second)).await;
    for (number, step) in (0..).zip(steps) {
        let mut ended = |xid: u32, second: i64, bounds: RecordBounds| {
            asked.xids.push(xid);
            asked.seconds.push(second);
            asked.records.push(bounds);
        };
        match *step {
            Step::Commit(passed) => {
                second += passed;
                let (xid, bounds) = history.commit(second);
                ended(xid, second, bounds);
            }
            Step::Abort(passed) => {
                second += passed;
                let xid = history.begin();
                let bounds = history.wal.abort(TransactionId::new(xid), at(second));
                ended(xid, second, bounds);
            }
            Step::LongCommit(kib) => {
                let (xid, bounds) = history.commit_of_parts(second, kib << 8);
                ended(xid, second, bounds);
                ended(xid + 1, second, bounds);
            }
            Step::Prepare(passed) => {
                second += passed;
                let (xid, bounds) = history.prepare(second);
                prepared.push(xid);
                ended(xid, second, bounds);
            }
            Step::CommitPrepared(passed) => {
                let Some(xid) = prepared.pop() else { continue };
                second += passed;
                let bounds = history.commit_prepared(xid, second);
                ended(xid, second, bounds);
            }
            Step::Begin => {
                let xid = history.begin();
                oldest.get_or_insert(xid);
                asked.xids.push(xid);
            }
            Step::Running => {
                let oldest = prepared.first().copied().into_iter().chain(oldest).min();
                asked.records.push(history.running(oldest));
            }
            Step::Filler(kib) => asked.records.push(history.wal.filler(kib << 10)),
            Step::Switch => asked.records.push(history.wal.switch()),
            Step::Parameters(connections) => {
                history.parameters(connections);
            }
            Step::Tablespace => {
                history.create_tablespace(16_384 + number);
                history.drop_tablespace(16_384 + number);
            }
            Step::Backup => {
                // Each has a name of its own.
                second = (second..).find(|second| named.insert(*second)).unwrap();
                asked.archive.put_backup(&history.backup(second)).await;
            }
            Step::Marker => {
                let name = format!("m{number}");
                let bounds = history.wal.restore_point(&name, at(second));
                asked.archive.put_marker(asked.timelines, &name, bounds, at(second)).await;
                asked.markers.push(name);
                asked.records.push(bounds);
            }
            Step::Timeline => {
                let mut dead = history.clone();
                dead.commit(second + 3);
                dead.fill(1);
                let first = ancestors.last().map_or(0, |(_, begin)| size().segment_of(*begin).as_u64());
                asked.archive.put_wal(asked.timelines, first, &dead.wal).await;
                ancestors.push((asked.timelines, history.wal.position()));
                asked.timelines += 1;
                history.switch_timeline(asked.timelines);
                asked.archive.put_history(asked.timelines, &ancestors).await;
            }
        }
    }
    let first = ancestors.last().map_or(0, |(_, begin)| size().segment_of(*begin).as_u64());
    asked.archive.put_wal(asked.timelines, first, &history.wal).await;
    asked
}

/// Folds, loses and damages summaries.
async fn treat(archive: &Archive, fates: &[Fate]) {
    for fate in fates {
        let keys = archive.summaries().await;
        if keys.is_empty() {
            return;
        }
        match fate {
            Fate::Fold { first, length, keep } => {
                let first = first.index(keys.len());
                let mut run = vec![keys[first]];
                for key in keys.iter().filter(|key| key.tli == keys[first].tli) {
                    if run.len() < *length && run.last().unwrap().to == key.from {
                        run.push(*key);
                    }
                }
                if run.len() > 1 && archive.fold(&run).await {
                    for key in run.into_iter().filter(|_| !keep) {
                        archive.delete_summary(key).await;
                    }
                }
            }
            Fate::Delete(index) => archive.delete_summary(keys[index.index(keys.len())]).await,
            Fate::Damage(index) => {
                archive.damage_summary(keys[index.index(keys.len())]).await;
            }
        }
    }
}

/// What a person is told, whatever it was made from.
async fn told(archive: &Archive, request: &PlanRequest) -> (Result<RestorePlan, String>, PlanBasis) {
    match prepare(&archive.lineage, request, &archive.clock).await {
        Ok(plan) => {
            let basis = plan.basis;
            (Ok(RestorePlan { basis: PlanBasis::default(), ..plan }), basis)
        }
        Err(error) => (Err(format!("{error:?}")), PlanBasis::default()),
    }
}

impl Asked {
    fn targets(&self, picks: &[Index]) -> Vec<PlanRequest> {
        let mut requests: Vec<PlanRequest> =
            [RecoveryTarget::Latest, RecoveryTarget::Immediate].into_iter().map(PlanRequest::new).collect();
        let mut add = |target: RecoveryTarget| {
            for exclusive in [false, true] {
                requests.push(PlanRequest { exclusive, ..PlanRequest::new(target.clone()) });
            }
        };
        for pick in picks {
            add(RecoveryTarget::Xid { xid: u64::from(self.xids[pick.index(self.xids.len())]) });
            if let Some(second) = self.seconds.get(pick.index(self.seconds.len() + 1)) {
                add(RecoveryTarget::Time { time: at(*second) });
                add(RecoveryTarget::Time { time: at(*second) - chrono::TimeDelta::milliseconds(1) });
            }
            if let Some(record) = self.records.get(pick.index(self.records.len() + 1)) {
                for position in [record.start.as_u64(), record.end.as_u64(), record.end.as_u64() - 1] {
                    add(RecoveryTarget::Lsn { lsn: lsn(position) });
                }
            }
            if let Some(name) = self.markers.get(pick.index(self.markers.len() + 1)) {
                let marker = MarkerRef { name: name.clone(), lsn: None };
                add(RecoveryTarget::Marker { side: MarkerSide::Before, marker });
            }
        }
        add(RecoveryTarget::Time { time: at(9_000) });
        let on_timelines = (1..self.timelines).map(|timeline| TargetTimeline::Id(tli(timeline)));
        let others: Vec<PlanRequest> = on_timelines
            .flat_map(|timeline| requests.iter().map(move |request| PlanRequest { timeline, ..request.clone() }))
            .collect();
        requests.extend(others);
        requests
    }
}

async fn check(steps: &[Step], fates: &[Fate], hole: Option<&Index>, picks: &[Index]) -> u64 {
    let asked = build(steps).await;
    asked.archive.summarize().await;
    treat(&asked.archive, fates).await;
    if let Some(hole) = hole {
        asked.archive.delete_segment(1, 3 + hole.index(steps.len() + 1) as u64).await;
    }
    let mut skipped = 0;
    for request in asked.targets(picks) {
        let (by_summaries, basis) = told(&asked.archive, &request).await;
        let (by_decoding, all) = told(&asked.archive, &PlanRequest { check_wal: true, ..request.clone() }).await;
        assert_eq!(by_summaries, by_decoding, "{request:?}");
        assert_eq!((all.summaries, all.wal_skipped_bytes), (0, 0));
        skipped += basis.wal_skipped_bytes;
    }
    skipped
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn summaries_change_no_plan(
        steps in prop::collection::vec(step(), 1..20),
        fates in prop::collection::vec(fate(), 0..7),
        hole in prop::option::weighted(0.2, any::<Index>()),
        picks in prop::collection::vec(any::<Index>(), 3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&steps, &fates, hole.as_ref(), &picks));
    }
}

/// An archive of many segments, and summaries of all. In each there is a commit at ten times its number, and a second later
/// there are many.
async fn long(segments: i64) -> (Archive, Vec<(u32, RecordBounds)>) {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    let mut commits = Vec::new();
    for second in 1..=segments {
        history.fill(1);
        history.running(None);
        commits.push(history.commit(second * 10));
        for _ in 0..80 {
            history.commit(second * 10 + 1);
        }
    }
    archive.put_wal(1, 0, &history.wal).await;
    archive.summarize().await;
    (archive, commits)
}

#[tokio::test]
async fn only_the_wal_around_the_target_is_decoded() {
    let (archive, commits) = long(40).await;
    let (xid, record) = commits[25];
    for target in [
        RecoveryTarget::Time { time: at(260) },
        RecoveryTarget::Lsn { lsn: record.end },
        RecoveryTarget::Xid { xid: xid.into() },
        RecoveryTarget::Latest,
    ] {
        let plan = prepare(&archive.lineage, &PlanRequest::new(target.clone()), &archive.clock).await.unwrap();
        if target != RecoveryTarget::Latest {
            assert_eq!(plan.target.lsn, record.start, "{target}");
        }
        assert!(plan.basis.wal_decoded_bytes <= 6 << 20, "{target}: {:?}", plan.basis);
        assert!(plan.basis.wal_skipped_bytes >= 20 << 20, "{target}: {:?}", plan.basis);
    }
}

#[tokio::test]
async fn folds_narrow_a_time_down_to_segments() {
    let (archive, commits) = long(40).await;
    let keys = archive.summaries().await;
    assert!(archive.fold(&keys[1..33]).await);
    for key in &keys[1..33] {
        archive.delete_summary(*key).await;
    }
    let request = PlanRequest::new(RecoveryTarget::Time { time: at(200) });
    let plan = prepare(&archive.lineage, &request, &archive.clock).await.unwrap();
    assert_eq!(plan.target.lsn, commits[19].1.start);
    assert!(plan.basis.wal_decoded_bytes <= 6 << 20, "{:?}", plan.basis);
    assert!(plan.basis.summaries <= 10, "{:?}", plan.basis);
}

#[tokio::test]
async fn damage_on_the_way_is_met_when_all_wal_is_checked() {
    let (archive, commits) = long(20).await;
    let damaged = archive.wal.read_segment(size().segment_of(commits[9].1.start).name(tli(1), size())).await.unwrap();
    let mut damaged = damaged.unwrap().bytes().to_vec();
    damaged[500_000] ^= 1;
    archive.replace_segment(1, size().segment_of(commits[9].1.start).as_u64(), &damaged).await;
    let mut request = PlanRequest::new(RecoveryTarget::Lsn { lsn: commits[18].1.end });
    assert!(prepare(&archive.lineage, &request, &archive.clock).await.is_ok());
    request.check_wal = true;
    let refusal = prepare(&archive.lineage, &request, &archive.clock).await.unwrap_err();
    assert!(matches!(&refusal, PrepareError::Plan(error) if matches!(**error, PlanError::Wal { .. })), "{refusal}");
}
