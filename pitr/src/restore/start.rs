//! From a restored directory to a server that reached the target, and the certificate of it.

use std::path::Path;
use std::time::Instant;

use super::certificate::{Certificate, CertifiedServer, Check, PhaseSeconds, RestoredBytes, Verdict};
use super::copy::blocking;
use super::execute::{RestoredDirectory, Restorer, major_version};
use super::options::RestoreOptions;
use super::progress::Phase;
use super::server::{
    Ended, Expected, Observed, RunDirectory, ServerCommand, ServerPrograms, SqlEndpoint, StartOptions, Supervisor,
    test_restore_command, verify,
};
use super::settings::ConfigView;
use super::shell::shell_word;
use super::{Error, Result, server};
use crate::postgres::SegmentName;
use crate::recovery::RestorePlan;
use crate::repository::wal_store::WalStore;

/// `port` where nothing is configured.
const DEFAULT_PORT: u16 = 5432;
/// The check that fails where nobody may come in.
const ANSWERS: &str = "server answers";

impl Restorer {
    /// Runs the `restore_command` once, as the server's user, for the first segment that recovery needs. A directory is not
    /// ready while its server could not get its WAL.
    ///
    /// # Errors
    /// The command fails, or delivers something that is no segment.
    pub async fn test_restore_command(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        restored: &RestoredDirectory,
    ) -> Result<()> {
        let Some(run) = plan.wal.first() else { return Ok(()) };
        let command = options.restore_command.text();
        let size = plan.backup.wal_segment_size;
        let test = test_restore_command(&command, &run.first_segment, size, &restored.directory, &restored.ownership);
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::Interrupted),
            tested = test => Ok(tested?),
        }
    }

    /// Starts a server on the restored directory, waits until its recovery is over, and certifies what it reached. The
    /// server goes on running, in a session of its own; one that did not get where it should is stopped.
    ///
    /// The certificate is kept beside the directory and, where that can be written, in the repository; also that of a
    /// failure.
    ///
    /// # Errors
    /// [`Error::Server`]: it was not started, or it is not what was asked for.
    pub async fn start(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        restored: &RestoredDirectory,
        start: &StartOptions,
    ) -> Result<Certificate> {
        let command = self.server_command(plan, options, restored, start).await?;
        let mut certificate = self.blank_certificate(plan, options, restored);
        let outcome = match self.supervise(plan, &command, start, &mut certificate).await {
            Err(Error::Server(unserved @ server::Error::Unserved { .. })) => Err(self.cause(unserved).await),
            outcome => outcome,
        };
        certificate.finished = self.clock.now();
        certificate.failure = outcome.as_ref().err().map(ToString::to_string);
        let checked = !certificate.checks.is_empty() && certificate.failed_checks().next().is_none();
        certificate.verdict = if outcome.is_ok() && checked { Verdict::Reached } else { Verdict::NotReached };
        self.keep(&mut certificate, &command).await;
        outcome?;
        self.progress.phase(Phase::Done);
        Ok(certificate)
    }

    /// What the server could not be given is looked at again: damage is damage, however often it is asked for.
    async fn cause(&self, unserved: server::Error) -> Error {
        if let server::Error::Unserved { reason, .. } = &unserved
            && let Some(name) = reason.split('"').find_map(|word| word.parse::<SegmentName>().ok())
            && let Err(found) = WalStore::new(self.lineage.clone()).read_segment(name).await
            && found.is_corruption()
        {
            return found.into();
        }
        unserved.into()
    }

    async fn server_command(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        restored: &RestoredDirectory,
        start: &StartOptions,
    ) -> Result<ServerCommand> {
        let version = major_version(plan)?;
        let (restored, start, action) = (restored.clone(), start.clone(), options.action);
        blocking(move || {
            // Without it a server would take the backup for one that crashed, and go on on the origin's own timeline.
            if !restored.directory.join("recovery.signal").exists() {
                return Err(server::Error::NotRecovering { directory: restored.directory }.into());
            }
            let programs = ServerPrograms::find(version, start.bin_directory.as_deref())?;
            let view = ConfigView::read(&restored.directory)?;
            let configured = view.value("port").and_then(|port| std::str::from_utf8(port).ok()?.trim().parse().ok());
            let port = start.port.or(configured).unwrap_or(DEFAULT_PORT);
            let ownership = restored.ownership.clone();
            let owner = ownership.give_away.then_some((ownership.account.uid, ownership.gid));
            let run_directory = RunDirectory::make(&restored.directory, owner)?;
            let private_socket = start.socket_directory.is_none();
            let socket_directory = match start.socket_directory {
                Some(directory) => directory,
                None => run_directory.socket_directory(port)?,
            };
            let command = ServerCommand {
                programs,
                ownership,
                run_directory,
                socket_directory,
                private_socket,
                port,
                listen_addresses: start.listen_addresses,
                action,
                parameters: start.parameters,
                data_directory: restored.directory,
            };
            let original = std::fs::read(command.data_directory.join("pg_hba.conf")).unwrap_or_default();
            command.write_hba_file(&original)?;
            Ok(command)
        })
        .await
    }

    async fn supervise(
        &self,
        plan: &RestorePlan,
        command: &ServerCommand,
        start: &StartOptions,
        certificate: &mut Certificate,
    ) -> Result<()> {
        self.progress.update(|progress| {
            progress.replay_from = Some(plan.backup.start_lsn);
            progress.replay_to = Some(plan.target.end_lsn);
        });
        let began = Instant::now();
        let supervisor = Supervisor {
            command,
            segment_size: plan.backup.wal_segment_size,
            deadline: start.deadline,
            progress: &self.progress,
            cancel: &self.cancel,
        };
        let supervised = supervisor.run().await;
        certificate.seconds.push(seconds("replay", began));
        let (mut clone, observed, ended) = supervised?;

        self.progress.phase(Phase::Verifying);
        let began = Instant::now();
        let verified = self.verify(plan, command, start, certificate, (&observed, ended)).await;
        certificate.seconds.push(seconds("verify", began));
        if let Err(error) = verified {
            clone.stop().await;
            return Err(error);
        }
        if ended != Ended::ShutDown {
            certificate.server = Some(CertifiedServer {
                version: command.programs.version().to_owned(),
                pid: clone.pid(),
                port: command.port,
                socket_directory: command.socket_directory.clone(),
                log: command.run_directory.log(),
                stop_command: command.stop_command(),
            });
        }
        Ok(())
    }

    /// Fills in what was reached.
    async fn verify(
        &self,
        plan: &RestorePlan,
        command: &ServerCommand,
        start: &StartOptions,
        certificate: &mut Certificate,
        (observed, ended): (&Observed, Ended),
    ) -> Result<()> {
        let expected = Expected {
            target: &plan.target,
            system_identifier: plan.backup.system_identifier,
            segment_size: plan.backup.wal_segment_size,
            version: major_version(plan)?,
            action: command.action,
            data_directory: &command.data_directory,
        };
        let endpoints = endpoints(command, start);
        let probe = start.probe.as_deref().map(|probe| (probe, endpoints.as_slice()));
        let mut checks = verify(&expected, observed, ended, probe).await;
        if !command.private_socket {
            // Whom the configuration lets in is not ours to say.
            certificate.notes.extend(unanswered(&mut checks));
        }
        certificate.reached_lsn = observed.stopping_after;
        certificate.timeline_after = observed.timeline.filter(|_| ended == Ended::Promoted);
        certificate.checks = checks;
        let failed: Vec<String> = certificate
            .failed_checks()
            .map(|check| format!("{}: {} expected, {} found", check.name, check.expected, check.found))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(server::Error::NotAsAsked { failed: failed.join("; "), log: command.run_directory.log() }.into())
    }

    fn blank_certificate(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        restored: &RestoredDirectory,
    ) -> Certificate {
        let phase = |(phase, seconds): &(&str, f64)| PhaseSeconds::new(phase, *seconds);
        Certificate {
            restore: options.restore.clone(),
            cluster: plan.lineage.cluster.clone(),
            lineage: plan.lineage.lineage,
            system_identifier: plan.backup.system_identifier,
            asked: plan.target.asked.clone(),
            backup: plan.backup.id.clone(),
            data_directory: restored.directory.clone(),
            started: restored.started,
            finished: self.clock.now(),
            timeline_before: plan.target.timeline,
            timeline_after: None,
            target_lsn: plan.target.lsn,
            reached_lsn: None,
            last_kept: plan.target.last_kept.clone(),
            first_left_out: plan.target.first_left_out.clone(),
            checks: Vec::new(),
            seconds: restored.seconds.iter().map(phase).collect(),
            bytes: RestoredBytes {
                files: restored.files,
                restored: restored.bytes,
                fetched: restored.fetched_bytes,
                wal: plan.fetch.wal_bytes,
            },
            server: None,
            notes: restored.notes.clone(),
            failure: None,
            verdict: Verdict::NotReached,
        }
    }

    /// Puts the certificate into the repository, if we may, and beside the directory. Neither decides about the restore.
    async fn keep(&self, certificate: &mut Certificate, command: &ServerCommand) {
        let key = self.lineage.layout().restore(certificate.restore.as_str());
        if let Some(key) = key
            && let Err(error) = self.lineage.create(&key, certificate).await
        {
            tracing::debug!(%key, %error, "certificate not kept in the repository");
            certificate.notes.push(format!("the certificate is not kept in the repository: {}", in_words(&error)));
        }
        let (run_directory, content) = (command.run_directory.clone(), serde_json::to_vec_pretty(certificate));
        let Ok(mut content) = content else { return };
        content.push(b'\n');
        let kept = blocking(move || Ok(run_directory.publish(Certificate::FILE_NAME, &content)?)).await;
        if let Err(error) = kept {
            certificate
                .notes
                .push(format!("the certificate is not kept beside the data directory: {}", in_words(&error)));
        }
    }
}

