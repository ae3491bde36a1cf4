//! The lease: proof that this agent, and no other, archives the cluster.
//!
//! It is taken at the start and rewritten every few seconds, always in place of the very version that was there before, so
//! that of two agents who believe to hold it one finds out at its next rewrite. While it could not be rewritten for as long
//! as it runs, nothing is acknowledged to the server; when somebody else has it, archiving ends.
//!
//! Clocks decide nothing alone: they differ between hosts, and are set. A lease is free when its holder said so or is known
//! to be dead, and otherwise when it was watched, by a clock that only goes forward, for longer than a holder that lives
//! could leave it as it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::sys::signal;
use nix::unistd::Pid;
use pitr::clock::Clock;
use pitr::repository::document;
use pitr::repository::lease::Lease;
use pitr::repository::lineage::LineageId;
use pitr::repository::{self, LineageStore};
use pitr::storage::{ErrorKind, ObjectKey, ObjectStoreExt, Payload, PutMode, VersionTag};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::ArchiverError;
use super::problems::{Place, Problems};
use super::progress::ArchiveProgress;
use crate::error_text::in_full;

/// How long it runs.
const TERM: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A renewal that takes longer is taken for lost.
const RENEW_TIMEOUT: Duration = Duration::from_secs(10);
/// A lease that has run out by the clock is watched for two renewals, in case the clocks differ.
const DOUBT: Duration = Duration::from_secs(7);
/// How often a lease that runs out is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
const MAX_LEASE_BYTES: u64 = 64 << 10;

/// Who we are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Random, new at each start of an agent.
    pub holder: String,
    pub host: String,
    pub pid: u32,
}

impl Identity {
    /// This process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self {
            holder: format!("{:032x}", rand::random::<u128>()),
            host: host.unwrap_or_else(|| "unknown".to_owned()),
            pid: std::process::id(),
        }
    }
}

/// A lease that is ours, as far as we know.
pub(super) struct LeaseKeeper {
    lineage: LineageStore,
    clock: Arc<dyn Clock>,
    identity: Identity,
    progress: ArchiveProgress,
    problems: Problems,
    epoch: u64,
    tag: VersionTag,
    renewed: Instant,
    /// Whether what was written last says up to where everything is sealed.
    tells_sealed: bool,
    valid: watch::Sender<bool>,
}

impl fmt::Debug for LeaseKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseKeeper")
            .field("identity", &self.identity)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// What a lease is taken with.
pub(super) struct LeaseRequest {
    pub lineage: LineageStore,
    pub clock: Arc<dyn Clock>,
    pub identity: Identity,
    pub progress: ArchiveProgress,
    pub problems: Problems,
}

enum Attempt {
    Taken(LeaseKeeper),
    /// Somebody else was faster, or our answer was lost: look again.
    Changed(LeaseRequest),
}

impl LeaseRequest {
    /// Takes the lease, waiting for one that nobody renews to run out.
    ///
    /// # Errors
    /// [`ArchiverError::LeaseHeld`] by an agent that lives; the repository fails.
    pub(super) async fn take(mut self) -> Result<LeaseKeeper, ArchiverError> {
        let mut seen: Option<(VersionTag, Instant)> = None;
        loop {
            let standing = read(&self.lineage).await?;
            let attempt = match standing {
                None => self.put(PutMode::CreateNew, 1).await?,
                Some((lease, tag)) if self.is_free(&lease) || self.is_abandoned(&lease, &tag, seen.as_ref()) => {
                    self.inherit(&lease);
                    self.put(PutMode::Replace(tag), lease.epoch.saturating_add(1)).await?
                }
                Some((lease, tag)) => {
                    match &seen {
                        None => {
                            tracing::info!(
                                host = lease.host,
                                pid = lease.pid,
                                "waiting for another agent's lease to run out"
                            );
                            seen = Some((tag, Instant::now()));
                        }
                        Some((before, _)) if *before == tag => {}
                        Some(_) => {
                            return Err(ArchiverError::LeaseHeld {
                                host: lease.host,
                                pid: lease.pid,
                                expires: lease.expires,
                            });
                        }
                    }
                    tokio::time::sleep(WATCH_EVERY).await;
                    continue;
                }
            };
            match attempt {
                Attempt::Taken(keeper) => return Ok(keeper),
                Attempt::Changed(request) => self = request,
            }
        }
    }

