use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pitr::clock::{Clock, ManualClock};
use pitr::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use pitr::repository::lease::WalPosition;
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::repository::marker::Outcome;
use pitr::repository::{LineageStore, Repository};
use pitr::storage::fault::{Fault, FaultRule, Faulty};
use pitr::storage::memory::MemoryStore;
use pitr::storage::{ObjectStore, Operation};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::archiver::{ArchiveProgress, Landmark, LandmarkKind};

/// Restore points of 0x70 bytes each; the decoder passes them when the test says so.
#[derive(Debug, Default)]
struct Wal(AtomicU64);

#[async_trait]
impl RestorePoints for Wal {
    async fn create(&self, _: &str) -> Result<Lsn, MarkError> {
        Ok(Lsn::new(self.0.fetch_add(0x70, Ordering::SeqCst) + 0x70))
    }
}

struct Bench {
    marks: Marks,
    progress: ArchiveProgress,
    wal: Arc<Wal>,
    clock: ManualClock,
    cancel: CancellationToken,
}

impl Bench {
    async fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new())).await
    }

    async fn on(store: Arc<dyn ObjectStore>) -> Self {
        let clock = ManualClock::new("2026-11-22T06:31:00Z".parse().unwrap());
        let (wal, progress) = (Arc::new(Wal::default()), ArchiveProgress::default());
        let lineage = lineage(store, &clock).await;
        let (service, marks) =
            MarkService::new(lineage, Arc::clone(&wal) as Arc<dyn RestorePoints>, progress.clone(), Claims::default());
        let cancel = CancellationToken::new();
        tokio::spawn(service.run(cancel.clone()));
        Self { marks, progress, wal, clock, cancel }
    }

    fn decode_and_seal(&self, end: u64) {
        self.progress.record_landmark(Landmark {
            timeline: TimelineId::FIRST,
            start_lsn: Lsn::new(end - 0x70),
            end_lsn: Lsn::new(end),
            kind: LandmarkKind::RestorePoint { name: "any".to_owned(), time: self.clock.now() },
        });
        let sealed = WalPosition { timeline: TimelineId::FIRST, lsn: Lsn::new(end) };
        self.progress.update(|p| p.sealed = Some(sealed));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn lineage(store: Arc<dyn ObjectStore>, clock: &ManualClock) -> LineageStore {
    let repository = Repository::open_or_create(store, clock).await.unwrap();
    let lineage = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SystemIdentifier::new(7), 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: WalSegmentSize::DEFAULT,
        created: clock.now(),
        restore: None,
    };
    repository.ensure_lineage(&lineage).await.unwrap()
}

fn order(name: &str, key: Option<&str>, timeout: Duration) -> MarkOrder {
    MarkOrder { name: name.to_owned(), meta: [].into(), key: key.map(str::to_owned), who: None, timeout }
}