impl Restorer {
    /// Whether [`Restorer::start`] will find the programs it needs; to be asked before anything is copied.
    ///
    /// # Errors
    /// It will not.
    pub async fn check_start(&self, plan: &RestorePlan, start: &StartOptions) -> Result<()> {
        let (version, directory) = (major_version(plan)?, start.bin_directory.clone());
        blocking(move || Ok(ServerPrograms::find(version, directory.as_deref()).map(drop)?)).await
    }
}

impl RestoredDirectory {
    /// The command that starts a server here by hand, to be run by the user that owns the files.
    #[must_use]
    pub fn start_command(&self, programs: Option<&ServerPrograms>) -> String {
        let pg_ctl = programs.map_or_else(|| "pg_ctl".to_owned(), |programs| shell_word(programs.pg_ctl()));
        let (directory, log) = (shell_word(&self.directory), shell_word(self.directory.join("pitr_recovery.log")));
        // The default patience of pg_ctl is a minute, a recovery takes what it takes.
        self.ownership.command_of_account(&format!("{pg_ctl} start -D {directory} -l {log} -t 86400"))
    }

    /// The programs that fit the backup of `plan`, for [`RestoredDirectory::start_command`]. Blocks.
    #[must_use]
    pub fn programs(plan: &RestorePlan, bin_directory: Option<&Path>) -> Option<ServerPrograms> {
        ServerPrograms::find(plan.backup.postgres_version.major()?, bin_directory).ok()
    }
}

fn seconds(phase: &str, began: Instant) -> PhaseSeconds {
    PhaseSeconds::new(phase, began.elapsed().as_secs_f64())
}

fn endpoints(command: &ServerCommand, start: &StartOptions) -> Vec<SqlEndpoint> {
    let mut users = vec![command.ownership.account.name.clone(), "postgres".to_owned()];
    users.splice(0..0, start.user.clone());
    users.dedup();
    let endpoint = |user| SqlEndpoint {
        socket_directory: command.socket_directory.clone(),
        port: command.port,
        user,
        database: "postgres".to_owned(),
    };
    users.into_iter().map(endpoint).collect()
}

fn unanswered(checks: &mut Vec<Check>) -> Vec<String> {
    let (failed, kept) = std::mem::take(checks).into_iter().partition(|check| check.name == ANSWERS && !check.ok);
    *checks = kept;
    let failed: Vec<Check> = failed;
    failed.into_iter().map(|check| format!("the server was not asked: {}", check.found)).collect()
}

fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
