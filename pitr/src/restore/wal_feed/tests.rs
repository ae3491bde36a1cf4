use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::{ResidentAnswer, ask};
use super::resident::{ResidentEnd, ResidentOptions};
use super::*;
use crate::postgres::{Lsn, SegmentNumber};
use crate::recovery::{PlanRequest, RecoveryTarget, RestorePlan};
use crate::repository::catalog::testing::{MIB, at, lease, size, tli};
use crate::restore::prepare::prepare;
use crate::restore::prepare::testing::{Archive, History};
use crate::restore::recovery_config::{RecoveryConfig, RepositoryAccess};
use crate::storage::ErrorKind;
use crate::storage::fault::{Fault, FaultRule};

fn name(timeline: u32, segment: u64) -> String {
    SegmentNumber::new(segment).name(tli(timeline), size()).to_string()
}

struct Pgdata {
    scratch: tempfile::TempDir,
}

impl Pgdata {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("pg_wal")).unwrap();
        std::fs::write(scratch.path().join("recovery.signal"), "").unwrap();
        Self { scratch }
    }

    fn destination(&self) -> PathBuf {
        self.scratch.path().join("pg_wal/RECOVERYXLOG")
    }

    /// What was delivered, which is taken away; none where there is no file, not even a part under another name.
    fn take(&self) -> Option<Vec<u8>> {
        let files: Vec<_> =
            std::fs::read_dir(self.scratch.path().join("pg_wal")).unwrap().map(|f| f.unwrap().path()).collect();
        let files: Vec<_> = files.into_iter().filter(|path| path.is_file()).collect();
        match files.as_slice() {
            [] => None,
            [one] if *one == self.destination() => {
                let bytes = std::fs::read(one).unwrap();
                std::fs::remove_file(one).unwrap();
                Some(bytes)
            }
            other => panic!("files beside the destination: {other:?}"),
        }
    }
}

/// Segments 2 to 5 whole, 6 open; a plan for the end.
async fn archive() -> (Archive, History, RestorePlan) {
    let archive = Archive::new().await;
    let mut history = History::new();
    archive.put_backup(&history.backup(0)).await;
    history.fill(4);
    history.commit(60);
    archive.put_wal(1, 0, &history.wal).await;
    let plan = prepare(&archive.lineage, &PlanRequest::new(RecoveryTarget::Latest), &archive.clock).await.unwrap();
    (archive, history, plan)
}

fn planned(archive: &Archive, plan: &RestorePlan) -> WalFeed {
    WalFeed::for_target(archive.lineage.clone(), Some(plan.target.timeline), &plan.wal).unwrap()
}

fn unplanned(archive: &Archive) -> WalFeed {
    WalFeed::new(archive.lineage.clone())
}

#[tokio::test]
async fn segments_arrive_byte_for_byte_and_the_open_one_filled_with_zeros() {
    let (archive, history, plan) = archive().await;
    let pgdata = Pgdata::new();
    for feed in [planned(&archive, &plan), unplanned(&archive)] {
        for (segment, expected) in history.wal.segments() {
            let outcome = feed.fetch(&name(1, segment.as_u64()), &pgdata.destination()).await.unwrap();
            assert_eq!(outcome, FetchOutcome::Found { bytes: MIB });
            assert_eq!(pgdata.take().unwrap(), expected);
        }
        let outcome = feed.fetch(&name(1, 7), &pgdata.destination()).await.unwrap();
        assert_eq!((outcome, pgdata.take()), (FetchOutcome::Absent, None));
    }
}

#[tokio::test]
async fn file_that_is_there_already_is_replaced() {
    let (archive, history, plan) = archive().await;
    let pgdata = Pgdata::new();
    std::fs::write(pgdata.destination(), "something older and shorter").unwrap();
    planned(&archive, &plan).fetch(&name(1, 2), &pgdata.destination()).await.unwrap();
    assert_eq!(pgdata.take().unwrap(), history.wal.segments()[0].1);
}

#[tokio::test]
async fn whatever_is_needed_is_never_absent() {
    let (archive, _, plan) = archive().await;
    let pgdata = Pgdata::new();
    archive.delete_segment(1, 4).await;
    let error = planned(&archive, &plan).fetch(&name(1, 4), &pgdata.destination()).await.unwrap_err();
    assert!(matches!(error, FeedError::Missing { .. }), "{error}");
    let error = unplanned(&archive).fetch(&name(1, 4), &pgdata.destination()).await.unwrap_err();
    assert!(matches!(error, FeedError::Gap { .. }), "{error}");
    assert_eq!(pgdata.take(), None);
}

