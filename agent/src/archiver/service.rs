//! The service: holds the lease, and keeps a connection to the server.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pitr::clock::Clock;
use pitr::config::WalSource;
use pitr::repository::{LineageStore, WalStore};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::archive_mode::ArchiveMode;
use super::backoff::Backoff;
use super::error::ArchiverError;
use super::findings::Findings;
use super::gaps::GapBook;
use super::lease::{Identity, LeaseKeeper, LeaseRequest};
use super::losses::Losses;
use super::problems::{Place, Problems};
use super::progress::ArchiveProgress;
use super::session::{Session, SessionEnd};
use super::stretch::StretchKeeper;
use super::valve::SlotGuard;
use crate::error_text::in_full;
use crate::postgres::ConnInfo;
use crate::wal_push::{Deposit, PushService};

const RETRY_BASE: Duration = Duration::from_millis(250);
const RETRY_CAP: Duration = Duration::from_secs(15);
/// Segments that were handed over and wait to be read; each is held in memory.
const ARRIVALS: usize = 2;
/// Buffers that nobody took for so long go back to the system.
const FORGET_EVERY: Duration = Duration::from_secs(5);
/// A connection that held so long was a good one.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// What the archiver works with.
pub struct ArchiverOptions {
    pub conninfo: ConnInfo,
    /// See [`default_slot_name`](crate::postgres::instance::default_slot_name).
    pub slot: String,
    pub lineage: LineageStore,
    pub identity: Identity,
    pub progress: ArchiveProgress,
    /// Who keeps what is found in the WAL.
    pub findings: Findings,
    pub clock: Arc<dyn Clock>,
    /// New WAL is stored at least so often.
    pub flush_interval: Duration,
    /// Commits wait for us: new WAL is stored at once, and told at once.
    pub synchronous: bool,
    /// A put without an answer is tried again after so long. Above the deadline of the store's own retries.
    pub put_timeout: Duration,
    /// How long what was received may still be stored when we are asked to stop.
    pub shutdown_timeout: Duration,
    pub compression_level: i32,
    pub source: WalSource,
    /// Where the server's WAL stands, for what `archive_command` hands over.
    pub pg_wal: PathBuf,
    /// How often the newest WAL in the repository is looked at.
    pub look_interval: Duration,
    pub gaps: GapBook,
    pub guard: SlotGuard,
}

impl fmt::Debug for ArchiverOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiverOptions")
            .field("conninfo", &self.conninfo)
            .field("slot", &self.slot)
            .field("flush_interval", &self.flush_interval)
            .finish_non_exhaustive()
    }
}

impl ArchiverOptions {
    /// Everything else as it is by default.
    #[must_use]
    pub fn new(
        conninfo: ConnInfo,
        slot: String,
        lineage: LineageStore,
        progress: ArchiveProgress,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            conninfo,
            slot,
            lineage,
            identity: Identity::of_this_process(),
            progress,
            findings: Findings::nobody(),
            clock,
            flush_interval: Duration::from_secs(1),
            synchronous: false,
            put_timeout: Duration::from_secs(180),
            shutdown_timeout: Duration::from_secs(10),
            compression_level: 1,
            source: WalSource::Stream,
            pg_wal: PathBuf::new(),
            look_interval: Duration::from_secs(600),
            gaps: GapBook::default(),
            guard: SlotGuard::default(),
        }
    }
}

/// Streams WAL from the server to the repository for as long as it is let.
#[derive(Debug)]
pub struct Archiver {
    options: Arc<ArchiverOptions>,
    problems: Problems,
    pushes: PushService,
}

impl Archiver {
    #[must_use]
    pub fn new(options: ArchiverOptions) -> Self {
        let problems = Problems::new(options.progress.clone());
        let (pushes, _) = PushService::new();
        Self { options: Arc::new(options), problems, pushes }
    }

    /// Serves `archive_command` as well, from `pg_wal` of the options.
    #[must_use]
    pub fn with_pushes(mut self, pushes: PushService) -> Self {
        self.pushes = pushes;
        self
    }