fn finish(name: &str, lsn: Option<u64>) -> FinishOrder {
    FinishOrder {
        name: name.to_owned(),
        lsn: lsn.map(Lsn::new),
        outcome: Outcome::Ok,
        meta: [].into(),
        who: None,
        timeout: Duration::from_secs(5),
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn marker_stands_at_the_start_of_its_record() {
    let bench = Bench::new().await;
    bench.decode_and_seal(0x70);
    let reply = bench.marks.mark(order("release-42", None, LONG)).await.unwrap();
    assert_eq!((reply.marker.marker.lsn, reply.marker.marker.end_lsn), (Lsn::new(0), Lsn::new(0x70)));
    assert!(reply.sealed && !reply.found);
}

#[tokio::test(start_paused = true)]
async fn marker_goes_on_when_the_one_who_waits_gives_up() {
    let bench = Bench::new().await;
    let key = Some("deploy-1");
    let first = bench.marks.mark(order("release-42", key, Duration::from_secs(1))).await;
    assert!(matches!(first, Err(MarkError::NotSealed { .. })));
    bench.decode_and_seal(0x70);
    let again = bench.marks.mark(order("release-42", key, LONG)).await.unwrap();
    assert!(again.found && again.sealed);
    assert_eq!(bench.wal.0.load(Ordering::SeqCst), 0x70, "a second restore point was made");
}

#[tokio::test(start_paused = true)]
async fn a_key_never_stands_for_two_markers() {
    let bench = Bench::new().await;
    bench.decode_and_seal(0x70);
    assert!(bench.marks.mark(order("release-42", Some("job-1"), LONG)).await.is_ok());
    let other = bench.marks.mark(order("release-43", Some("job-1"), LONG)).await;
    assert!(matches!(other, Err(MarkError::KeyTaken { name }) if name == "release-42"));
    assert_eq!(bench.wal.0.load(Ordering::SeqCst), 0x70, "a second restore point was made");
}

#[tokio::test(start_paused = true)]
async fn same_name_without_key_makes_another_marker() {
    let bench = Bench::new().await;
    for end in [0x70, 0xE0] {
        bench.decode_and_seal(end);
        assert!(!bench.marks.mark(order("release-42", None, LONG)).await.unwrap().found);
    }
    bench.decode_and_seal(0x150);
    let ambiguous = bench.marks.finish(finish("release-42", None)).await;
    assert!(matches!(ambiguous, Err(MarkError::Ambiguous { markers, .. }) if markers.len() == 2));
    let reply = bench.marks.finish(finish("release-42", Some(0x70))).await.unwrap();
    assert_eq!(reply.marker.finish.unwrap().end_lsn, Lsn::new(0x150));
    let again = bench.marks.finish(finish("release-42", Some(0x70))).await;
    assert!(matches!(again, Err(MarkError::AlreadyFinished { .. })));
    let unknown = bench.marks.finish(finish("release-43", None)).await;
    assert!(matches!(unknown, Err(MarkError::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn name_that_no_restore_point_can_have_is_refused_before_the_server_is_asked() {
    let bench = Bench::new().await;
    let refused = bench.marks.mark(order("", None, LONG)).await;
    assert!(matches!(refused, Err(MarkError::Name(NameError::Empty))));
    assert_eq!(bench.wal.0.load(Ordering::SeqCst), 0);
}

/// A store that answers nothing any more when markers are listed.
fn stuck() -> Arc<dyn ObjectStore> {
    let store = Faulty::new(Arc::new(MemoryStore::new()), 1);
    store.add(FaultRule::new(Fault::Stall).on(Operation::List).keys("*markers*"));
    Arc::new(store)
}

#[tokio::test(start_paused = true)]
async fn timeout_holds_while_the_repository_does_not_tell_its_keys() {
    let bench = Bench::on(stuck()).await;
    let begun = tokio::time::Instant::now();
    let timeout = Duration::from_secs(5);
    let marked = bench.marks.mark(order("release-42", Some("job-1"), timeout));
    let marked = tokio::time::timeout(LONG, marked).await.expect("the timeout was not kept");
    assert!(matches!(marked, Err(MarkError::NotLookedUp { .. })), "{marked:?}");
    assert!(begun.elapsed() <= timeout + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(bench.wal.0.load(Ordering::SeqCst), 0, "a restore point was made");
}

#[tokio::test(start_paused = true)]
async fn a_marker_without_key_does_not_wait_for_one_with_a_key() {
    let bench = Bench::on(stuck()).await;
    bench.decode_and_seal(0x70);
    let keyed = bench.marks.mark(order("release-42", Some("job-1"), LONG));
    let plain = async {
        tokio::task::yield_now().await;
        bench.marks.mark(order("release-43", None, Duration::from_secs(1))).await
    };
    let (keyed, plain) = tokio::join!(keyed, plain);
    assert!(keyed.is_err());
    assert!(plain.is_ok_and(|reply| reply.sealed));
}