#[tokio::test]
async fn last_segment_that_ends_before_the_target_is_an_error() {
    let (archive, history, plan) = archive().await;
    let pgdata = Pgdata::new();
    let open = size().segment_of(history.wal.position());
    let (_, content) = history.wal.segments().pop().unwrap();
    for tail in archive.wal.tails(open.name(tli(1), size())).await.unwrap() {
        archive.wal.delete_tails(&[tail]).await.unwrap();
    }
    archive.put_tail(1, open, 0, &content[..100]).await;
    let error = planned(&archive, &plan).fetch(&name(1, open.as_u64()), &pgdata.destination()).await.unwrap_err();
    assert!(
        matches!(error, FeedError::Missing { stored, .. } if stored == size().start_of(open).advance(100)),
        "{error}"
    );
    assert_eq!(pgdata.take(), None);
}

#[tokio::test]
async fn tails_are_filled_up_only_where_nothing_newer_is_durable() {
    let (archive, history, _) = archive().await;
    let pgdata = Pgdata::new();
    let open = size().segment_of(history.wal.position());
    let feed = unplanned(&archive);
    let newer = open.next();
    archive.put_tail(1, newer, 0, &[0; 64]).await;
    let error = feed.fetch(&name(1, open.as_u64()), &pgdata.destination()).await.unwrap_err();
    assert!(matches!(error, FeedError::Gap { .. }), "{error}");
    // 4096 segments of this size share a log.
    archive.wal.delete_tails(&archive.wal.tails(newer.name(tli(1), size())).await.unwrap()).await.unwrap();
    archive.put_tail(1, SegmentNumber::new(5_000), 0, &[0; 64]).await;
    assert!(feed.fetch(&name(1, open.as_u64()), &pgdata.destination()).await.is_err(), "another log is looked at too");
    assert_eq!(pgdata.take(), None);
}

#[tokio::test]
async fn wal_that_was_sealed_is_not_absent() {
    let (archive, history, _) = archive().await;
    let pgdata = Pgdata::new();
    let feed = unplanned(&archive);
    let end = history.wal.position().as_u64();
    archive.put_lease(&lease(1, end, 60)).await;
    assert!(feed.fetch(&name(1, 6), &pgdata.destination()).await.is_ok());
    pgdata.take();
    assert_eq!(feed.fetch(&name(1, 7), &pgdata.destination()).await.unwrap(), FetchOutcome::Absent);
    archive.put_lease(&lease(1, 7 * MIB + 100, 60)).await;
    for segment in [6, 7] {
        let error = feed.fetch(&name(1, segment), &pgdata.destination()).await.unwrap_err();
        assert!(matches!(error, FeedError::Gap { .. }), "{error}");
    }
    assert_eq!(pgdata.take(), None);
}

#[tokio::test]
async fn open_segment_behind_the_target_is_nothing_to_wait_for() {
    let (archive, history, _) = archive().await;
    let pgdata = Pgdata::new();
    let request = PlanRequest::new(RecoveryTarget::Lsn { lsn: Lsn::new(4 * MIB + 5_000) });
    let plan = prepare(&archive.lineage, &request, &archive.clock).await.unwrap();
    let feed = planned(&archive, &plan);
    assert_eq!(feed.fetch(&name(1, 6), &pgdata.destination()).await.unwrap(), FetchOutcome::Absent);
    assert!(matches!(feed.fetch(&name(1, 5), &pgdata.destination()).await.unwrap(), FetchOutcome::Found { .. }));
    assert_eq!(pgdata.take().unwrap(), history.wal.segments()[3].1);
}

#[tokio::test]
async fn histories_are_served_and_only_unneeded_ones_are_absent() {
    let (archive, _, plan) = archive().await;
    let pgdata = Pgdata::new();
    archive.put_history(2, &[(1, Lsn::new(4 * MIB))]).await;
    let feed = planned(&archive, &plan);
    feed.fetch("00000002.history", &pgdata.destination()).await.unwrap();
    assert_eq!(pgdata.take().unwrap(), b"1\t0/400000\tno reason\n");
    assert_eq!(feed.fetch("00000003.history", &pgdata.destination()).await.unwrap(), FetchOutcome::Absent);
    let feed = WalFeed::for_target(archive.lineage.clone(), Some(tli(3)), &plan.wal).unwrap();
    let error = feed.fetch("00000003.history", &pgdata.destination()).await.unwrap_err();
    assert!(matches!(error, FeedError::HistoryMissing(_)), "{error}");
}

#[tokio::test]
async fn files_of_archive_command_are_absent_and_other_names_are_errors() {
    let (archive, _, plan) = archive().await;
    let pgdata = Pgdata::new();
    let feed = planned(&archive, &plan);
    for text in [format!("{}.partial", name(1, 2)), format!("{}.00000028.backup", name(1, 2))] {
        assert_eq!(feed.fetch(&text, &pgdata.destination()).await.unwrap(), FetchOutcome::Absent);
    }
    // With segments of 1 MiB there are 4096 in a log.
    for text in ["not-a-segment", "", "../../etc/passwd", "000000010000000000001000"] {
        let error = feed.fetch(text, &pgdata.destination()).await.unwrap_err();
        assert!(matches!(error, FeedError::Name(_)), "{error}");
    }
    assert_eq!(pgdata.take(), None);
}