    /// Archives until `cancel`, then stores what was received, says so to the server and releases the lease.
    ///
    /// # Errors
    /// What trying again cannot mend: another agent holds the lease, another cluster answers, histories differ.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), ArchiverError> {
        let Some(mut lease) = self.take_lease(&cancel).await? else { return Ok(()) };
        let session = Session {
            options: Arc::clone(&self.options),
            wal: WalStore::new(self.options.lineage.clone()).with_compression_level(self.options.compression_level),
            problems: self.problems.clone(),
            may_acknowledge: lease.may_acknowledge(),
            losses: Arc::new(Losses::default()),
        };
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        let deposit = Deposit::new(
            &session.wal,
            self.options.pg_wal.clone(),
            self.options.progress.clone(),
            lease.may_acknowledge(),
            (self.options.source == WalSource::Archive).then_some(sender),
            Arc::clone(&self.options.clock),
        );
        let mode = ArchiveMode::new(&self.options, &session.wal, &self.problems, &deposit, arrivals);
        let mut pushes = self.pushes;
        self.pushes = PushService::new().0;
        let again = Notify::new();
        let keeper = StretchKeeper { options: &self.options, wal: session.wal.clone(), again: &again };
        let streams = self.options.source == WalSource::Stream;
        let outcome = tokio::select! {
            archived = self.archive(&session, &again, &cancel), if streams => archived,
            archived = mode.run(&cancel), if !streams => archived,
            () = pushes.serve(&deposit, &self.problems) => Ok(()),
            lost = lease.keep() => Err(lost),
            () = self.options.gaps.keep_writing(&self.options.lineage) => Ok(()),
            () = keeper.keep(), if streams => Ok(()),
            () = forget_unused_buffers(&session.wal) => Ok(()),
        };
        self.options.progress.update(|progress| progress.connected = false);
        if !matches!(outcome, Err(ArchiverError::LeaseLost { .. })) {
            lease.release().await;
        }
        outcome
    }

    async fn take_lease(&self, cancel: &CancellationToken) -> Result<Option<LeaseKeeper>, ArchiverError> {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        loop {
            let request = LeaseRequest {
                lineage: self.options.lineage.clone(),
                clock: Arc::clone(&self.options.clock),
                identity: self.options.identity.clone(),
                progress: self.options.progress.clone(),
                problems: self.problems.clone(),
            };
            let taken = tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                taken = request.take() => taken,
            };
            match taken {
                Err(error) if error.is_passing() => self.report(Place::Lease, &error),
                taken => {
                    self.problems.clear(Place::Lease);
                    return taken.map(Some);
                }
            }
            if wait(backoff.next(), cancel).await {
                return Ok(None);
            }
        }
    }

    async fn archive(
        &self,
        session: &Session,
        again: &Notify,
        cancel: &CancellationToken,
    ) -> Result<(), ArchiverError> {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = self.options.guard.usable() => {}
            }
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = session.run(cancel) => ended,
                // Leaving the session closes its connection; what it was storing is found in the repository, or not.
                () = self.options.guard.given_up() => Ok(SessionEnd::Again),
                () = again.notified() => Ok(SessionEnd::Again),
            };
            self.options.progress.update(|progress| progress.connected = false);
            match ended {
                Ok(SessionEnd::Stopped) => return Ok(()),
                Ok(SessionEnd::Again) => {
                    self.problems.set(Place::Stream, Some("the connection to the server ended".to_owned()));
                }
                Err(error) if error.is_passing() => self.report(Place::Stream, &error),
                Err(error) => {
                    self.problems.set(Place::Archive, Some(in_full(&error)));
                    return Err(error);
                }
            }
            if begun.elapsed() >= GOOD_CONNECTION {
                backoff.reset();
            }
            if wait(backoff.next(), cancel).await {
                return Ok(());
            }
        }
    }

    fn report(&self, place: Place, error: &ArchiverError) {
        let text = in_full(error);
        tracing::warn!(error = %text, hint = error.hint(), "archiving does not get on; it is tried again");
        self.problems.set(place, Some(text));
    }
}

async fn forget_unused_buffers(wal: &WalStore) {
    loop {
        tokio::time::sleep(FORGET_EVERY).await;
        wal.forget_unused_buffers();
    }
}

/// Whether we are asked to stop before the time is over.
async fn wait(time: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        () = cancel.cancelled() => true,
        () = tokio::time::sleep(time) => false,
    }
}
