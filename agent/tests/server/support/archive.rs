//! A repository in memory and archivers that fill it, compared with the server's own files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pitr::clock::SystemClock;
use pitr::postgres::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::repository::{LineageStore, Repository, StoredSegment, WalStore};
use pitr::storage::fault::Faulty;
use pitr::storage::{KeyPrefix, MemoryStore, ObjectStore, ObjectStoreExt};
use pitr_agent::archiver::{ArchiveProgress, Archiver, ArchiverError, ArchiverOptions};
use pitr_agent::postgres::{Instance, sql};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Server, eventually};

pub struct Archive {
    pub store: Arc<Faulty>,
    pub lineage: LineageStore,
    pub wal: WalStore,
}

/// An archiver at work.
pub struct Running {
    pub progress: ArchiveProgress,
    pub cancel: CancellationToken,
    task: JoinHandle<Result<(), ArchiverError>>,
}

impl Archive {
    /// An empty one for `server`.
    pub async fn of(server: &Server) -> Self {
        let session = sql::connect(&server.conninfo()).await.unwrap();
        let instance = Instance::read(&session).await.unwrap();
        session.close().await.unwrap();
        let store = Arc::new(Faulty::new(Arc::new(MemoryStore::new()), 1));
        let repository =
            Repository::open_or_create(Arc::clone(&store) as Arc<dyn ObjectStore>, &SystemClock).await.unwrap();
        let lineage = Lineage {
            cluster: "main".parse().unwrap(),
            lineage: LineageId::new(instance.system_identifier, 1),
            postgres_version: instance.version,
            wal_segment_size: instance.segment_size,
            created: chrono::DateTime::UNIX_EPOCH,
            restore: None,
        };
        let lineage = repository.ensure_lineage(&lineage).await.unwrap();
        Self { store, wal: WalStore::new(lineage.clone()), lineage }
    }

    pub fn segment_size(&self) -> WalSegmentSize {
        self.lineage.lineage().wal_segment_size
    }

    pub fn start(&self, server: &Server) -> Running {
        self.start_with(server, |options| options.flush_interval = Duration::from_millis(100))
    }

    pub fn start_with(&self, server: &Server, change: impl FnOnce(&mut ArchiverOptions)) -> Running {
        let progress = ArchiveProgress::default();
        let mut options = ArchiverOptions::new(
            server.conninfo(),
            "pitr_main".to_owned(),
            self.lineage.clone(),
            progress.clone(),
            Arc::new(SystemClock),
        );
        change(&mut options);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Archiver::new(options).run(cancel.clone()));
        Running { progress, cancel, task }
    }

    /// How many objects there are.
    pub async fn objects(&self) -> Vec<String> {
        let listed = self.store.list_all(&KeyPrefix::root(), 100_000).await.unwrap();
        listed.iter().map(|meta| meta.key.to_string()).filter(|key| !key.ends_with("lease")).collect()
    }

    /// Every segment of a timeline, as far as it is stored.
    pub async fn segments(&self, timeline: TimelineId) -> BTreeMap<SegmentName, StoredSegment> {
        let mut found = BTreeMap::new();
        for log in self.wal.logs(timeline).await.unwrap() {
            let listed = self.wal.log(timeline, log).await.unwrap();
            for name in listed.segments.iter().chain(listed.tails.keys()) {
                found.insert(*name, self.wal.read_segment(*name).await.unwrap().unwrap());
            }
        }
        found
    }

    /// Proves that the repository has every byte of the timeline from its first segment up to `end`, and that they are those
    /// of the server's own files. Returns how many segments there were.
    pub async fn assert_complete(&self, server: &Server, timeline: TimelineId, end: Lsn) -> usize {
        let size = self.segment_size();
        let segments = self.segments(timeline).await;
        let first = segments.keys().next().expect("something is stored").number(size).unwrap();
        let last = size.segment_before(end);
        let mut number = first;
        while number <= last {
            let name = number.name(timeline, size);
            let stored = segments.get(&name).unwrap_or_else(|| panic!("segment {name} is missing"));
            let wanted = usize::try_from(end.distance_from(size.start_of(number)).unwrap()).unwrap();
            let wanted = wanted.min(size.as_usize());
            assert!(stored.bytes().len() >= wanted, "{name}: {} of {wanted} bytes", stored.bytes().len());
            if let Ok(own) = std::fs::read(server.data().join("pg_wal").join(name.to_string())) {
                assert!(stored.bytes()[..wanted] == own[..wanted], "{name} differs from the server's file");
            }
            number = number.next();
        }
        (last.as_u64() - first.as_u64() + 1) as usize
    }
}

impl Running {
    /// Ends it as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Asks it to stop and waits for that.
    pub async fn stop(self) -> Result<(), ArchiverError> {
        self.cancel.cancel();
        self.ended().await
    }

    pub async fn ended(self) -> Result<(), ArchiverError> {
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("it ends").unwrap()
    }

    pub async fn sealed(&self, lsn: Lsn, seconds: u64) {
        let sealed = self.progress.wait_sealed(lsn, Duration::from_secs(seconds)).await;
        assert!(sealed.is_ok(), "{lsn} is not sealed: {:?}", self.progress.now());
    }

    pub async fn connected(&self) {
        let progress = &self.progress;
        eventually("the archiver streams", 30, async || progress.now().connected).await;
    }
}