#[tokio::test]
async fn destination_that_cannot_be_written_is_an_error() {
    let (archive, _, plan) = archive().await;
    let feed = planned(&archive, &plan);
    for path in ["/nonexistent/directory/file", "/", ""] {
        let error = feed.fetch(&name(1, 2), std::path::Path::new(path)).await.unwrap_err();
        assert!(matches!(error, FeedError::File(_)), "{path:?}: {error}");
    }
}

/// Every call of every kind fails once in every way: nothing of it is ever taken for absence, and no part of a file is left.
#[tokio::test]
async fn no_fault_of_the_store_is_absence() {
    let (archive, history, plan) = archive().await;
    let pgdata = Pgdata::new();
    archive.put_history(2, &[(1, Lsn::new(4 * MIB))]).await;
    let segments = history.wal.segments();
    let faults = [
        Fault::ErrorBefore(ErrorKind::Unavailable),
        Fault::ErrorBefore(ErrorKind::Transient),
        Fault::ErrorBefore(ErrorKind::Denied),
        Fault::ErrorBefore(ErrorKind::Cancelled),
        Fault::Break { after_bytes: 50 },
        Fault::ShortRead { after_bytes: 50 },
        Fault::FlippedBit,
    ];
    let asked =
        [(name(1, 3), Some(&segments[1].1)), (name(1, 6), Some(&segments[4].1)), ("00000002.history".to_owned(), None)];
    let mut struck = 0;
    for feed in [planned(&archive, &plan), unplanned(&archive)] {
        for (file, expected) in &asked {
            for fault in faults {
                for nth in 1..8 {
                    archive.faults.heal();
                    archive.faults.add(FaultRule::new(fault).nth(nth));
                    let outcome = feed.fetch(file, &pgdata.destination()).await;
                    let delivered = pgdata.take();
                    assert_ne!(outcome.as_ref().ok(), Some(&FetchOutcome::Absent), "{file} {fault:?} {nth}");
                    assert_eq!(outcome.is_ok(), delivered.is_some(), "{file} {fault:?} {nth}");
                    if let (Some(expected), Some(delivered)) = (expected, delivered) {
                        assert_eq!(delivered, **expected, "{file} {fault:?} {nth}");
                    }
                    struck += archive.faults.struck().len();
                }
            }
        }
    }
    assert!(struck > 50, "only {struck} calls were struck");
}

#[tokio::test]
async fn absence_needs_an_answer_of_the_store() {
    let (archive, _, plan) = archive().await;
    let pgdata = Pgdata::new();
    for feed in [planned(&archive, &plan), unplanned(&archive)] {
        for nth in 1..6 {
            archive.faults.heal();
            archive.faults.add(FaultRule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).from_nth(nth));
            let before = archive.faults.struck().len();
            let outcome = feed.fetch(&name(1, 7), &pgdata.destination()).await;
            assert_eq!(outcome.is_err(), archive.faults.struck().len() > before, "{nth}: {outcome:?}");
        }
    }
}

