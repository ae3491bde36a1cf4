//! Base backups of a running server.

mod archive;
#[path = "../../../src/backup/testing/reader.rs"]
mod reader;
mod restore;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pitr::api::{BackupJob, BackupPhase, BackupState};
use pitr::clock::{Clock, SystemClock};
use pitr::postgres::{ServerVersion, SystemIdentifier, WalSegmentSize};
use pitr::repository::backup::{BackupId, BackupManifest, ContentsLine};
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::repository::{LineageStore, Repository};
use pitr::storage::LocalStore;
use pitr_agent::archiver::{ArchiveProgress, GapBook};
use pitr_agent::backup::{BackupContext, BackupError, BackupOptions, BackupService, JobReporter, claim, run_backup};
use pitr_agent::http::BackupDoor;
use pitr_agent::schedule::Schedule;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::{Server, binaries, directory, eventually, succeed};
use archive::Archive;
use restore::Restored;

/// A server with data checksums, and a repository with its lineage.
struct Bench {
    server: Server,
    repository: TempDir,
    context: BackupContext,
    archive: Archive,
    job: watch::Sender<Option<BackupJob>>,
}

impl Bench {
    async fn new() -> Option<Self> {
        let server = Server::start(&binaries()?, "wal_keep_size = '4GB'\nautovacuum_naptime = 1s\n");
        server.stop("fast");
        succeed(server.tool("pg_checksums").arg("--enable").arg("--no-sync").arg("-D").arg(server.data()));
        server.run();
        let system_identifier = server.sql("SELECT system_identifier FROM pg_control_system()").parse().unwrap();
        let repository = directory();
        let lineage = lineage(&repository, system_identifier).await;
        let progress = ArchiveProgress::default();
        let context = BackupContext {
            lineage: lineage.clone(),
            conninfo: server.conninfo(),
            standby: None,
            archive: progress.clone(),
            gaps: GapBook::default(),
            clock: Arc::new(SystemClock),
            host: "test".to_owned(),
            agent_version: "0.0.0".to_owned(),
        };
        let archive = Archive::start(&server, lineage, progress).await;
        Some(Self { server, repository, context, archive, job: watch::Sender::new(None) })
    }

    fn options() -> BackupOptions {
        BackupOptions { archive_timeout: Duration::from_secs(60), ..BackupOptions::with_threads(2) }
    }

    /// So slow that something can happen in the middle.
    fn slow() -> BackupOptions {
        BackupOptions { bandwidth_limit: Some(200_000), ..Self::options() }
    }

    async fn run(
        &self,
        options: BackupOptions,
        cancel: &CancellationToken,
    ) -> (Result<BackupManifest, BackupError>, BackupJob) {
        let reporter = JobReporter::new(self.job.clone());
        let claimed = claim(&self.context, &options, false).await.unwrap();
        reporter.begin(&claimed.id, SystemClock.now());
        let result = run_backup(&self.context, &options, &claimed, &reporter, cancel).await;
        let job = self.job.borrow().clone().unwrap();
        (result, job)
    }

    /// Waits until a backup copies files.
    async fn copying(&self) {
        eventually("a backup that copies", 30, async || {
            self.job.borrow().as_ref().is_some_and(|job| job.phase == BackupPhase::Copying)
        })
        .await;
    }

    async fn manifests(&self) -> usize {
        let lineage = &self.context.lineage;
        let objects = lineage.list(&lineage.layout().backups()).await.unwrap();
        objects.iter().filter(|object| object.key.file_name() == "manifest.json").count()
    }

    /// How many sessions of backups the server has.
    fn sessions(&self) -> String {
        self.server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pitr-agent backup'")
    }
}

async fn lineage(repository: &TempDir, system_identifier: SystemIdentifier) -> LineageStore {
    let store = Arc::new(LocalStore::open(repository.path()).await.unwrap());
    let repository = Repository::open_or_create(store, &SystemClock).await.unwrap();
    let wanted = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(system_identifier, 1),
        postgres_version: ServerVersion::new(150_000),
        wal_segment_size: WalSegmentSize::DEFAULT,
        created: SystemClock.now(),
        restore: None,
    };
    repository.ensure_lineage(&wanted).await.unwrap()
}

