//! From a server's WAL to the repository, through everything that can happen on the way.

use std::time::{Duration, Instant};

use pitr::postgres::{Lsn, TimelineId};
use pitr::storage::fault::{Fault, FaultRule};
use pitr::storage::{ErrorKind, Operation};
use pitr_agent::archiver::{ArchiverError, GapBook, LandmarkKind};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::archive::Archive;
use crate::support::{Server, binaries, eventually};

const KEEP: &str = "wal_keep_size = '2GB'";

fn slot_restart(server: &Server) -> Option<Lsn> {
    server.sql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'pitr_main'").parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_under_load_and_confirms_only_what_is_sealed() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, KEEP);
    let archive = Archive::of(&server).await;
    let running = archive.start(&server);
    server.prepare_load(5);
    let mut load = server.load(4);
    let mut confirmed = 0;
    while load.try_wait().unwrap().is_none() {
        // Confirmed first: sealed may only be ahead of it.
        let restart = slot_restart(&server);
        let sealed = running.progress.now().sealed;
        if let (Some(restart), Some(sealed)) = (restart, sealed) {
            assert!(restart <= sealed.lsn, "{restart} confirmed, {} sealed", sealed.lsn);
            confirmed += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(confirmed > 3, "{confirmed}");
    let end = server.end_of_wal();
    running.sealed(end, 20).await;
    assert!(archive.assert_complete(&server, TimelineId::FIRST, end).await >= 3);
    assert!(running.progress.now().sealed_commit_time.is_some());
    eventually("the slot follows", 15, async || slot_restart(&server) >= Some(end)).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_random_moments_leave_no_hole() {
    let Some(bin) = binaries() else { return };
    let server = Server::start_with_segments(&bin, 1, KEEP);
    let archive = Archive::of(&server).await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    server.prepare_load(2);
    let mut load = server.load(20);
    let mut sealed = None;
    for round in 0..12 {
        let running = archive.start_with(&server, |options| options.flush_interval = Duration::from_millis(30));
        running.connected().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..900))).await;
        let progress = running.progress.clone();
        running.kill().await;
        // Asked afterwards: until it was dead it could seal and confirm more.
        sealed = progress.now().sealed.max_by_lsn(sealed);
        if let Some(sealed) = sealed {
            archive.assert_complete(&server, sealed.timeline, sealed.lsn).await;
            if let Some(restart) = slot_restart(&server) {
                assert!(
                    restart <= sealed.lsn,
                    "seed {seed}, round {round}: {restart} confirmed, {} sealed",
                    sealed.lsn
                );
            }
        }
    }
    load.kill().unwrap();
    load.wait().unwrap();
    let running = archive.start(&server);
    let end = server.end_of_wal();
    running.sealed(end, 30).await;
    assert!(archive.assert_complete(&server, TimelineId::FIRST, end).await > 10);
    running.stop().await.unwrap();
    let log = archive.wal.log(TimelineId::FIRST, 0).await.unwrap();
    let beside: Vec<_> = log.tails.keys().filter(|name| log.segments.contains(name)).collect();
    assert!(beside.is_empty(), "tails were left beside {beside:?}");
}

trait Later {
    fn max_by_lsn(self, other: Self) -> Self;
}