fn config(archive: &Archive, plan: &RestorePlan, pgdata: &Pgdata) -> RecoveryConfig {
    let restore = "20261122T101500Z-1a2b3c4d".parse().unwrap();
    let access = RepositoryAccess { url: archive.lineage.layout().root().to_string(), ..RepositoryAccess::default() };
    RecoveryConfig::for_plan(restore, plan, access, pgdata.scratch.path().to_owned())
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not happen in 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Resident {
    task: tokio::task::JoinHandle<ResidentEnd>,
    cancel: CancellationToken,
    config: RecoveryConfig,
}

fn resident(archive: &Archive, plan: &RestorePlan, pgdata: &Pgdata, idle: Duration) -> Resident {
    let config = config(archive, plan, pgdata);
    let (feed, cancel) = (planned(archive, plan), CancellationToken::new());
    let (of_task, stop) = (config.clone(), cancel.clone());
    let task =
        tokio::spawn(async move { resident::run(&of_task, feed, &ResidentOptions { idle }, &stop).await.unwrap() });
    Resident { task, cancel, config }
}

#[tokio::test]
async fn resident_fetcher_delivers_what_it_fetched_ahead() {
    let (archive, history, plan) = archive().await;
    let archive = Arc::new(archive);
    let pgdata = Pgdata::new();
    let resident = resident(&archive, &plan, &pgdata, Duration::from_secs(60));
    assert_eq!(ask(&resident.config, &name(1, 2), &pgdata.destination()).await, ResidentAnswer::NotRunning);
    let first = until(async || match ask(&resident.config, &name(1, 2), &pgdata.destination()).await {
        ResidentAnswer::Done(outcome) => Some(outcome),
        _ => None,
    });
    assert_eq!(first.await, FetchOutcome::Found { bytes: MIB });
    let segments = history.wal.segments();
    assert_eq!(pgdata.take().unwrap(), segments[0].1);

    // Segments 3 to 5 come into the spool; then the store is not asked for them any more.
    let staged = async || {
        let files = std::fs::read_dir(&resident.config.spool).unwrap();
        let segments = files.filter(|file| file.as_ref().is_ok_and(|f| f.metadata().is_ok_and(|m| m.len() == MIB)));
        (segments.count() == 3).then_some(())
    };
    until(staged).await;
    archive.faults.add(FaultRule::new(Fault::ErrorBefore(ErrorKind::Unavailable)));
    for (segment, expected) in &segments[1..4] {
        let answer = ask(&resident.config, &name(1, segment.as_u64()), &pgdata.destination()).await;
        assert_eq!(answer, ResidentAnswer::Done(FetchOutcome::Found { bytes: MIB }));
        assert_eq!(pgdata.take().unwrap(), *expected);
    }
    // The target's segment may be open, so it is never fetched ahead.
    let answer = ask(&resident.config, &name(1, 6), &pgdata.destination()).await;
    assert_eq!((answer, pgdata.take()), (ResidentAnswer::Failed, None));
    archive.faults.heal();
    let answer = ask(&resident.config, &name(1, 6), &pgdata.destination()).await;
    assert_eq!(answer, ResidentAnswer::Done(FetchOutcome::Found { bytes: MIB }));
    assert_eq!(pgdata.take().unwrap(), segments[4].1);
    let answer = ask(&resident.config, &name(1, 7), &pgdata.destination()).await;
    assert_eq!(answer, ResidentAnswer::Done(FetchOutcome::Absent));

    resident.cancel.cancel();
    assert_eq!(resident.task.await.unwrap(), ResidentEnd::Cancelled);
}

#[tokio::test]
async fn resident_fetcher_ends_with_the_recovery_and_leaves_nothing() {
    let (archive, _, plan) = archive().await;
    let pgdata = Pgdata::new();
    let resident = resident(&archive, &plan, &pgdata, Duration::from_secs(60));
    until(async || resident.config.spool.join("feed.sock").exists().then_some(())).await;
    std::fs::remove_file(pgdata.scratch.path().join("recovery.signal")).unwrap();
    assert_eq!(resident.task.await.unwrap(), ResidentEnd::RecoveryOver);
    assert!(!resident.config.spool.exists());
}

#[tokio::test]
async fn idle_fetcher_ends_and_the_next_one_removes_what_a_crash_left() {
    let (archive, history, plan) = archive().await;
    let pgdata = Pgdata::new();
    let first = resident(&archive, &plan, &pgdata, Duration::from_millis(20));
    let spool = first.config.spool.clone();
    assert_eq!(first.task.await.unwrap(), ResidentEnd::Idle);
    std::fs::write(spool.join("feed.sock"), "").unwrap();
    std::fs::write(spool.join("stage.1.tmp"), "half of a segment").unwrap();
    let second = resident(&archive, &plan, &pgdata, Duration::from_secs(60));
    let done = until(async || match ask(&second.config, &name(1, 2), &pgdata.destination()).await {
        ResidentAnswer::Done(outcome) => Some(outcome),
        _ => None,
    });
    done.await;
    assert_eq!(pgdata.take().unwrap(), history.wal.segments()[0].1);
    assert!(!spool.join("stage.1.tmp").exists());
    let third = resident(&archive, &plan, &pgdata, Duration::from_secs(60));
    assert_eq!(third.task.await.unwrap(), ResidentEnd::AlreadyRunning);
    second.cancel.cancel();
    second.task.await.unwrap();
}

#[tokio::test]
async fn resident_fetcher_of_another_restore_is_not_believed() {
    let (archive, _, plan) = archive().await;
    let pgdata = Pgdata::new();
    let resident = resident(&archive, &plan, &pgdata, Duration::from_secs(60));
    until(async || resident.config.spool.join("feed.sock").exists().then_some(())).await;
    let mut other = resident.config.clone();
    other.restore = crate::restore::RestoreId::new(at(0), 5);
    assert_eq!(ask(&other, &name(1, 2), &pgdata.destination()).await, ResidentAnswer::Failed);
    assert_eq!(pgdata.take(), None);
    resident.cancel.cancel();
    resident.task.await.unwrap();
}
