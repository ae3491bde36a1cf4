//! Recoveries on a real PostgreSQL: what is certified, and what is not.

mod origin;

use std::time::{Duration, Instant};

use origin::{Origin, Psql};

use super::*;
use crate::recovery::{RestorePlan, Transaction, TransactionEnd, WalRun};
use crate::restore::certificate::{Certificate, Verdict};
use crate::restore::server::{self, SqlProbe, StartOptions, companion_directory};
use crate::restore::testing::{lineage_in, memory};

/// A restored directory and all that a start needs.
struct Scene {
    origin: Origin,
    lineage: LineageStore,
    plan: RestorePlan,
    options: RestoreOptions,
    restorer: Restorer,
    cancel: CancellationToken,
}

impl Scene {
    /// None, said aloud, where there is no PostgreSQL.
    async fn new() -> Option<Self> {
        let mut origin = Origin::start()?;
        origin.sql("CREATE TABLE ledger (entry int)");
        let copy = origin.back_up();
        origin.insert(1);
        let target = origin.restore_point("release-42");
        let left_out = origin.insert(2);
        origin.archive_everything();

        let lineage = lineage_in(memory()).await;
        let manifest = origin.store(&lineage, &copy).await;
        let mut plan = plan_for(&lineage, &manifest);
        plan.target.lsn = target.start;
        plan.target.end_lsn = target.end;
        plan.target.last_kept = Some(transaction(target.xid_before));
        plan.target.first_left_out = Some(transaction(left_out));
        plan.wal = vec![WalRun {
            timeline: manifest.timeline,
            from_lsn: manifest.start_lsn,
            to_lsn: target.end,
            first_segment: copy.first_segment.clone(),
            last_segment: String::new(),
            segments: 1,
            ends_in_tails: false,
        }];
        let mut options = options(&origin.scratch().join("restored"));
        options.restore_command = RestoreCommand::Shell(format!("cp '{}/%f' \"%p\"", origin.archive().display()));
        let cancel = CancellationToken::new();
        let restorer = restorer(&lineage, &cancel);
        Some(Self { origin, lineage, plan, options, restorer, cancel })
    }

    async fn restore(&self) -> RestoredDirectory {
        let checked = self.restorer.check(&self.plan, &self.options).await.unwrap();
        self.restorer.restore(&self.plan, &self.options, checked).await.unwrap()
    }

    fn start_options(&self) -> StartOptions {
        StartOptions {
            bin_directory: Some(self.origin.bin_directory()),
            probe: Some(Arc::new(Psql)),
            deadline: Some(Duration::from_secs(60)),
            parameters: vec![("shared_buffers".to_owned(), "16MB".to_owned())],
            ..StartOptions::default()
        }
    }

    async fn start(&self, restored: &RestoredDirectory) -> Result<Certificate> {
        self.restorer.start(&self.plan, &self.options, restored, &self.start_options()).await
    }

    async fn ask(&self, certificate: &Certificate, sql: &str) -> Option<String> {
        let server = certificate.server.as_ref().unwrap();
        let endpoint = server::SqlEndpoint {
            socket_directory: server.socket_directory.clone(),
            port: server.port,
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
        };
        Psql.query(&endpoint, sql).await.unwrap()
    }

