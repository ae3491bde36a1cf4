//! Runs retention, one run at a time.
//!
//! A run has two halves. What goes by the rules goes beside a running backup as well; what no backup names any more is swept
//! only where none runs, and under a plan that was made since.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use pitr::api::{BackupJob, BackupState, ExpireJob, ExpireRequest, ExpireState};
use pitr::clock::Clock;
use pitr::expire::{ExpireError, Expired, Expiry};
use pitr::repository::{self, LineageStore, Repository};
use pitr::retention::{Order, Policy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::sweep_gate::SweepGate;
use crate::error_text::in_full;
use crate::http::ExpireDoor;
use crate::schedule::Schedule;

/// The clock may be set meanwhile: it is looked at this often.
const LOOK: Duration = Duration::from_secs(20);
const RETRY: TimeDelta = TimeDelta::minutes(10);
/// Without a success for so long it is told as a problem.
const TOO_LONG: TimeDelta = TimeDelta::days(3);

/// What retention runs with.
#[derive(Clone, Debug)]
pub struct ExpireSettings {
    pub lineage: LineageStore,
    pub policy: Policy,
    pub schedule: Option<Schedule>,
    pub clock: Arc<dyn Clock>,
    /// What the lease says of its holder.
    pub holder: String,
    /// Host and process.
    pub who: String,
    pub gate: SweepGate,
}

struct Request {
    order: ExpireRequest,
    /// The run that was started, or the one that runs already.
    reply: oneshot::Sender<Result<ExpireJob, ExpireJob>>,
}

#[derive(Debug)]
struct Health {
    /// The last success, or the start.
    success: DateTime<Utc>,
    failure: Option<String>,
}

/// Where retention is asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExpireDesk {
    requests: mpsc::Sender<Request>,
    job: watch::Receiver<Option<ExpireJob>>,
    health: Arc<Mutex<Health>>,
    clock: Arc<dyn Clock>,
    applies: bool,
}

impl ExpireDesk {
    /// What is wrong with retention, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &health.failure {
            return Some(format!("retention failed: {failure}"));
        }
        let since = health.success;
        let late = self.applies && self.clock.now() - since > TOO_LONG;
        late.then(|| format!("retention was not applied since {}", since.format("%F %T UTC")))
    }
}

#[async_trait]
impl ExpireDoor for ExpireDesk {
    fn applies(&self) -> bool {
        self.applies
    }

    async fn request(&self, order: ExpireRequest) -> Result<ExpireJob, ExpireJob> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request { order, reply }).await.is_ok();
        match answer.await {
            Ok(answer) if sent => answer,
            _ => {
                let mut job = begun(self.clock.now());
                job.fail("the agent is stopping".to_owned(), None, self.clock.now());
                Ok(job.0)
            }
        }
    }

    fn current(&self) -> Option<ExpireJob> {
        self.job.borrow().clone()
    }
}

/// A job that is told of as it goes.
struct Told(ExpireJob);

fn begun(started: DateTime<Utc>) -> Told {
    Told(ExpireJob {
        state: ExpireState::Running,
        started,
        finished: None,
        backups: Vec::new(),
        deleted_objects: 0,
        deleted_bytes: 0,
        later_objects: 0,
        later_bytes: 0,
        rewritten_packs: 0,
        rewritten_bytes: 0,
        copied_bytes: 0,
        held_up: None,
        error: None,
        hint: None,
    })
}

impl Told {
    fn fail(&mut self, error: String, hint: Option<String>, now: DateTime<Utc>) {
        (self.0.state, self.0.finished) = (ExpireState::Failed, Some(now));
        (self.0.error, self.0.hint) = (Some(error), hint);
    }

    fn add(&mut self, expired: &Expired) {
        let total = expired.total();
        self.0.deleted_objects += total.objects;
        self.0.deleted_bytes += total.bytes;
        // Only the last half knows what is left.
        (self.0.later_objects, self.0.later_bytes) = (0, 0);
        for lineage in expired.lineages.values() {
            self.0.backups.extend(lineage.backups.iter().cloned());
            self.0.later_objects += lineage.later.objects;
            self.0.later_bytes += lineage.later.bytes;
            self.0.rewritten_packs += lineage.rewritten.packs;
            self.0.rewritten_bytes += lineage.rewritten.bytes;
            self.0.copied_bytes += lineage.rewritten.copied_bytes;
            if self.0.held_up.is_none() {
                self.0.held_up.clone_from(&lineage.held_up);
            }
        }
    }
}

/// Applies retention.
#[derive(Debug)]
pub struct ExpireService {
    settings: ExpireSettings,
    requests: mpsc::Receiver<Request>,
    job: watch::Sender<Option<ExpireJob>>,
    health: Arc<Mutex<Health>>,
    backups: watch::Receiver<Option<BackupJob>>,
}

impl ExpireService {
    /// `backups` tells of each backup.
    #[must_use]
    pub fn new(settings: ExpireSettings, backups: watch::Receiver<Option<BackupJob>>) -> (Self, ExpireDesk) {
        let (sender, requests) = mpsc::channel(1);
        let job = watch::Sender::new(None);
        let health = Arc::new(Mutex::new(Health { success: settings.clock.now(), failure: None }));
        let desk = ExpireDesk {
            requests: sender,
            job: job.subscribe(),
            health: Arc::clone(&health),
            clock: Arc::clone(&settings.clock),
            applies: settings.policy.window.is_some(),
        };
        (Self { settings, requests, job, health, backups }, desk)
    }

