//! Takes backups when they are due or asked for, one at a time.
//!
//! The first one is taken at once where the repository holds none of this lineage, and so is one behind WAL that was lost:
//! until it is complete nothing later can be restored. A firing that came while the agent was
//! down is made up for, once. What was due and failed is tried again after a while; what was asked for and failed is not:
//! whoever asked is told.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use pitr::api::{BackupJob, BackupPhase, BackupState};
use pitr::clock::Clock;
use pitr::repository;
use pitr::repository::backup::{BackupId, BackupManifest};
use pitr::repository::gap::GapNote;
use pitr::storage::ObjectStoreExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::claim::claim;
use super::error::{BackupError, Result};
use super::job::JobReporter;
use super::options::BackupOptions;
use super::run::{BackupContext, run_backup};
use crate::error_text::in_full;
use crate::expire::SweepGate;
use crate::http::BackupDoor;
use crate::schedule::Schedule;

/// The clock may be set meanwhile: it is looked at this often.
const LOOK: Duration = Duration::from_secs(20);
const FIRST_RETRY_MINUTES: i64 = 1;
const LAST_RETRY_MINUTES: i64 = 32;

struct Request {
    fresh: bool,
    /// The backup that was started, or the one that runs already.
    reply: oneshot::Sender<std::result::Result<BackupJob, BackupJob>>,
}

/// Where backups are asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BackupDesk {
    requests: mpsc::Sender<Request>,
    job: watch::Receiver<Option<BackupJob>>,
    next: watch::Receiver<Option<DateTime<Utc>>>,
    problem: watch::Receiver<Option<String>>,
    clock: Arc<dyn Clock>,
}

impl BackupDesk {
    /// When the next backup is due by the schedule, or as another try.
    #[must_use]
    pub fn next_backup(&self) -> Option<DateTime<Utc>> {
        *self.next.borrow()
    }

    /// What the last backup found to be wrong, though it is complete.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<BackupJob>> {
        self.job.clone()
    }
}

#[async_trait]
impl BackupDoor for BackupDesk {
    async fn request(&self, fresh: bool) -> std::result::Result<BackupJob, BackupJob> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request { fresh, reply }).await.is_ok();
        match answer.await {
            Ok(answer) if sent => answer,
            _ => Ok(failed_job(&BackupId::new(self.clock.now(), 1), &BackupError::Cancelled, self.clock.now())),
        }
    }

    fn current(&self) -> Option<BackupJob> {
        self.job.borrow().clone()
    }
}

/// A backup that did not get as far as to begin.
fn failed_job(id: &BackupId, error: &BackupError, now: DateTime<Utc>) -> BackupJob {
    BackupJob {
        id: id.clone(),
        state: BackupState::Failed,
        phase: BackupPhase::Starting,
        started: now,
        finished: Some(now),
        timeline: None,
        files_done: 0,
        files_total: 0,
        bytes_done: 0,
        bytes_total: 0,
        new_bytes: 0,
        corrupt_pages: 0,
        resumes: None,
        resumed_bytes: 0,
        error: Some(in_full(error)),
    }
}

/// Why a backup runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Due,
    Asked,
}

#[derive(Debug)]
pub struct BackupService {
    context: BackupContext,
    options: BackupOptions,
    schedule: Option<Schedule>,
    requests: mpsc::Receiver<Request>,
    job: watch::Sender<Option<BackupJob>>,
    next: watch::Sender<Option<DateTime<Utc>>>,
    problem: watch::Sender<Option<String>>,
    /// Automatic backups that failed in a row.
    failures: u32,
    /// The gaps that the running backup begins behind.
    covering: Vec<GapNote>,
    /// What the last backup wanted to share was not there as it should be.
    fresh_next: bool,
    gate: SweepGate,
}

impl BackupService {
    /// Without a schedule only the first backup is taken unasked.
    #[must_use]
    pub fn new(context: BackupContext, options: BackupOptions, schedule: Option<Schedule>) -> (Self, BackupDesk) {
        let (sender, requests) = mpsc::channel(1);
        let (job, next) = (watch::Sender::new(None), watch::Sender::new(None));
        let problem = watch::Sender::new(None);
        let clock = Arc::clone(&context.clock);
        let (job_seen, next_seen, problem_seen) = (job.subscribe(), next.subscribe(), problem.subscribe());
        let desk = BackupDesk { requests: sender, job: job_seen, next: next_seen, problem: problem_seen, clock };
        let service = Self {
            context,
            options,
            schedule,
            requests,
            job,
            next,
            problem,
            failures: 0,
            covering: Vec::new(),
            fresh_next: false,
            gate: SweepGate::default(),
        };
        (service, desk)
    }

