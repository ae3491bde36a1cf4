//! Starting the services in order, and stopping them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pitr::clock::Clock;
use pitr::config::{BackupConfig, Config, Environment};
use pitr::retention::Policy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::prepare::{Memory, PrepareError, Prepared, prepare, server_address};
use super::status::{BackupOutlook, Identity, StatusBoard};
use crate::archiver::{self, ArchiveProgress, Archiver, ArchiverOptions, Findings, Valve};
use crate::backup::{BackupContext, BackupOptions, BackupService};
use crate::error_text::in_full;
use crate::expire::{ExpireService, ExpireSettings, SweepGate};
use crate::http::{self, ApiState, Doors, ServerError};
use crate::mark::{Claims, MarkService, ServerRestorePoints};
use crate::schedule::{Schedule, ScheduleError};
use crate::summaries::SummaryService;
use crate::supervisor::{Supervisor, SupervisorError};
use crate::wal_push::PushService;

/// Between two tries to reach server and repository.
const RETRY: Duration = Duration::from_secs(3);
/// How often the slot on the server is looked at.
const VALVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the services may take to stop: less than `TimeoutStopSec` of the unit.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    pub config: Config,
    pub environment: Environment,
    pub clock: Arc<dyn Clock>,
    pub socket: PathBuf,
}

/// Why the daemon ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Listen(#[from] ServerError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("a schedule cannot be used")]
    Schedule(#[from] ScheduleError),
    #[error(transparent)]
    Service(#[from] SupervisorError),
}

impl DaemonError {
    /// Whether starting again would change nothing: a person has to decide which history is the right one.
    #[must_use]
    pub fn wants_a_decision(&self) -> bool {
        match self {
            Self::Service(SupervisorError::Failed { source, .. }) => {
                source.downcast_ref().is_some_and(crate::archiver::ArchiverError::wants_a_decision)
            }
            _ => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen(ServerError::InUse { .. }) => Some("one cluster has one agent: stop the other one".to_owned()),
            Self::Listen(_) => Some("set [http] socket to a path in a folder of the agent's user".to_owned()),
            Self::Prepare(error) => error.hint(),
            Self::Schedule(error) => Some(error.hint().to_owned()),
            Self::Service(SupervisorError::Failed { source, .. }) => {
                source.downcast_ref::<crate::archiver::ArchiverError>().and_then(crate::archiver::ArchiverError::hint)
            }
            Self::Service(_) => None,
        }
    }
}

/// Runs until `stop`, then stops in order: no more orders, no more WAL, the last flush, the lease.
///
/// # Errors
/// What only a person can mend, or a service that ended by itself.
pub async fn run(launch: Launch, stop: CancellationToken) -> Result<(), DaemonError> {
    let Launch { config, environment, clock, socket } = launch;
    let schedule = match &config.backup.schedule {
        Some(text) => Some(Schedule::parse(text, config.backup.timezone)?),
        None => None,
    };
    let expire_schedule = match &config.retention.schedule {
        Some(text) => Some(Schedule::parse(text, config.retention.timezone)?),
        None => None,
    };
    let progress = ArchiveProgress::default();
    let memory = Memory::default();
    let board = StatusBoard::new(config.cluster.clone(), progress.clone(), memory.clone(), clock.as_ref());
    let (doors, open_doors) = watch::channel(None);
    let state = ApiState { status: Arc::new(board.clone()), doors: open_doors };

    let mut supervisor = Supervisor::new(stop.clone());
    let listener = http::bind_socket(&socket)?;
    let full = http::full(state.clone());
    supervisor.spawn("API on the socket", http::serve_socket(listener, socket.clone(), full, stop.clone()));
    if let Some(address) = config.http.listen {
        supervisor.spawn("API on TCP", http::serve_tcp(address, http::read_only(state), stop.clone()));
    }
    tracing::info!(cluster = %config.cluster, socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "agent started");
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("reaching server and repository")]);

    let identity = archiver::Identity::of_this_process();
    if let Ok(conninfo) = server_address(&config, &environment) {
        // Also while the repository cannot be reached: that is when it is needed.
        let valve = Valve {
            conninfo,
            slot: config.wal.slot.clone(),
            max_retained_bytes: config.wal.max_retained.map(pitr::config::ByteSize::as_u64),
            interval: VALVE_INTERVAL,
            progress: progress.clone(),
            gaps: memory.gaps.clone(),
            guard: memory.guard.clone(),
            identity: identity.clone(),
            clock: Arc::clone(&clock),
        };
        spawn_valve(&mut supervisor, valve, stop.clone());
    }

    let reached = reach(&config, &environment, clock.as_ref(), &board, &memory, &stop).await;
    let prepared = match reached {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return Ok(supervisor.run(STOP_PATIENCE).await?),
        Err(error) => {
            stop.cancel();
            drop(supervisor.run(STOP_PATIENCE).await);
            return Err(error.into());
        }
    };
    let Prepared { conninfo, standby, instance, lineage } = prepared;

    let mut options = ArchiverOptions::new(
        conninfo.clone(),
        config.wal.slot.clone(),
        lineage.clone(),
        progress.clone(),
        Arc::clone(&clock),
    );
    options.flush_interval = config.wal.flush_interval;
    options.synchronous = config.wal.synchronous;
    let (findings, told) = Findings::new();
    options.findings = findings.clone();
    options.identity = identity;
    options.gaps = memory.gaps.clone();
    options.guard = memory.guard;
    let host = options.identity.host.clone();
    let (holder, who) = (options.identity.holder.clone(), format!("{host}/{}", options.identity.pid));
    options.source = config.wal.source;
    options.pg_wal = instance.data_directory.clone().unwrap_or_default().join("pg_wal");
    let (pushing, pushes) = PushService::new();
    let archiver = Archiver::new(options).with_pushes(pushing);
    supervisor.spawn("archiver", archiver.run(stop.clone()));

    let claims = Claims::default();
    let keeping = SummaryService::new(lineage.clone(), progress.clone(), claims.clone(), findings, told);
    supervisor.spawn("summary service", keeping.run(stop.clone()));

    let points = Arc::new(ServerRestorePoints::new(conninfo.clone(), progress.clone()));
    let (marking, marks) = MarkService::new(lineage.clone(), points, progress.clone(), claims);
    let marking_stop = stop.clone();
    supervisor.spawn("marker service", async move {
        marking.run(marking_stop).await;
        Ok::<(), std::io::Error>(())
    });

    let identity = Identity { system_identifier: instance.system_identifier, postgres_version: instance.version };
    let context = BackupContext {
        lineage,
        conninfo,
        standby,
        archive: progress,
        gaps: memory.gaps,
        clock: Arc::clone(&clock),
        host,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let gate = SweepGate::default();
    let expire_settings = ExpireSettings {
        lineage: context.lineage.clone(),
        policy: Policy::of(&config.retention),
        schedule: expire_schedule,
        clock,
        holder,
        who,
        gate: gate.clone(),
    };
    let (backing_up, backups) = BackupService::new(context, backup_options(&config.backup), schedule);
    let backing_up = backing_up.with_gate(gate);
    let (expiring, expiry) = ExpireService::new(expire_settings, backups.subscribe());
    supervisor.spawn("retention", expiring.run(stop.clone()));
    let expiry = Arc::new(expiry);
    let backing_up_stop = stop.clone();
    supervisor.spawn("backup service", async move { backing_up.run(backing_up_stop).await });
    let backups = Arc::new(backups);
    board.is_ready(identity, Arc::clone(&backups) as Arc<dyn BackupOutlook>, Arc::clone(&expiry));
    doors.send_replace(Some(Doors { marks, backups, expiry, pushes }));
    notify(&[sd_notify::NotifyState::Status("archiving")]);

    let outcome = supervisor.run(STOP_PATIENCE).await;
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!(socket = %socket.display(), "agent stopped");
    Ok(outcome?)
}