    /// Runs until `cancel`.
    ///
    /// # Errors
    /// None: what failed is tried again.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), std::convert::Infallible> {
        let applies = self.settings.policy.window.is_some();
        let mut due = self.next_firing();
        let (mut told, mut open, mut backing) = (None, true, true);
        while !cancel.is_cancelled() {
            let mut order = None;
            tokio::select! {
                request = self.requests.recv(), if open => match request {
                    Some(request) => order = Some((request.order, Some(request.reply))),
                    None => open = false,
                },
                changed = self.backups.changed(), if backing => {
                    backing = changed.is_ok();
                    let complete = self.backups.borrow_and_update().as_ref().and_then(|job| {
                        (job.state == BackupState::Complete).then(|| job.id.clone())
                    });
                    if applies && complete.is_some() && complete != told {
                        told = complete;
                        order = Some((ExpireRequest::default(), None));
                    }
                }
                () = until(due, Arc::clone(&self.settings.clock)), if applies => {
                    order = Some((ExpireRequest::default(), None));
                }
                () = cancel.cancelled() => {}
            }
            let Some((order, reply)) = order else { continue };
            let job = begun(self.settings.clock.now());
            self.job.send_replace(Some(job.0.clone()));
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(job.0.clone()));
            }
            let failed = self.carry_out(&order, job, &cancel).await;
            due = self.next_firing();
            if failed && order.backups.is_empty() {
                let again = self.settings.clock.now() + RETRY;
                due = Some(due.map_or(again, |due| due.min(again)));
            }
        }
        Ok(())
    }

    fn next_firing(&self) -> Option<DateTime<Utc>> {
        self.settings.schedule.as_ref()?.next_after(self.settings.clock.now())
    }

    /// Whether it failed.
    async fn carry_out(&mut self, order: &ExpireRequest, mut job: Told, cancel: &CancellationToken) -> bool {
        let outcome = self.expire(order, &mut job, cancel).await;
        let now = self.settings.clock.now();
        let by_rule = order.backups.is_empty();
        let failed = match outcome {
            Ok(()) => {
                (job.0.state, job.0.finished) = (ExpireState::Complete, Some(now));
                info!(
                    backups = job.0.backups.len(),
                    objects = job.0.deleted_objects,
                    bytes = job.0.deleted_bytes,
                    rewritten_packs = job.0.rewritten_packs,
                    "retention was applied"
                );
                if let Some(held_up) = &job.0.held_up {
                    error!(reason = held_up, "nothing is deleted");
                }
                self.note(by_rule, job.0.held_up.clone(), now);
                false
            }
            Err(ExpireError::Cancelled) => {
                job.fail("it was stopped".to_owned(), None, now);
                false
            }
            Err(error) => {
                let text = in_full(&error);
                warn!(error = text, hint = error.hint(), "retention failed; what is kept is unharmed");
                self.note(by_rule, Some(text.clone()), now);
                job.fail(text, error.hint().map(str::to_owned), now);
                true
            }
        };
        self.job.send_replace(Some(job.0));
        failed
    }

    fn note(&self, by_rule: bool, failure: Option<String>, now: DateTime<Utc>) {
        if !by_rule {
            return;
        }
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            health.success = now;
        }
        health.failure = failure;
    }

    async fn expire(
        &self,
        order: &ExpireRequest,
        job: &mut Told,
        cancel: &CancellationToken,
    ) -> Result<(), ExpireError> {
        let lineages = self.lineages().await?;
        let grace = self.settings.policy.grace;
        let (wanted, rest) = if order.backups.is_empty() {
            let policy = Order::Policy(self.settings.policy.clone());
            (policy.clone(), policy)
        } else {
            let named = Order::Named { backups: order.backups.clone(), forced: order.forced, grace };
            (named, Order::Policy(Policy::keep_all(grace)))
        };
        let first = self.expiry(&lineages, &wanted, false, cancel).run().await;
        let alone = self.settings.gate.sweep();
        let rest = match first {
            Ok(expired) => {
                job.add(&expired);
                self.job.send_replace(Some(job.0.clone()));
                rest
            }
            // A full store can take no word of what is to go. Where no backup runs it goes without.
            Err(error) if error.is_full() && alone.is_some() => wanted,
            Err(error) => return Err(error),
        };
        if alone.is_none() {
            return Ok(());
        }
        job.add(&self.expiry(&lineages, &rest, true, cancel).run().await?);
        Ok(())
    }

    fn expiry<'a>(
        &'a self,
        lineages: &'a [LineageStore],
        order: &'a Order,
        sweep: bool,
        cancel: &'a CancellationToken,
    ) -> Expiry<'a> {
        Expiry {
            lineages,
            order,
            clock: self.settings.clock.as_ref(),
            who: &self.settings.who,
            own: self.settings.lineage.lineage().lineage,
            holder: &self.settings.holder,
            sweep,
            cancel,
        }
    }

    /// All of the cluster: an older one ages out under the same rules.
    async fn lineages(&self) -> repository::Result<Vec<LineageStore>> {
        let repository = Repository::open(Arc::clone(self.settings.lineage.store())).await?;
        repository.lineages(&self.settings.lineage.lineage().cluster).await
    }
}

/// Resolves at the moment `due`; never where nothing is due.
async fn until(due: Option<DateTime<Utc>>, clock: Arc<dyn Clock>) {
    let Some(due) = due else { return std::future::pending().await };
    while let Ok(left) = (due - clock.now()).to_std()
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