/// Tables of every kind, in and out of a tablespace with an awkward name.
fn populate(server: &Server, tablespace: &TempDir) {
    succeed(server.tool("pgbench").args(["-i", "-q", "-s", "8", "postgres"]));
    let location = tablespace.path().join("with space");
    std::fs::create_dir(&location).unwrap();
    crate::support::hand_over(&location);
    server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", location.display()));
    server.sql(
        "CREATE TABLE placed TABLESPACE elsewhere AS SELECT n, repeat('x', 100) AS filler FROM generate_series(1, 20000) n;
         CREATE UNLOGGED TABLE unlogged AS SELECT n FROM generate_series(1, 1000) n;
         CREATE TABLE ledger (n bigserial PRIMARY KEY, at timestamptz DEFAULT now());
         CREATE TABLE sparse (n int) ; INSERT INTO sparse VALUES (1);",
    );
    server.sql("CREATE DATABASE second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_recovers_to_a_sound_cluster() {
    let Some(bench) = Bench::new().await else { return };
    let tablespace = directory();
    populate(&bench.server, &tablespace);
    let mut load = bench.server.tool("pgbench");
    load.args(["-n", "-c", "4", "-T", "12", "postgres"]).stdout(std::process::Stdio::null());
    let mut load = load.spawn().unwrap();
    let mut ddl = {
        let mut tool = bench.server.tool("psql");
        let script = "
            DO $$ BEGIN FOR i IN 1..300 LOOP
                EXECUTE format('CREATE TABLE t%s (n int PRIMARY KEY, v text)', i);
                EXECUTE format('INSERT INTO t%s SELECT n, repeat(''v'', 300) FROM generate_series(1, 500) n', i);
                IF i % 3 = 0 THEN EXECUTE format('DROP TABLE t%s', i - 1); END IF;
                IF i % 5 = 0 THEN EXECUTE format('TRUNCATE t%s', i); END IF;
                INSERT INTO ledger DEFAULT VALUES;
                COMMIT;
                PERFORM pg_sleep(0.01);
            END LOOP; END $$";
        tool.args(["-X", "-q", "-c", script, "postgres"]).spawn().unwrap()
    };
    let options = BackupOptions { bandwidth_limit: Some(4_000_000), ..Bench::options() };
    let (result, job) = bench.run(options, &CancellationToken::new()).await;
    let manifest = result.unwrap();
    assert!(load.wait().unwrap().success() && ddl.wait().unwrap().success());

    assert_eq!((job.state, job.error), (BackupState::Complete, None));
    assert_eq!(job.new_bytes > 0, manifest.new_bytes > 0);
    assert!(manifest.corrupt_pages.is_empty(), "{:?}", manifest.corrupt_pages);
    assert!(manifest.data_checksums && manifest.stored_bytes < manifest.size_bytes);
    assert!(manifest.start_lsn < manifest.end_record_lsn && manifest.end_record_lsn < manifest.stop_lsn);
    assert_eq!(manifest.tablespaces.len(), 1);
    assert_eq!(bench.sessions(), "0");

    let restored = Restored::new(&bench.server, &bench.context.lineage, &manifest, &bench.archive).await;
    restored.start();
    // What recovery reached is the end of the backup: whole transactions, and every one that was committed at its start.
    let sums = restored.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
            AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
    );
    assert_eq!(sums, "t");
    assert_eq!(restored.sql("SELECT count(*), max(n) FROM placed"), "20000|20000");
    assert_eq!(restored.sql("SELECT count(*) FROM unlogged"), "0");
    assert_eq!(restored.sql("SELECT max(n) = count(*) AND count(*) > 0 FROM ledger"), "t");
    restored.check_with_tools();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_says_of_itself_is_what_is_stored() {
    let Some(bench) = Bench::new().await else { return };
    let tablespace = directory();
    populate(&bench.server, &tablespace);
    let (result, _) = bench.run(Bench::options(), &CancellationToken::new()).await;
    let manifest = result.unwrap();
    let lineage = &bench.context.lineage;
    let mut reader = reader::Reader::new(lineage);
    let (read, lines) = reader.backup(&manifest.id).await;
    assert_eq!(read, manifest);

    let (mut files, mut bytes) = (0, 0);
    let mut packs = std::collections::BTreeMap::new();
    for line in &lines {
        match line {
            ContentsLine::Map { hash, files: count, plain_bytes, stored_bytes, .. } => {
                let read = reader.map(hash).await;
                assert_eq!(read.len() as u64, *count);
                assert_eq!(read.values().map(|file| file.content.len() as u64).sum::<u64>(), *plain_bytes);
                let object = lineage.store().head(&lineage.layout().map(hash)).await.unwrap();
                assert_eq!(object.size_bytes, *stored_bytes);
                files += count;
                bytes += plain_bytes;
            }
            ContentsLine::Pack { id, bytes, live_bytes, .. } => {
                let object = lineage.store().head(&lineage.layout().pack(id)).await.unwrap();
                assert_eq!(object.size_bytes, *bytes);
                packs.insert(id.clone(), (*bytes, *live_bytes));
            }
            _ => {}
        }
    }
    assert_eq!((manifest.files, manifest.size_bytes), (files, bytes));
    assert_eq!(manifest.stored_bytes, packs.values().map(|(bytes, _)| bytes).sum::<u64>());
    for (id, (_, live_bytes)) in &packs {
        let live: u64 = reader.live.iter().filter(|((pack, _), _)| pack == id).map(|(_, bytes)| bytes).sum();
        assert_eq!(live, *live_bytes, "{id}");
    }
    let kinds: Vec<u8> = lines
        .iter()
        .map(|line| match line {
            ContentsLine::Directory { .. } => 0,
            ContentsLine::Link { .. } => 1,
            ContentsLine::External { .. } => 2,
            ContentsLine::Pack { .. } => 3,
            ContentsLine::Map { .. } => 4,
        })
        .collect();
    assert!(kinds.is_sorted());
    // Nothing of ours has touched the live data directory.
    assert!(!bench.server.data().join("backup_label").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_dies_with_its_session_within_seconds() {
    let Some(bench) = Bench::new().await else { return };
    succeed(bench.server.tool("pgbench").args(["-i", "-q", "-s", "5", "postgres"]));
    let never = CancellationToken::new();
    let run = bench.run(Bench::slow(), &never);
    let kill = async {
        bench.copying().await;
        bench
            .server
            .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pitr-agent backup'");
        Instant::now()
    };
    let ((result, job), killed) = tokio::join!(run, kill);
    let error = result.unwrap_err();
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert!(error.to_string().contains("session"), "{error}");
    assert_eq!(job.state, BackupState::Failed);
    assert!(job.error.unwrap().contains("earlier backups and the archiving of WAL are not affected"));
    assert_eq!(bench.manifests().await, 0);

    // The next one is none the worse for it.
    let (result, _) = bench.run(Bench::options(), &never).await;
    result.unwrap();
    assert_eq!(bench.manifests().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_stopped_leaves_nothing_running() {
    let Some(bench) = Bench::new().await else { return };
    succeed(bench.server.tool("pgbench").args(["-i", "-q", "-s", "5", "postgres"]));
    let cancel = CancellationToken::new();
    let run = bench.run(Bench::slow(), &cancel);
    let stop = async {
        bench.copying().await;
        cancel.cancel();
        Instant::now()
    };
    let ((result, _), stopped) = tokio::join!(run, stop);
    assert!(result.unwrap_err().is_cancelled());
    assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
    eventually("the session's end", 10, async || bench.sessions() == "0").await;
    assert_eq!(bench.manifests().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_another_cluster_and_a_standby() {
    let Some(mut bench) = Bench::new().await else { return };
    let context = bench.context.clone();
    bench.context.lineage = lineage(&bench.repository, SystemIdentifier::new(1)).await;
    let (result, _) = bench.run(Bench::options(), &CancellationToken::new()).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("system identifier"), "{error}");
    assert!(error.hint().is_some());

    let standby = Server::standby_of(&bench.server, "");
    bench.context = BackupContext { conninfo: standby.conninfo(), ..context };
    let (result, _) = bench.run(Bench::options(), &CancellationToken::new()).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("the server is a standby"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_wal_does_not_arrive_does_not_exist() {
    let Some(bench) = Bench::new().await else { return };
    let never = CancellationToken::new();
    let options =
        BackupOptions { archive_timeout: Duration::from_secs(3), bandwidth_limit: Some(2_000_000), ..Bench::options() };
    let run = bench.run(options, &never);
    let hold = async {
        bench.copying().await;
        bench.archive.hold();
    };
    let ((result, _), ()) = tokio::join!(run, hold);
    let error = result.unwrap_err();
    assert!(matches!(error, BackupError::WalNotSealed { .. }), "{error}");
    assert_eq!(bench.manifests().await, 0);

    // Nor does it begin where nothing arrives at all.
    bench.server.sql("CREATE TABLE t (n int)");
    let (result, _) = bench.run(options, &never).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BackupError::WalNotArchived { .. }), "{error}");
    assert_eq!(bench.sessions(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_reported_by_block() {
    let Some(bench) = Bench::new().await else { return };
    succeed(bench.server.tool("pgbench").args(["-i", "-q", "-s", "2", "postgres"]));
    bench.server.sql("CHECKPOINT");
    let file = bench.server.sql("SELECT pg_relation_filepath('pgbench_accounts')");
    {
        use std::os::unix::fs::FileExt;
        let handle = std::fs::OpenOptions::new().write(true).open(bench.server.data().join(&file)).unwrap();
        handle.write_all_at(b"damage", 17 * 8192 + 4000).unwrap();
    }
    let (result, job) = bench.run(Bench::options(), &CancellationToken::new()).await;
    let manifest = result.unwrap();
    let found: Vec<_> = manifest.corrupt_pages.iter().map(|page| (page.path.to_string(), page.block)).collect();
    assert_eq!(found, [(file, 17)]);
    assert_eq!(job.corrupt_pages, 1);
}

/// A clock that runs ahead of this machine's.
#[derive(Debug)]
struct Ahead(std::sync::Mutex<chrono::TimeDelta>);

impl Clock for Ahead {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + *self.0.lock().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_takes_the_first_backup_by_itself_and_others_when_asked() {
    let Some(bench) = Bench::new().await else { return };
    let clock = Arc::new(Ahead(std::sync::Mutex::default()));
    let context = BackupContext { clock: clock.clone(), ..bench.context.clone() };
    let schedule = Schedule::parse("0 2 * * *", chrono_tz::Tz::UTC).unwrap();
    let cancel = CancellationToken::new();
    let (service, desk) = BackupService::new(context.clone(), Bench::options(), Some(schedule.clone()));
    let running = tokio::spawn(service.run(cancel.clone()));
    let complete = async |desk: &pitr_agent::backup::BackupDesk| {
        eventually("a complete backup", 60, async || {
            desk.current().is_some_and(|job| {
                assert_ne!(job.state, BackupState::Failed, "{:?}", job.error);
                job.state == BackupState::Complete
            })
        })
        .await;
    };
    complete(&desk).await;
    assert_eq!(bench.manifests().await, 1);
    eventually("the next firing", 5, async || desk.next_backup() == schedule.next_after(clock.now())).await;

    let asked: BackupId = desk.request(false).await.unwrap().id;
    let busy = desk.request(false).await.unwrap_err();
    assert_eq!(busy.id, asked);
    complete(&desk).await;
    assert_eq!(desk.current().unwrap().id, asked);
    assert_eq!(bench.manifests().await, 2);
    cancel.cancel();
    running.await.unwrap().unwrap();

    // A day later: the firing of the night was missed, and is made up for once.
    *clock.0.lock().unwrap() = chrono::TimeDelta::hours(24);
    let cancel = CancellationToken::new();
    let (service, desk) = BackupService::new(context, Bench::options(), Some(schedule));
    let running = tokio::spawn(service.run(cancel.clone()));
    complete(&desk).await;
    assert_eq!(bench.manifests().await, 3);
    cancel.cancel();
    running.await.unwrap().unwrap();
}