fn spawn_valve(supervisor: &mut Supervisor, valve: Valve, stop: CancellationToken) {
    supervisor.spawn("valve", async move {
        valve.run(stop).await;
        Ok::<(), std::io::Error>(())
    });
}

/// Tries until server and repository are reached; none when it was told to stop before.
async fn reach(
    config: &Config,
    environment: &Environment,
    clock: &dyn Clock,
    board: &StatusBoard,
    memory: &Memory,
    stop: &CancellationToken,
) -> Result<Option<Prepared>, PrepareError> {
    let mut told = String::new();
    loop {
        let prepared = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            prepared = prepare(config, environment, clock, memory) => prepared,
        };
        let error = match prepared {
            Ok(prepared) => return Ok(Some(prepared)),
            Err(error) if error.is_passing() => error,
            Err(error) => return Err(error),
        };
        let text = in_full(&error);
        if text != told {
            tracing::warn!(error = text, hint = error.hint(), "not ready yet, trying again");
            told.clone_from(&text);
        }
        board.waits_for(Some(text));
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn backup_options(config: &BackupConfig) -> BackupOptions {
    let threads = usize::try_from(config.threads.get()).unwrap_or(1);
    let mut options = BackupOptions::with_threads(threads).memory_limit(config.memory_limit.as_u64());
    options.compression_level = i32::try_from(config.compression_level).unwrap_or(1);
    options.nice = u8::try_from(config.nice).unwrap_or(0);
    options.bandwidth_limit = config.bandwidth_limit.map(pitr::config::ByteSize::as_u64);
    options.fresh_every = Some(config.fresh_every);
    options.sample_bytes = config.sample.as_u64();
    options
}