    fn kept_certificate(&self, restored: &RestoredDirectory) -> Certificate {
        let path = companion_directory(&restored.directory).join(Certificate::FILE_NAME);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn assert_no_server(&self, restored: &RestoredDirectory) {
        assert!(!restored.directory.join("postmaster.pid").exists(), "a server is running");
    }
}

fn transaction(xid: u32) -> Transaction {
    let time = "2026-11-22T06:31:00Z".parse().unwrap();
    Transaction { xid, time, lsn: crate::postgres::Lsn::new(1), end: TransactionEnd::Commit }
}

/// Ends the server by the command that a person would be told.
fn stop(certificate: &Certificate) {
    let command = format!("{} -m immediate", certificate.server.as_ref().unwrap().stop_command);
    let stopped = std::process::Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
}

#[tokio::test]
async fn target_is_reached_and_certified() {
    let Some(scene) = Scene::new().await else { return };
    let start = scene.start_options();
    let report = scene.restorer.run(&scene.plan, &scene.options, Some(&start)).await.unwrap();
    let (restored, certificate) = (report.restored, report.certificate.unwrap());
    assert_eq!(certificate.verdict, Verdict::Reached);
    assert_eq!(certificate.reached_lsn, Some(scene.plan.target.lsn));
    assert_eq!(certificate.timeline_after.map(crate::postgres::TimelineId::as_u32), Some(2));
    assert!(certificate.checks.len() >= 11, "{:#?}", certificate.checks);
    assert_eq!(scene.ask(&certificate, "SELECT string_agg(entry::text, ',') FROM ledger").await.as_deref(), Some("1"));
    assert_eq!(scene.ask(&certificate, "SHOW archive_mode").await.as_deref(), Some("off"));
    assert_eq!(scene.ask(&certificate, "SELECT count(*)::text FROM pg_replication_slots").await.as_deref(), Some("0"));
    stop(&certificate);

    assert_eq!(scene.kept_certificate(&restored), certificate);
    let key = scene.lineage.layout().restore(certificate.restore.as_str()).unwrap();
    let stored: Certificate = scene.lineage.get(&key).await.unwrap();
    assert_eq!(stored, certificate);
}

#[tokio::test]
async fn the_command_that_is_told_starts_the_server() {
    let Some(scene) = Scene::new().await else { return };
    let report = scene.restorer.run(&scene.plan, &scene.options, None).await.unwrap();
    assert_eq!(report.certificate, None);
    let programs = server::ServerPrograms::find(
        scene.plan.backup.postgres_version.major().unwrap(),
        Some(&scene.origin.bin_directory()),
    );
    let start_command = report.restored.start_command(Some(&programs.unwrap()));
    let socket = scene.origin.scratch().display().to_string();
    // Its port is the origin's, which still runs.
    let command = format!("{start_command} -o \"-p 5498 -k '{socket}'\" -s -w");
    let started = std::process::Command::new("sh").arg("-c").arg(&command).output().unwrap();
    assert!(started.status.success(), "{command}: {started:?}");
    let endpoint = server::SqlEndpoint {
        socket_directory: scene.origin.scratch().to_owned(),
        port: 5498,
        user: "postgres".to_owned(),
        database: "postgres".to_owned(),
    };
    let began = Instant::now();
    let in_recovery = "SELECT pg_is_in_recovery()::text";
    while Psql.query(&endpoint, in_recovery).await.ok().flatten().as_deref() != Some("false") {
        assert!(began.elapsed() < Duration::from_secs(60), "the server does not end its recovery");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows = Psql.query(&endpoint, "SELECT string_agg(entry::text, ',') FROM ledger").await;
    let stop = start_command.split(" start ").next().unwrap();
    let stop = format!("{stop} stop -m immediate -D '{}'", report.restored.directory.display());
    assert!(std::process::Command::new("sh").arg("-c").arg(stop).output().unwrap().status.success());
    assert_eq!(rows.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn a_directory_whose_server_gets_no_wal_is_not_ready() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.options.restore_command = RestoreCommand::Shell("echo no credentials >&2; exit 200".to_owned());
    let error = scene.restorer.run(&scene.plan, &scene.options, None).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Unavailable);
    assert!(
        error.to_string().contains("as user \"postgres\"") || error.to_string().contains("no credentials"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_wal_is_a_failure_and_never_a_success() {
    let Some(scene) = Scene::new().await else { return };
    scene.origin.lose_wal_after_backup();
    let restored = scene.restore().await;
    let error = scene.start(&restored).await.unwrap_err();
    assert!(matches!(error, Error::Server(server::Error::Recovery { .. })), "{error:?}");
    assert!(error.to_string().contains("recovery ended before configured recovery target was reached"), "{error}");
    assert_eq!(error.class(), FailureClass::Failed);
    scene.assert_no_server(&restored);
    let certificate = scene.kept_certificate(&restored);
    assert_eq!((certificate.verdict, certificate.server), (Verdict::NotReached, None));
    assert!(certificate.failure.is_some());
}

#[tokio::test]
async fn a_server_that_reached_something_else_is_stopped() {
    let Some(mut scene) = Scene::new().await else { return };
    let restored = scene.restore().await;
    // The server was told one target and is measured by another.
    scene.plan.target.lsn = scene.plan.target.lsn.advance(8);
    let error = scene.start(&restored).await.unwrap_err();
    assert!(matches!(error, Error::Server(server::Error::NotAsAsked { .. })), "{error:?}");
    scene.assert_no_server(&restored);
    let certificate = scene.kept_certificate(&restored);
    assert_eq!(certificate.verdict, Verdict::NotReached);
    assert!(certificate.failed_checks().any(|check| check.name == "last record replayed"));
}

#[tokio::test]
async fn a_transaction_that_should_not_be_there_is_noticed() {
    let Some(mut scene) = Scene::new().await else { return };
    let kept = scene.plan.target.last_kept.clone();
    scene.plan.target.first_left_out = kept;
    let restored = scene.restore().await;
    let error = scene.start(&restored).await.unwrap_err();
    assert!(error.to_string().contains("first transaction left out"), "{error}");
    scene.assert_no_server(&restored);
}

#[tokio::test]
async fn shutdown_at_the_target_is_a_success_without_a_server() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.options.action = TargetAction::Shutdown;
    let restored = scene.restore().await;
    let certificate = scene.start(&restored).await.unwrap();
    assert_eq!((certificate.verdict, certificate.timeline_after), (Verdict::Reached, None));
    assert_eq!(certificate.server, None);
    scene.assert_no_server(&restored);
}

#[tokio::test]
async fn pause_at_the_target_leaves_a_server_in_recovery() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.options.action = TargetAction::Pause;
    let restored = scene.restore().await;
    let certificate = scene.start(&restored).await.unwrap();
    assert_eq!(certificate.verdict, Verdict::Reached);
    assert_eq!(scene.ask(&certificate, "SELECT pg_is_in_recovery()::text").await.as_deref(), Some("true"));
    assert_eq!(scene.ask(&certificate, "SELECT count(*)::text FROM ledger").await.as_deref(), Some("1"));
    stop(&certificate);
}

#[tokio::test]
async fn an_interrupted_start_leaves_no_server() {
    let Some(mut scene) = Scene::new().await else { return };
    // Replay that never gets its first file.
    scene.options.restore_command = RestoreCommand::Shell("sleep 600".to_owned());
    let restored = scene.restore().await;
    let pid_file = restored.directory.join("postmaster.pid");
    let cancel = scene.cancel.clone();
    let watcher = async {
        let began = Instant::now();
        while !pid_file.exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "the server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cancel.cancel();
    };
    let (error, ()) = tokio::join!(scene.start(&restored), watcher);
    let error = error.unwrap_err();
    assert_eq!(error.class(), FailureClass::Interrupted, "{error:?}");
    scene.assert_no_server(&restored);
}

#[tokio::test]
async fn a_recovery_that_takes_too_long_is_stopped() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.options.restore_command = RestoreCommand::Shell("sleep 600".to_owned());
    let restored = scene.restore().await;
    let start = StartOptions { deadline: Some(Duration::from_secs(1)), ..scene.start_options() };
    let error = scene.restorer.start(&scene.plan, &scene.options, &restored, &start).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::TimedOut, "{error:?}");
    scene.assert_no_server(&restored);
}

#[tokio::test]
async fn without_its_label_or_its_signal_a_restored_directory_does_not_start() {
    let Some(scene) = Scene::new().await else { return };
    let restored = scene.restore().await;
    let signal = restored.directory.join("recovery.signal");
    std::fs::remove_file(&signal).unwrap();
    let error = scene.start(&restored).await.unwrap_err();
    assert!(matches!(error, Error::Server(server::Error::NotRecovering { .. })), "{error:?}");
    std::fs::write(&signal, "").unwrap();

    std::fs::remove_file(restored.directory.join("backup_label")).unwrap();
    let error = scene.start(&restored).await.unwrap_err();
    assert!(error.to_string().contains("could not locate a valid checkpoint record"), "{error}");
    scene.assert_no_server(&restored);
}

#[tokio::test]
async fn a_directory_beside_a_running_server_is_its_own() {
    let Some(scene) = Scene::new().await else { return };
    for inside in ["restored", "base/restored"] {
        let options = options(&scene.origin.data_directory().join(inside));
        let error = scene.restorer.check(&scene.plan, &options).await.unwrap_err();
        let refused = matches!(
            &error,
            Error::Destination(super::super::destination::Error::RunningServer { data_directory, .. })
                if *data_directory == scene.origin.data_directory()
        );
        assert!(refused, "{error:?}");
    }
}