impl Later for Option<pitr::repository::lease::WalPosition> {
    fn max_by_lsn(self, other: Self) -> Self {
        if self.map(|p| p.lsn) >= other.map(|p| p.lsn) { self } else { other }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_a_crash_left_between_uploads_is_filled() {
    let Some(bin) = binaries() else { return };
    let server = Server::start_with_segments(&bin, 1, KEEP);
    let archive = Archive::of(&server).await;
    let first = server.end_of_wal();
    let stuck = archive.segment_size().segment_of(first).next().next().name(TimelineId::FIRST, archive.segment_size());
    archive.store.add(FaultRule::new(Fault::Stall).on(Operation::Put).keys(format!("*/{stuck}.zst")));
    let running = archive.start(&server);
    running.connected().await;
    server.prepare_load(1);
    eventually("later segments are stored", 20, async || {
        let log = archive.wal.log(TimelineId::FIRST, 0).await.unwrap();
        log.segments.iter().any(|name| *name > stuck)
    })
    .await;
    let sealed = running.progress.now().sealed.unwrap();
    assert!(archive.segment_size().segment_of(sealed.lsn).name(TimelineId::FIRST, archive.segment_size()) <= stuck);
    running.kill().await;
    archive.store.heal();
    let running = archive.start(&server);
    let end = server.end_of_wal();
    running.sealed(end, 30).await;
    archive.assert_complete(&server, TimelineId::FIRST, end).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_fail_before_and_after_their_effect_are_tried_again() {
    let Some(bin) = binaries() else { return };
    let server = Server::start_with_segments(&bin, 1, KEEP);
    let archive = Archive::of(&server).await;
    for n in 1..40 {
        let fault = if n % 2 == 0 {
            Fault::ErrorBefore(ErrorKind::Transient)
        } else {
            Fault::ErrorAfter(ErrorKind::Unavailable)
        };
        archive.store.add(FaultRule::new(fault).on(Operation::Put).keys("*/wal/*").nth(n * 2));
    }
    let running = archive.start(&server);
    server.prepare_load(1);
    server.sql("SELECT pg_switch_wal()");
    let end = server.end_of_wal();
    running.sealed(end, 60).await;
    assert!(archive.store.struck().len() > 3, "{:?}", archive.store.struck());
    archive.assert_complete(&server, TimelineId::FIRST, end).await;
    eventually("nothing is wrong any more", 10, async || running.progress.now().problem.is_none()).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_after_a_restart_of_the_server() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, KEEP);
    let archive = Archive::of(&server).await;
    let running = archive.start(&server);
    running.connected().await;
    for mode in ["fast", "immediate"] {
        server.sql("CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t SELECT generate_series(1, 10000)");
        let took = server.stop(mode);
        assert!(took < Duration::from_secs(10), "{mode}: {took:?}");
        server.run();
    }
    let end = server.end_of_wal();
    running.sealed(end, 30).await;
    archive.assert_complete(&server, TimelineId::FIRST, end).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_store_does_not_hold_up_the_servers_stop() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, KEEP);
    let archive = Archive::of(&server).await;
    let running = archive.start_with(&server, |options| {
        options.flush_interval = Duration::from_millis(100);
        options.put_timeout = Duration::from_secs(2);
    });
    running.connected().await;
    server.sql("CREATE TABLE t (i int)");
    running.sealed(server.end_of_wal(), 20).await;
    archive.store.add(FaultRule::new(Fault::Stall).on(Operation::Put).keys("*/wal/*"));
    server.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    let took = server.stop("fast");
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(running.progress.now().stalled, "{:?}", running.progress.now());
    archive.store.heal();
    server.run();
    let end = server.end_of_wal();
    running.sealed(end, 30).await;
    archive.assert_complete(&server, TimelineId::FIRST, end).await;
    assert!(!running.progress.now().stalled);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_does_not_hold_up_the_servers_stop() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, &format!("{KEEP}\nwal_sender_timeout = '3s'"));
    let archive = Archive::of(&server).await;
    let running = archive.start_with(&server, |options| options.put_timeout = Duration::from_secs(2));
    running.connected().await;
    archive.store.add(FaultRule::new(Fault::Stall).on(Operation::Put).keys("*/wal/*"));
    // More than the queue, the open segment and the puts in flight hold.
    server.prepare_load(15);
    let took = server.stop("fast");
    assert!(took < Duration::from_secs(15), "{took:?}");
    archive.store.heal();
    server.run();
    let end = server.end_of_wal();
    running.sealed(end, 60).await;
    archive.assert_complete(&server, TimelineId::FIRST, end).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_never_lets_the_senders_timeout_expire() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, &format!("{KEEP}\nwal_sender_timeout = '2s'\nlog_min_messages = log"));
    let archive = Archive::of(&server).await;
    let running = archive.start_with(&server, |options| options.put_timeout = Duration::from_secs(60));
    running.connected().await;
    archive.store.add(FaultRule::new(Fault::Stall).on(Operation::Put).keys("*/wal/*"));
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(running.progress.now().connected && running.progress.now().stalled, "{:?}", running.progress.now());
    assert!(!server.log().contains("terminating walsender"), "{}", server.log());
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_a_promotion_to_the_next_timeline() {
    let Some(bin) = binaries() else { return };
    let primary = Server::start(&bin, KEEP);
    let standby = Server::standby_of(&primary, KEEP);
    let archive = Archive::of(&standby).await;
    let running = archive.start(&standby);
    running.connected().await;
    primary.prepare_load(1);
    primary.sql("SELECT pg_switch_wal()");
    primary.sql("CREATE TABLE before AS SELECT generate_series(1, 100)");
    let end: Lsn = primary.end_of_wal();
    running.sealed(end, 30).await;
    standby.promote();
    standby.sql("CREATE TABLE after AS SELECT generate_series(1, 100000)");
    standby.sql("SELECT pg_switch_wal()");
    let second = TimelineId::new(2).unwrap();
    let end = standby.end_of_wal();
    running.sealed(end, 30).await;
    assert_eq!(running.progress.now().sealed.unwrap().timeline, second);
    let own = std::fs::read(standby.data().join("pg_wal/00000002.history")).unwrap();
    assert_eq!(archive.wal.read_history(second).await.unwrap(), own);
    archive.assert_complete(&standby, second, end).await;
    let switch: Lsn = String::from_utf8(own).unwrap().split('\t').nth(1).unwrap().parse().unwrap();
    archive.assert_complete(&standby, TimelineId::FIRST, switch).await;
    // A new agent goes on where this one ended, without looking back.
    running.stop().await.unwrap();
    let running = archive.start(&standby);
    standby.sql("CREATE TABLE later AS SELECT generate_series(1, 1000)");
    let end = standby.end_of_wal();
    running.sealed(end, 30).await;
    archive.assert_complete(&standby, second, end).await;
    assert_eq!(running.progress.now().problem, None);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn finishes_the_old_timeline_that_was_left_while_the_agent_was_away() {
    let Some(bin) = binaries() else { return };
    let primary = Server::start_with_segments(&bin, 1, KEEP);
    let standby = Server::standby_of(&primary, KEEP);
    let archive = Archive::of(&standby).await;
    let running = archive.start(&standby);
    primary.sql("CREATE TABLE a AS SELECT generate_series(1, 1000)");
    running.sealed(primary.end_of_wal(), 30).await;
    running.kill().await;
    primary.sql("CREATE TABLE b AS SELECT generate_series(1, 50000)");
    let end = primary.end_of_wal();
    eventually("the standby has it", 20, async || {
        standby.sql("SELECT pg_last_wal_receive_lsn()").parse::<Lsn>().is_ok_and(|lsn| lsn >= end)
    })
    .await;
    primary.stop("immediate");
    standby.promote();
    standby.sql("CREATE TABLE c AS SELECT generate_series(1, 50000)");
    let running = archive.start(&standby);
    let second = TimelineId::new(2).unwrap();
    let sealed = standby.end_of_wal();
    eventually("the second timeline is sealed", 30, async || {
        running.progress.now().sealed.is_some_and(|position| position.timeline == second && position.lsn >= sealed)
    })
    .await;
    archive.assert_complete(&standby, TimelineId::FIRST, end).await;
    archive.assert_complete(&standby, second, sealed).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_costs_no_objects() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, "autovacuum = off\ncheckpoint_timeout = '1h'\nbgwriter_delay = '10s'");
    let archive = Archive::of(&server).await;
    let running = archive.start(&server);
    server.sql("CHECKPOINT");
    running.sealed(server.end_of_wal(), 20).await;
    // A snapshot of running transactions is logged within 15 seconds of the last activity, and then no more.
    let flushed = || server.sql("SELECT pg_current_wal_flush_lsn()");
    let before = (archive.objects().await, flushed());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = (archive.objects().await, flushed());
    assert_eq!(before, after);
    eventually("the lease tells that the agent lives", 10, async || {
        running.progress.now().server.is_some_and(|server| server.lsn >= before.1.parse().unwrap())
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_point_is_found_and_sealed_on_request() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, "");
    let archive = Archive::of(&server).await;
    let running = archive.start_with(&server, |options| options.flush_interval = Duration::from_secs(3600));
    running.connected().await;
    let begun = Instant::now();
    let end: Lsn = server.sql("SELECT pg_create_restore_point('release-42')").parse().unwrap();
    running.progress.request_flush();
    let landmark = running.progress.wait_landmark(end, Duration::from_secs(10)).await.unwrap();
    running.progress.request_flush();
    assert!(matches!(&landmark.kind, LandmarkKind::RestorePoint { name, .. } if name == "release-42"));
    assert!(landmark.start_lsn < end);
    running.sealed(end, 10).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    running.stop().await.unwrap();
}

/// Writes WAL until only a few bytes of its segment are left: whatever record comes next goes on in the following one.
const FILL_SEGMENT: &str = "DO $$
DECLARE room int;
BEGIN
  LOOP
    room := 1048576 - (pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint % 1048576)::int;
    EXIT WHEN room BETWEEN 1000 AND 6000;
    PERFORM pg_logical_emit_message(false, '', repeat('x', CASE WHEN room > 12000 THEN 4000 ELSE 500 END));
  END LOOP;
  PERFORM pg_logical_emit_message(false, '', repeat('x', room - 48 - 54));
END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_began_before_the_place_of_resumption_is_found() {
    let Some(bin) = binaries() else { return };
    let server = Server::start_with_segments(&bin, 1, "autovacuum = off\ncheckpoint_timeout = '1h'");
    let archive = Archive::of(&server).await;
    let running = archive.start(&server);
    running.connected().await;
    let size = archive.segment_size();
    let mut straddling = None;
    for _ in 0..20 {
        let filled = format!("{FILL_SEGMENT}; SELECT pg_create_restore_point('between')");
        let end: Lsn = server.sql(&filled).lines().last().unwrap().parse().unwrap();
        let landmark = running.progress.wait_landmark(end, Duration::from_secs(10)).await.unwrap();
        if size.segment_of(landmark.start_lsn) < size.segment_of(end) {
            straddling = Some(landmark);
            break;
        }
    }
    let straddling = straddling.expect("other records came between each time");
    running.sealed(straddling.end_lsn, 20).await;
    running.kill().await;
    let began = size.segment_of(straddling.start_lsn).name(TimelineId::FIRST, size);
    archive.wal.whole_segment(began).await.unwrap();
    let running = archive.start(&server);
    let found = running.progress.wait_landmark(straddling.end_lsn, Duration::from_secs(20)).await;
    assert_eq!(found, Ok(straddling));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cluster_has_one_agent() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, "");
    let archive = Archive::of(&server).await;
    let first = archive.start(&server);
    first.connected().await;
    // As on another host, where nobody can tell whether the process lives.
    let second = archive.start_with(&server, |options| options.identity.host = "elsewhere".to_owned());
    let error = second.ended().await.unwrap_err();
    assert!(matches!(error, ArchiverError::LeaseHeld { pid, .. } if pid == std::process::id()), "{error}");
    first.stop().await.unwrap();
    let third = archive.start_with(&server, |options| options.identity.host = "elsewhere".to_owned());
    third.connected().await;
    third.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_the_lease_ends() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, "");
    let archive = Archive::of(&server).await;
    let first = archive.start(&server);
    first.connected().await;
    // Same host and process id: the first one is taken for dead, as after a restart in a container.
    let second = archive.start(&server);
    let error = first.ended().await.unwrap_err();
    assert!(matches!(error, ArchiverError::LeaseLost { .. }), "{error}");
    second.connected().await;
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_seals_and_confirms_everything() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, KEEP);
    let archive = Archive::of(&server).await;
    let running = archive.start_with(&server, |options| options.flush_interval = Duration::from_secs(3600));
    running.connected().await;
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    let end = server.end_of_wal();
    let progress = running.progress.clone();
    eventually("it is received", 10, async || progress.now().received.is_some_and(|received| received.lsn >= end))
        .await;
    assert!(progress.now().sealed.is_none_or(|sealed| sealed.lsn < end));
    running.stop().await.unwrap();
    assert!(progress.now().sealed.is_some_and(|sealed| sealed.lsn >= end));
    assert!(slot_restart(&server).unwrap() >= end);
    archive.assert_complete(&server, TimelineId::FIRST, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_refused() {
    let Some(bin) = binaries() else { return };
    let (server, other) = (Server::start(&bin, ""), Server::start(&bin, ""));
    let archive = Archive::of(&server).await;
    let error = archive.start(&other).ended().await.unwrap_err();
    assert!(matches!(error, ArchiverError::WrongCluster { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_wal_of_the_same_place_stops_archiving() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, KEEP);
    let archive = Archive::of(&server).await;
    let running = archive.start(&server);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    let end = server.end_of_wal();
    running.sealed(end, 20).await;
    running.stop().await.unwrap();
    // A twin that wrote other WAL: one byte of what is stored is made another.
    let (name, stored) = archive.segments(TimelineId::FIRST).await.into_iter().next_back().unwrap();
    let mut bytes = stored.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    archive.wal.delete_tails(&archive.wal.tails(name).await.unwrap()).await.unwrap();
    let start = archive.segment_size().start_of(name.number(archive.segment_size()).unwrap());
    let tail = pitr::repository::wal_store::Tail { segment: name, from: start, to: start.advance(bytes.len() as u64) };
    archive.wal.put(&archive.wal.prepare_tail(tail, &bytes).unwrap()).await.unwrap();
    let error = archive.start(&server).ended().await.unwrap_err();
    assert!(matches!(error, ArchiverError::Fork { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_nobody_can_fill_is_told_and_archiving_goes_on() {
    let Some(bin) = binaries() else { return };
    let server = Server::start_with_segments(&bin, 1, "max_slot_wal_keep_size = '2MB'\nwal_keep_size = 0");
    let archive = Archive::of(&server).await;
    let running = archive.start(&server);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    running.sealed(server.end_of_wal(), 20).await;
    running.stop().await.unwrap();
    for _ in 0..90 {
        server.sql("INSERT INTO t SELECT generate_series(1, 20000)");
        server.sql("SELECT pg_switch_wal()");
    }
    server.sql("CHECKPOINT");
    server.sql("CHECKPOINT");
    let gaps = GapBook::default();
    let running = archive.start_with(&server, |options| options.gaps = gaps.clone());
    let end = server.end_of_wal();
    running.sealed(end, 60).await;
    let problem = gaps.problem().unwrap_or_default();
    assert!(problem.contains("is lost") && problem.contains("backup"), "{problem}");
    running.stop().await.unwrap();
}