    /// What the agent before knew goes on to be told until we know better ourselves.
    fn inherit(&self, lease: &Lease) {
        self.progress.update(|progress| {
            if progress.sealed.is_none() {
                progress.server = progress.server.or(lease.server);
                progress.sealed = lease.sealed;
                progress.sealed_commit_time = lease.sealed_commit_time;
            }
        });
    }

    /// Nobody has rewritten it for longer than its holder would be silent.
    fn is_abandoned(&self, lease: &Lease, tag: &VersionTag, seen: Option<&(VersionTag, Instant)>) -> bool {
        let silence = silence(lease, self.clock.now());
        seen.is_some_and(|(before, since)| before == tag && since.elapsed() >= silence)
    }

    fn is_free(&self, lease: &Lease) -> bool {
        is_free(lease, &self.identity)
    }

    async fn put(self, mode: PutMode, epoch: u64) -> Result<Attempt, ArchiverError> {
        let now = self.clock.now();
        let tells_sealed = self.progress.now().sealed.is_some();
        let body = seal(self.lineage.lineage().lineage, &self.identity, epoch, &self.progress, now, now + TERM);
        match self.lineage.store().put(&key(&self.lineage), body, mode).await {
            Ok(meta) => Ok(Attempt::Taken(LeaseKeeper {
                lineage: self.lineage,
                clock: self.clock,
                identity: self.identity,
                progress: self.progress,
                problems: self.problems,
                epoch,
                tag: meta.tag,
                renewed: Instant::now(),
                tells_sealed,
                valid: watch::Sender::new(true),
            })),
            Err(error)
                if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Changed | ErrorKind::NotFound) =>
            {
                Ok(Attempt::Changed(self))
            }
            Err(error) => Err(repository::Error::from(error).into()),
        }
    }
}

fn is_free(lease: &Lease, own: &Identity) -> bool {
    lease.holder == own.holder
        // Released.
        || lease.expires <= lease.time
        || (lease.host == own.host && is_dead(lease.pid, own.pid))
}

/// How long a lease must be seen unchanged before its holder is taken for dead.
fn silence(lease: &Lease, now: DateTime<Utc>) -> Duration {
    if lease.expires <= now { DOUBT } else { TERM + RENEW_EVERY }
}