    /// Nothing is swept away from under a backup by whoever has the other side of this gate.
    #[must_use]
    pub fn with_gate(mut self, gate: SweepGate) -> Self {
        self.gate = gate;
        self
    }

    /// Runs until `cancel`; a backup that runs then is stopped.
    ///
    /// # Errors
    /// None: a failed backup is tried again.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        self.announce();
        let mut running = JoinSet::new();
        let mut open = true;
        self.next.send_replace(Some(self.context.clock.now()));
        // Nothing is known of the repository yet.
        let mut looked = false;
        let gaps = self.context.gaps.clone();
        let mut changes = gaps.subscribe();
        while !cancel.is_cancelled() {
            let due = *self.next.borrow();
            tokio::select! {
                request = self.requests.recv(), if open => match request {
                    Some(request) => self.answer(request, &mut running, &cancel).await,
                    None => open = false,
                },
                Some(ended) = running.join_next() => self.note(ended.unwrap_or_else(|error| {
                    (Reason::Due, Err(BackupError::Broken(error.to_string())))
                })),
                Ok(()) = changes.changed() => {
                    if looked && running.is_empty() && gaps.wants_backup() {
                        self.next.send_replace(Some(self.context.clock.now()));
                    }
                }
                () = until(due, Arc::clone(&self.context.clock)), if running.is_empty() => {
                    if looked {
                        if let Err(error) = self.start(Reason::Due, false, &mut running, &cancel).await {
                            self.note((Reason::Due, Err(error)));
                        }
                    } else {
                        looked = self.look().await;
                    }
                }
                () = cancel.cancelled() => {}
            }
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    fn announce(&self) {
        let Some(schedule) = &self.schedule else { return };
        let next: Vec<String> =
            schedule.upcoming(self.context.clock.now(), 3).iter().map(DateTime::to_rfc3339).collect();
        info!(
            schedule = schedule.as_str(),
            zone = schedule.zone().name(),
            next = next.join(", "),
            "backups are scheduled"
        );
    }

    /// Finds out when the next backup is due, from what the repository holds. False where it could not be asked.
    async fn look(&mut self) -> bool {
        let now = self.context.clock.now();
        match self.newest_backup().await {
            Ok(newest) => {
                let missed = |newest: &BackupId| {
                    self.schedule.as_ref().is_some_and(|schedule| schedule.fired_between(newest.time(), now))
                };
                let due = match &newest {
                    _ if self.context.gaps.wants_backup() => Some(now),
                    None => Some(now),
                    Some(newest) if missed(newest) => Some(now),
                    Some(_) => self.next_firing(now),
                };
                self.next.send_replace(due);
                true
            }
            Err(error) => {
                warn!(error = in_full(&error), "could not look for backups in the repository");
                self.retry(now);
                false
            }
        }
    }

    /// The newest backup that is complete.
    async fn newest_backup(&self) -> Result<Option<BackupId>> {
        let (store, layout) = (self.context.lineage.store(), self.context.lineage.layout());
        let children = store.list_children(&layout.backups()).await.map_err(repository::Error::from)?;
        let mut ids: Vec<BackupId> = children.iter().filter_map(|child| child.name().parse().ok()).collect();
        ids.sort_unstable();
        for id in ids.into_iter().rev() {
            if store.exists(&layout.manifest(&id)).await.map_err(repository::Error::from)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn next_firing(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.schedule.as_ref().and_then(|schedule| schedule.next_after(after))
    }

    fn retry(&mut self, now: DateTime<Utc>) {
        let minutes = (FIRST_RETRY_MINUTES << self.failures.min(5)).min(LAST_RETRY_MINUTES);
        self.failures += 1;
        let again = now + TimeDelta::minutes(minutes);
        let firing = self.next_firing(now);
        self.next.send_replace(Some(firing.map_or(again, |firing| firing.min(again))));
    }

    async fn answer(&mut self, request: Request, running: &mut Running, cancel: &CancellationToken) {
        let current = self.job.borrow().clone();
        let answer = match current {
            Some(job) if !running.is_empty() => Err(job),
            _ => Ok(match self.start(Reason::Asked, request.fresh, running, cancel).await {
                Ok(job) => job,
                Err(error) => {
                    let now = self.context.clock.now();
                    warn!(error = in_full(&error), "a backup that was asked for did not begin");
                    failed_job(&BackupId::new(now, 1), &error, now)
                }
            }),
        };
        // Whoever asked may have gone.
        let _ = request.reply.send(answer);
    }

    async fn start(
        &mut self,
        reason: Reason,
        fresh: bool,
        running: &mut Running,
        cancel: &CancellationToken,
    ) -> Result<BackupJob> {
        let claimed = tokio::select! {
            claimed = claim(&self.context, &self.options, fresh || self.fresh_next) => claimed?,
            () = cancel.cancelled() => return Err(BackupError::Cancelled),
        };
        let id = claimed.id.clone();
        self.covering = self.context.gaps.uncovered();
        self.covering.retain(|note| note.to_lsn.is_some());
        let reporter = JobReporter::new(self.job.clone());
        let job = reporter.begin(&id, self.context.clock.now());
        let (context, options, cancel) = (self.context.clone(), self.options, cancel.clone());
        let span = info_span!("backup", backup_id = %id);
        let gate = self.gate.clone();
        let work = async move {
            let _in_backup = gate.backup().await;
            (reason, run_backup(&context, &options, &claimed, &reporter, &cancel).await)
        };
        running.spawn(work.instrument(span));
        Ok(job)
    }

    fn note(&mut self, (reason, result): Ended) {
        let now = self.context.clock.now();
        match result {
            Ok(manifest) => {
                log_success(&manifest);
                self.problem.send_replace(manifest.sharing.unlike.as_ref().map(|page| {
                    let (path, block, id) = (&page.path, page.block, &manifest.id);
                    format!("backup {id} found that block {block} of {path} had changed without a word in the WAL")
                }));
                self.failures = 0;
                self.fresh_next = false;
                self.context.gaps.cover(&std::mem::take(&mut self.covering));
                // What was lost while it ran is not behind it.
                let again = self.context.gaps.wants_backup();
                self.next.send_replace(if again { Some(now) } else { self.next_firing(now) });
            }
            Err(error) if error.is_cancelled() => info!("the backup was stopped"),
            Err(error) => {
                error!(error = in_full(&error), hint = error.hint(), "the backup failed");
                self.fresh_next |= error.is_of_the_parent();
                if matches!(error, BackupError::WalMissing { .. }) {
                    self.context.gaps.request_look();
                }
                if reason == Reason::Due || self.context.gaps.wants_backup() {
                    self.retry(now);
                }
            }
        }
    }
}

/// Resolves at the moment `due`; never where nothing is due.
async fn until(due: Option<DateTime<Utc>>, clock: Arc<dyn Clock>) {
    let Some(due) = due else { return std::future::pending().await };
    // A clock that is set back does not put off what was due.
    let (begun, wait) = (Instant::now(), (due - clock.now()).to_std().unwrap_or_default());
    while begun.elapsed() < wait
        && let Ok(left) = (due - clock.now()).to_std()
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

type Ended = (Reason, Result<BackupManifest>);
type Running = JoinSet<Ended>;

fn log_success(manifest: &BackupManifest) {
    info!(
        backup_id = %manifest.id,
        files = manifest.files,
        bytes = manifest.size_bytes,
        new_bytes = manifest.new_bytes,
        pages_read = manifest.pages_read,
        resumed = manifest.sharing.resumed.as_ref().map(|resumed| tracing::field::display(&resumed.id)),
        resumed_bytes = manifest.sharing.resumed.as_ref().map(|resumed| resumed.bytes),
        start_lsn = %manifest.start_lsn,
        stop_lsn = %manifest.stop_lsn,
        "the backup is complete"
    );
    if !manifest.corrupt_pages.is_empty() {
        error!(
            backup_id = %manifest.id,
            pages = manifest.corrupt_pages.len(),
            "the backup holds pages whose checksum does not match: the database is damaged"
        );
    }
}