/// Who archives the lineage now; none where nobody does. Watches the lease of one who is silent for as long as an agent
/// that wants to take it.
///
/// # Errors
/// The repository fails.
pub(crate) async fn living_holder(lineage: &LineageStore, clock: &dyn Clock) -> Result<Option<Lease>, ArchiverError> {
    let own = Identity::of_this_process();
    let mut seen: Option<(VersionTag, Instant)> = None;
    loop {
        let (lease, tag) = match read(lineage).await? {
            Some((lease, tag)) if !is_free(&lease, &own) => (lease, tag),
            _ => return Ok(None),
        };
        match &seen {
            None => seen = Some((tag, Instant::now())),
            Some((before, _)) if *before != tag => return Ok(Some(lease)),
            Some((_, since)) if since.elapsed() >= silence(&lease, clock.now()) => return Ok(None),
            Some(_) => {}
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// A process of this host that cannot hold anything any more. One that has our own id is dead: the id is ours now.
fn is_dead(pid: u32, own: u32) -> bool {
    let Ok(id) = i32::try_from(pid) else { return true };
    pid == own || id <= 0 || signal::kill(Pid::from_raw(id), None) == Err(Errno::ESRCH)
}

fn key(lineage: &LineageStore) -> ObjectKey {
    lineage.layout().lease()
}

async fn read(lineage: &LineageStore) -> Result<Option<(Lease, VersionTag)>, ArchiverError> {
    let key = key(lineage);
    let found = lineage.store().find_bytes(&key, MAX_LEASE_BYTES).await.map_err(repository::Error::from)?;
    let Some((meta, bytes)) = found else { return Ok(None) };
    let lease = document::unseal(&bytes).map_err(|source| repository::Error::Document { key, source })?;
    Ok(Some((lease, meta.tag)))
}

fn seal(
    lineage: LineageId,
    identity: &Identity,
    epoch: u64,
    progress: &ArchiveProgress,
    now: DateTime<Utc>,
    expires: DateTime<Utc>,
) -> Payload {
    let progress = progress.now();
    let lease = Lease {
        lineage: Some(lineage),
        holder: identity.holder.clone(),
        host: identity.host.clone(),
        pid: identity.pid,
        epoch,
        time: now,
        expires,
        server: progress.server,
        sealed: progress.sealed,
        sealed_commit_time: progress.sealed_commit_time,
        problem: progress.problem,
    };
    Payload::from(Bytes::from(document::seal(&lease)))
}

impl LeaseKeeper {
    /// Whether what is sealed may be acknowledged.
    pub(super) fn may_acknowledge(&self) -> watch::Receiver<bool> {
        self.valid.subscribe()
    }

    /// Rewrites the lease until somebody else has it, and says who.
    pub(super) async fn keep(&mut self) -> ArchiverError {
        loop {
            self.due().await;
            let renewed = tokio::time::timeout(RENEW_TIMEOUT, self.renew(TERM)).await;
            let text = match renewed {
                Ok(Ok(())) => {
                    self.renewed = Instant::now();
                    self.valid.send_if_modified(|valid| !std::mem::replace(valid, true));
                    self.problems.clear(Place::Lease);
                    continue;
                }
                Ok(Err(error @ ArchiverError::LeaseLost { .. })) => {
                    self.valid.send_replace(false);
                    return error;
                }
                Ok(Err(error)) => in_full(&error),
                Err(_) => format!("the lease could not be renewed within {} s", RENEW_TIMEOUT.as_secs()),
            };
            if self.renewed.elapsed() >= TERM {
                self.valid.send_if_modified(|valid| std::mem::replace(valid, false));
                tracing::warn!(error = %text, "the lease has run out; nothing is acknowledged until it is renewed");
                self.problems.set(Place::Lease, Some(text));
            }
        }
    }

    /// Waits until the lease is to be rewritten: now and then, and as soon as it can tell for the first time what is sealed.
    async fn due(&self) {
        let silent = !self.tells_sealed;
        let first_sealed = async {
            let mut progress = self.progress.subscribe();
            if !silent || progress.wait_for(|progress| progress.sealed.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            () = first_sealed => {}
        }
    }

    async fn renew(&mut self, term: Duration) -> Result<(), ArchiverError> {
        let now = self.clock.now();
        let tells_sealed = self.progress.now().sealed.is_some();
        let body = seal(self.lineage.lineage().lineage, &self.identity, self.epoch, &self.progress, now, now + term);
        let mode = PutMode::Replace(self.tag.clone());
        match self.lineage.store().put(&key(&self.lineage), body, mode).await {
            Ok(meta) => {
                self.tag = meta.tag;
                self.tells_sealed = tells_sealed;
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::Changed | ErrorKind::NotFound) => self.look_again().await,
            Err(error) => Err(repository::Error::from(error).into()),
        }
    }

    /// The version we knew is gone. An earlier rewrite of ours may have had its effect without our hearing of it.
    async fn look_again(&mut self) -> Result<(), ArchiverError> {
        match read(&self.lineage).await? {
            Some((lease, tag)) if lease.holder == self.identity.holder => {
                self.tag = tag;
                Ok(())
            }
            Some((lease, _)) => Err(ArchiverError::LeaseLost { host: lease.host, pid: lease.pid }),
            None => {
                let now = self.clock.now();
                let body =
                    seal(self.lineage.lineage().lineage, &self.identity, self.epoch, &self.progress, now, now + TERM);
                let put = self.lineage.store().put(&key(&self.lineage), body, PutMode::CreateNew).await;
                self.tag = put.map_err(repository::Error::from)?.tag;
                Ok(())
            }
        }
    }

    /// Lets others have it at once. What cannot be told to the repository is settled by the lease running out.
    pub(super) async fn release(mut self) {
        let released = tokio::time::timeout(Duration::from_secs(3), self.renew(Duration::ZERO)).await;
        match released {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(error = %in_full(&error), "the lease could not be released, it runs out by itself");
            }
            Err(_) => tracing::info!("the lease could not be released in time, it runs out by itself"),
        }
    }
}

#[cfg(test)]
mod tests {
    use pitr::clock::ManualClock;
    use pitr::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
    use pitr::repository::Repository;
    use pitr::repository::lease::WalPosition;
    use pitr::repository::lineage::{Lineage, LineageId};
    use pitr::storage::fault::{Fault, FaultRule, Faulty};
    use pitr::storage::{MemoryStore, ObjectStore, Operation};

    use super::*;

    struct Scene {
        clock: ManualClock,
        store: Arc<Faulty>,
        lineage: LineageStore,
        progress: ArchiveProgress,
    }

    impl Scene {
        async fn new() -> Self {
            let clock = ManualClock::new(DateTime::UNIX_EPOCH);
            let store = Arc::new(Faulty::new(Arc::new(MemoryStore::new()), 1));
            let repository =
                Repository::open_or_create(Arc::clone(&store) as Arc<dyn ObjectStore>, &clock).await.unwrap();
            let lineage = Lineage {
                cluster: "main".parse().unwrap(),
                lineage: LineageId::new(SystemIdentifier::new(7), 1),
                postgres_version: ServerVersion::new(150_018),
                wal_segment_size: WalSegmentSize::DEFAULT,
                created: DateTime::UNIX_EPOCH,
                restore: None,
            };
            let lineage = repository.ensure_lineage(&lineage).await.unwrap();
            Self { clock, store, lineage, progress: ArchiveProgress::default() }
        }

        fn request(&self, host: &str, pid: u32) -> LeaseRequest {
            let identity = Identity { holder: format!("{host}/{pid}"), host: host.to_owned(), pid };
            LeaseRequest {
                lineage: self.lineage.clone(),
                clock: Arc::new(self.clock.clone()),
                identity,
                progress: self.progress.clone(),
                problems: Problems::new(self.progress.clone()),
            }
        }

        async fn standing(&self) -> Lease {
            read(&self.lineage).await.unwrap().unwrap().0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_ran_out_or_was_released_is_free_and_passes_on_what_it_knew() {
        let scene = Scene::new().await;
        let sealed = WalPosition { timeline: TimelineId::FIRST, lsn: Lsn::new(100) };
        scene.progress.update(|progress| progress.sealed = Some(sealed));
        let first = scene.request("a", 1).take().await.unwrap();
        assert_eq!(scene.standing().await.epoch, 1);
        let elsewhere = Scene { progress: ArchiveProgress::default(), ..scene };
        elsewhere.clock.advance(chrono::TimeDelta::seconds(16));
        let second = elsewhere.request("b", 1).take().await.unwrap();
        assert_eq!((elsewhere.standing().await.epoch, elsewhere.standing().await.host.as_str()), (2, "b"));
        assert_eq!(elsewhere.progress.now().sealed, Some(sealed));
        drop(first);
        second.release().await;
        elsewhere.request("c", 1).take().await.unwrap();
        assert_eq!(elsewhere.standing().await.host, "c");
    }

    /// By the other host's clock the lease ran out an hour ago: its holder's was set back.
    #[tokio::test(start_paused = true)]
    async fn clocks_that_differ_take_no_lease_from_a_holder_that_lives() {
        let scene = Scene::new().await;
        let mut lease = scene.request("a", 1).take().await.unwrap();
        let valid = lease.may_acknowledge();
        let mut other = scene.request("b", 1);
        for offset in [3600, -3600] {
            let clock = ManualClock::new(scene.clock.now() + chrono::TimeDelta::seconds(offset));
            other.clock = Arc::new(clock);
            let taken = tokio::select! {
                lost = lease.keep() => panic!("{lost}"),
                taken = other.take() => taken,
            };
            assert!(matches!(taken, Err(ArchiverError::LeaseHeld { .. })), "{offset}: {taken:?}");
            assert!(*valid.borrow());
            other = scene.request("b", 1);
        }
        // Its own clock goes back under it: it goes on.
        scene.clock.advance(chrono::TimeDelta::hours(-1));
        let kept = tokio::time::timeout(Duration::from_secs(60), lease.keep()).await;
        assert!(kept.is_err() && *valid.borrow(), "{kept:?}");
        // It is gone: whatever the clocks say, somebody else has it soon.
        drop(lease);
        for (host, offset) in [("c", 3600), ("d", -3600)] {
            let mut other = scene.request(host, 1);
            other.clock = Arc::new(ManualClock::new(scene.clock.now() + chrono::TimeDelta::seconds(offset)));
            tokio::time::timeout(Duration::from_secs(30), other.take()).await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_sealed_is_told_at_once() {
        let scene = Scene::new().await;
        let mut lease = scene.request("a", 1).take().await.unwrap();
        assert_eq!(scene.standing().await.sealed, None);
        let sealed = WalPosition { timeline: TimelineId::FIRST, lsn: Lsn::new(100) };
        scene.progress.update(|progress| progress.sealed = Some(sealed));
        let kept = tokio::time::timeout(RENEW_EVERY / 2, lease.keep()).await;
        assert!(kept.is_err(), "{kept:?}");
        assert_eq!(scene.standing().await.sealed, Some(sealed));
    }

    #[tokio::test(start_paused = true)]
    async fn only_its_own_host_can_tell_that_the_holder_is_dead() {
        let scene = Scene::new().await;
        let no_such_process = 2_000_000_000;
        drop(scene.request("a", no_such_process).take().await.unwrap());
        let elsewhere = tokio::time::timeout(Duration::from_secs(10), scene.request("b", 1).take()).await;
        assert!(elsewhere.is_err(), "it was taken while it ran");
        scene.request("a", 1).take().await.unwrap();
        assert_eq!(scene.standing().await.epoch, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_acknowledged_while_it_cannot_be_renewed() {
        let scene = Scene::new().await;
        let mut lease = scene.request("a", 1).take().await.unwrap();
        let mut valid = lease.may_acknowledge();
        scene.store.add(FaultRule::new(Fault::Stall).on(Operation::Put).keys("*/lease"));
        let store = Arc::clone(&scene.store);
        let watching = async {
            valid.wait_for(|valid| !valid).await.unwrap();
            store.heal();
            valid.wait_for(|valid| *valid).await.unwrap();
        };
        tokio::select! {
            lost = lease.keep() => panic!("{lost}"),
            () = watching => {}
        }
        assert!(!scene.store.struck().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_whose_answer_was_lost_is_recognised() {
        let scene = Scene::new().await;
        let mut lease = scene.request("a", 1).take().await.unwrap();
        let rule = FaultRule::new(Fault::ErrorAfter(ErrorKind::Transient));
        scene.store.add(rule.on(Operation::Put).keys("*/lease").nth(1));
        let kept = tokio::time::timeout(Duration::from_secs(30), lease.keep()).await;
        assert!(kept.is_err(), "{kept:?}");
        assert_eq!(scene.store.struck().len(), 1);
    }
}
