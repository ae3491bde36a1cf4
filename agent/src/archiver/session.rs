//! One connection to the server: from the place where the repository ends, through ends of timelines, until it breaks.
//!
//! Each timeline has a pipeline of its own (receiver, assembler, uploader). When reading ends, for whatever reason, the
//! pipeline is emptied first: everything that was received gets stored, however long the store takes, before anything is
//! received again. So there is one way to go on, after a broken connection as after a crash: look at the repository.

use std::sync::Arc;
use std::time::Duration;

use pitr::postgres::history::TimelineHistory;
use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::WalStore;
use pitr::repository::gap::GapCause;
use pitr::repository::lease::WalPosition;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::assembler::{Assembler, Heralds, Pace};
use super::begin::{self, Lost};
use super::error::ArchiverError;
use super::lead_in;
use super::losses::Losses;
use super::open_segment::StreamFacts;
use super::problems::{Place, Problems};
use super::progress::Progress;
use super::receiver::{Receiver, StreamEnd};
use super::record_scan::RecordScan;
use super::resume::{self, Divergence, Found, ResumePoint, TimelinePath};
use super::seam;
use super::service::ArchiverOptions;
use super::uploader::{Uploader, delete_tails, store_for_sure};
use super::whose;
use crate::postgres::instance::{Instance, Slot};
use crate::postgres::replication::{self, ReplicationConnection, Started, SwitchPoint, WalStream};
use crate::postgres::{self, ConnInfo, sql};

/// Chunks of at most 128 KiB that wait for the assembler.
const QUEUE: usize = 64;
/// The server hears from us at least so often.
const MAX_STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// `undefined_file`: a WAL segment that the server does not have any more.
const WAL_REMOVED: &str = "58P01";

/// Why a connection ended in peace.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// We were asked to stop.
    Stopped,
    /// The server stopped, or the store did not get on; worth another try at once.
    Again,
}

/// What connections have in common.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub options: Arc<ArchiverOptions>,
    pub wal: WalStore,
    pub problems: Problems,
    pub may_acknowledge: watch::Receiver<bool>,
    pub losses: Arc<Losses>,
}

/// The server, on the two connections that it takes to find out where to begin.
pub(super) struct Server {
    pub session: sql::SqlSession,
    pub connection: ReplicationConnection,
    /// Of this one server, however many the configuration names.
    pub conninfo: ConnInfo,
}

/// A connection that is ready to stream.
struct Ready {
    connection: ReplicationConnection,
    facts: StreamFacts,
    status_interval: Duration,
    point: ResumePoint,
}

impl Session {
    /// Archives until the connection ends.
    ///
    /// # Errors
    /// The server or the repository cannot be worked with; see [`ArchiverError::is_passing`].
    pub(super) async fn run(&self, cancel: &CancellationToken) -> Result<SessionEnd, ArchiverError> {
        let ready = tokio::select! {
            () = cancel.cancelled() => return Ok(SessionEnd::Stopped),
            ready = self.connect() => ready?,
        };
        let Ready { mut connection, mut facts, status_interval, mut point } = ready;
        loop {
            facts.timeline = point.timeline;
            tokio::select! {
                () = cancel.cancelled() => return Ok(SessionEnd::Stopped),
                begin = self.store_history(&mut connection, point.timeline) => facts.begin = begin?,
            }
            let scan = tokio::select! {
                () = cancel.cancelled() => return Ok(SessionEnd::Stopped),
                scan = lead_in::read(&self.wal, facts, point.segment, self.heralds()) => scan?,
            };
            let start = facts.segment_size.start_of(point.segment);
            self.announce(&point);
            let slot = Some(self.options.slot.as_str());
            let (switch, next) = match connection.start(slot, start, point.timeline).await? {
                Started::EndOfTimeline(switch, connection) => (switch, connection),
                Started::Streaming(stream) => {
                    self.problems.clear(Place::Stream);
                    match self.stream(stream, (point, scan), status_interval, cancel).await? {
                        Ended::Switched(switch, connection) => (switch, connection),
                        Ended::Session(end) => return Ok(end),
                    }
                }
            };
            tracing::info!(
                timeline = %facts.timeline, next = %switch.next_timeline, lsn = %switch.switch_lsn,
                "the server has gone to another timeline"
            );
            connection = next;
            let size = facts.segment_size;
            let stored = resume::on_timeline(&self.wal, switch.next_timeline, Some(size.segment_of(switch.switch_lsn)));
            let fresh = || resume::at_switch(switch.next_timeline, switch.switch_lsn, size);
            point = stored.await?.unwrap_or_else(fresh);
        }
    }

    async fn connect(&self) -> Result<Ready, ArchiverError> {
        let mut server = self.reach().await?;
        let instance = Instance::read(&server.session).await?;
        self.check(&instance)?;
        whose::check(&server.session, self.wal.lineage().lineage()).await?;
        let system = server.connection.identify_system().await?;
        let lineage = self.wal.lineage().lineage();
        let expected = lineage.lineage.system_identifier();
        if system.system_identifier != expected {
            return Err(ArchiverError::WrongCluster { found: system.system_identifier, expected });
        }
        self.refuse_the_left_behind(&server, system.timeline)?;
        // On no server before it is known to be the one: a slot that nobody reads fills its disk.
        let slot = self.slot(&mut server).await?;
        let end = WalPosition { timeline: system.timeline, lsn: system.flush_lsn };
        self.options.progress.update(|progress| progress.server = Some(end));
        let path = self.path(&mut server.connection, system.timeline).await?;
        let point = self.resume(&mut server, &path, &slot, end).await?;
        self.refuse_the_past(&point, end, instance.in_recovery)?;
        let major = instance
            .major()
            .ok_or_else(|| ArchiverError::Unsuitable(format!("PostgreSQL {} is not supported", instance.version)))?;
        let facts = StreamFacts {
            timeline: point.timeline,
            begin: Lsn::INVALID,
            system_identifier: expected,
            major,
            segment_size: lineage.wal_segment_size,
        };
        if point.stored.bytes.is_empty() {
            seam::check(&self.wal, &server.conninfo, facts, point.segment).await?;
        }
        server.session.close().await?;
        let status_interval = match instance.wal_sender_timeout {
            Duration::ZERO => MAX_STATUS_INTERVAL,
            timeout => MAX_STATUS_INTERVAL.min(timeout / 3),
        };
        Ok(Ready { connection: server.connection, facts, status_interval, point })
    }

    /// Both connections go to one server, and everybody else is told to which.
    async fn reach(&self) -> Result<Server, ArchiverError> {
        let session = sql::connect(&self.losses.order(self.options.conninfo.clone())).await?;
        let endpoint = session.endpoint().clone();
        let conninfo = self.options.conninfo.clone().only(&endpoint);
        let connection = replication::connect(&conninfo).await?;
        let before = self.options.progress.now().endpoint;
        if before.as_ref() != Some(&endpoint) {
            if let Some(before) = before {
                tracing::warn!(%before, now = %endpoint, "WAL comes from another server from now on");
                let reason = "another server took over, and does not have it".to_owned();
                self.losses.slot_is_gone(GapCause::WalRemoved, reason);
            }
            self.losses.forget_refusals();
            self.options.progress.update(|progress| progress.endpoint = Some(endpoint));
        }
        Ok(Server { session, connection, conninfo })
    }

    /// Timelines rise along a history: one on a lower timeline than what was archived last was left by a failover.
    fn refuse_the_left_behind(&self, server: &Server, found: TimelineId) -> Result<(), ArchiverError> {
        match self.options.progress.now().sealed {
            Some(sealed) if sealed.timeline > found => {
                self.losses.avoid(server.session.endpoint().clone());
                Err(ArchiverError::LeftBehind { found, archived: sealed.timeline })
            }
            _ => Ok(()),
        }
    }

    /// A server has all that it ever sent. One that has less is not what it was, or a standby that has yet to receive it.
    fn refuse_the_past(&self, point: &ResumePoint, end: WalPosition, standby: bool) -> Result<(), ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let stored = point.sealed.unwrap_or(Lsn::INVALID).max(size.start_of(point.segment));
        if point.timeline != end.timeline || point.sealed.is_none() || stored <= end.lsn {
            return Ok(());
        }
        if standby {
            let text = format!("the standby has WAL up to {}, and the repository up to {stored}", end.lsn);
            return Err(ArchiverError::Unsuitable(text));
        }
        Err(ArchiverError::WentBack { timeline: point.timeline, stored, server: end.lsn })
    }

    fn check(&self, instance: &Instance) -> Result<(), ArchiverError> {
        let lineage = self.wal.lineage().lineage();
        let expected = lineage.lineage.system_identifier();
        if instance.system_identifier != expected {
            return Err(ArchiverError::WrongCluster { found: instance.system_identifier, expected });
        }
        if instance.segment_size != lineage.wal_segment_size {
            return Err(ArchiverError::WrongSegmentSize);
        }
        if instance.wal_level == "minimal" {
            return Err(ArchiverError::Unsuitable("wal_level is minimal: WAL lacks what a recovery needs".to_owned()));
        }
        Ok(())
    }

    /// Our slot, made where it does not exist, and made afresh where it keeps nothing any more.
    async fn slot(&self, server: &mut Server) -> Result<Slot, ArchiverError> {
        let name = self.options.slot.as_str();
        match Slot::read(&server.session, name).await? {
            Some(slot) if !slot.physical => {
                let text = format!("the replication slot \"{name}\" is a logical one; it cannot be used for WAL");
                return Err(ArchiverError::Unsuitable(text));
            }
            Some(slot) if !slot.is_lost() && slot.restart_lsn.is_some() => return Ok(slot),
            Some(slot) => {
                if slot.is_lost() {
                    let (cause, reason) = begin::why_lost(&slot, name);
                    tracing::error!(slot = name, reason, "the slot was invalidated; it is made afresh");
                    self.losses.slot_is_gone(cause, reason);
                }
                server.connection.drop_slot(name).await?;
            }
            None => {
                tracing::info!(slot = name, "making the replication slot");
                let (cause, reason) = match self.options.guard.reason() {
                    Some(reason) => (GapCause::SlotGivenUp, reason),
                    None => (GapCause::SlotDropped, format!("the server had no slot \"{name}\" any more")),
                };
                self.losses.slot_is_gone(cause, reason);
            }
        }
        self.make_slot(server).await
    }

    pub(super) async fn make_slot(&self, server: &mut Server) -> Result<Slot, ArchiverError> {
        let name = self.options.slot.as_str();
        server.connection.create_slot(name).await?;
        let made = Slot::read(&server.session, name).await?;
        made.ok_or_else(|| ArchiverError::Unsuitable(format!("the replication slot \"{name}\" vanished")))
    }

    /// The server's history.
    async fn path(
        &self,
        connection: &mut ReplicationConnection,
        current: TimelineId,
    ) -> Result<TimelinePath, ArchiverError> {
        if current == TimelineId::FIRST {
            return Ok(TimelinePath::new(current, None));
        }
        let file = connection.timeline_history(current).await?;
        let history =
            TimelineHistory::parse(current, &file).map_err(|error| ArchiverError::Unsuitable(error.to_string()))?;
        Ok(TimelinePath::new(current, Some(&history)))
    }

    /// Where to go on: where the repository ends, or behind what nobody has any more.
    async fn resume(
        &self,
        server: &mut Server,
        path: &TimelinePath,
        slot: &Slot,
        end: WalPosition,
    ) -> Result<ResumePoint, ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let mut reserved = slot.restart_lsn;
        let point = loop {
            let point = match resume::find(&self.wal, path, reserved).await? {
                Found::Resume(point, divergence) => {
                    divergence.into_iter().for_each(|divergence| self.report(divergence));
                    point
                }
                Found::Nothing(divergence) => {
                    divergence.into_iter().for_each(|divergence| self.report(divergence));
                    return self.begin(path, slot.restart_lsn.unwrap_or(end.lsn)).await;
                }
            };
            if !self.losses.is_refused(point.timeline, size.start_of(point.segment)) {
                return Ok(point);
            }
            let lost = Lost::at(&point, size);
            match resume::next_stored(&self.wal, point.timeline, point.segment).await? {
                Some(next) => {
                    self.note_gap(lost, size.start_of(next));
                    reserved = Some(size.start_of(next));
                }
                None => break point,
            }
        };
        let lost = Lost::at(&point, size);
        let begun = self.begin_behind(server, path, slot, lost).await?;
        self.note_gap(lost, size.start_of(begun.segment));
        Ok(begun)
    }

    /// Nothing of the server's history is stored.
    async fn begin(&self, path: &TimelinePath, from: Lsn) -> Result<ResumePoint, ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let timeline = path
            .timeline_at(from)
            .ok_or_else(|| ArchiverError::Unsuitable(format!("the server's history has no timeline at {from}")))?;
        tracing::info!(%timeline, lsn = %from, "archiving begins here");
        let begun = resume::on_timeline(&self.wal, timeline, Some(size.segment_of(from))).await?;
        Ok(begun
            .filter(|point| size.start_of(point.segment) >= from)
            .unwrap_or_else(|| resume::at_switch(timeline, from, size)))
    }

    fn report(&self, divergence: Divergence) {
        let Divergence { timeline, from } = divergence;
        let text = match from {
            Some(from) => format!(
                "the repository holds WAL of timeline {timeline} from {from} on that is not in this server's history"
            ),
            None => format!("the repository holds WAL of timeline {timeline}, which is not in this server's history"),
        };
        tracing::warn!(%timeline, ?from, "the repository holds WAL that is not in this server's history");
        self.problems.set(Place::Archive, Some(text));
    }

    /// The history file comes before the first WAL of its timeline. Returns where the timeline begins.
    async fn store_history(
        &self,
        connection: &mut ReplicationConnection,
        timeline: TimelineId,
    ) -> Result<Lsn, ArchiverError> {
        if timeline == TimelineId::FIRST {
            return Ok(Lsn::INVALID);
        }
        let file = connection.timeline_history(timeline).await?;
        let history = TimelineHistory::parse(timeline, &file);
        let history = history.map_err(|error| ArchiverError::Unsuitable(error.to_string()))?;
        let prepared = self.wal.prepare_history(timeline, &file)?;
        store_for_sure(&self.wal, &prepared, self.options.put_timeout, &self.problems).await?;
        Ok(history.begin())
    }

    fn heralds(&self) -> Heralds {
        Heralds { progress: self.options.progress.clone(), findings: self.options.findings.clone() }
    }

    fn announce(&self, point: &ResumePoint) {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let start = WalPosition { timeline: point.timeline, lsn: size.start_of(point.segment) };
        tracing::info!(timeline = %start.timeline, lsn = %start.lsn, sealed = ?point.sealed, "streaming WAL");
        self.options.findings.begin(start);
        self.options.progress.update(|progress| {
            progress.received = Some(start);
            // What was sealed on a timeline that was left says nothing of positions on this one, which may be lower.
            let elsewhere = progress.sealed.is_some_and(|sealed| sealed.timeline != point.timeline);
            if let Some(lsn) = point.sealed.or_else(|| elsewhere.then_some(start.lsn)) {
                progress.sealed = Some(WalPosition { timeline: point.timeline, lsn });
            }
        });
    }

    /// Runs the pipeline of one timeline.
    async fn stream(
        &self,
        stream: WalStream,
        (point, scan): (ResumePoint, RecordScan),
        status_interval: Duration,
        cancel: &CancellationToken,
    ) -> Result<Ended, ArchiverError> {
        let (start, facts) = (stream.position(), scan.facts());
        let stored = point.sealed.unwrap_or(start);
        let pipeline = self.pipeline(point, scan);
        let receiver = Receiver {
            progress: self.options.progress.clone(),
            clock: Arc::clone(&self.options.clock),
            status_interval,
            synchronous: self.options.synchronous,
            may_acknowledge: self.may_acknowledge.clone(),
        };
        let Pipeline { chunks, sealed, assembler, uploader } = pipeline;
        self.options.progress.update(|progress| progress.connected = true);
        let end = {
            let mut receiving = std::pin::pin!(receiver.run(stream, chunks, sealed.clone(), cancel));
            tokio::select! {
                end = &mut receiving => end,
                received = self.first_bytes(start) => {
                    self.losses.went_well();
                    self.options.guard.forget();
                    self.options.gaps.came_back(received.max(stored));
                    receiving.await
                }
            }
        };
        self.options.progress.update(|progress| progress.connected = false);
        // A server that is to stop must not wait for what follows: of all ends only two still need the connection.
        let kept = match end {
            // Asked at once: a server that stops now does not wait for a connection that takes commands.
            StreamEnd::EndOfTimeline(stream) => match stream.end_of_timeline().await {
                Ok((switch, connection)) => Kept::Connection(switch, connection),
                Err(error) => Kept::Nothing(Some(error)),
            },
            StreamEnd::Stopped(farewell) => Kept::Farewell(farewell),
            StreamEnd::Failed(error) => Kept::Nothing(Some(error)),
            StreamEnd::Stalled => {
                tracing::warn!(
                    "the repository does not take WAL; the connection is given up so that the server need not wait"
                );
                Kept::Nothing(None)
            }
            StreamEnd::ServerShutdown | StreamEnd::PipelineEnded => Kept::Nothing(None),
        };
        let emptied = self.empty(assembler, uploader, cancel).await?;
        let sealed = *sealed.borrow();
        match kept {
            _ if !emptied => Ok(Ended::Session(SessionEnd::Stopped)),
            Kept::Connection(switch, connection) => Ok(Ended::Switched(switch, connection)),
            Kept::Farewell(farewell) => {
                if *self.may_acknowledge.borrow() {
                    farewell.say(sealed, self.options.clock.as_ref()).await;
                }
                Ok(Ended::Session(SessionEnd::Stopped))
            }
            Kept::Nothing(Some(error)) => {
                if error.sqlstate() == Some(WAL_REMOVED) {
                    tracing::warn!(timeline = %facts.timeline, lsn = %start, %error, "the server does not have this WAL");
                    self.losses.refuse(facts.timeline, start);
                }
                Err(error.into())
            }
            Kept::Nothing(None) => Ok(Ended::Session(SessionEnd::Again)),
        }
    }

    /// Resolves when WAL has come on this connection.
    async fn first_bytes(&self, start: Lsn) -> Lsn {
        let mut progress = self.options.progress.subscribe();
        let came = |progress: &Progress| progress.received.is_some_and(|received| received.lsn > start);
        match progress.wait_for(came).await.map(|progress| progress.received) {
            Ok(Some(received)) => received.lsn,
            _ => std::future::pending().await,
        }
    }

    fn pipeline(&self, point: ResumePoint, scan: RecordScan) -> Pipeline {
        let (options, facts) = (&self.options, scan.facts());
        let (chunks, taken) = mpsc::channel(QUEUE);
        let (uploads, to_upload) = mpsc::channel(1);
        let sealed = watch::Sender::new(point.sealed.unwrap_or(Lsn::INVALID));
        let subscription = sealed.subscribe();
        let assembler = Assembler {
            facts,
            progress: options.progress.clone(),
            problems: self.problems.clone(),
            pace: if options.synchronous { Pace::at_once() } else { Pace::Every(options.flush_interval) },
            findings: options.findings.clone(),
            buffers: self.wal.contents().clone(),
        };
        let uploader = Uploader {
            wal: self.wal.clone(),
            timeline: facts.timeline,
            progress: options.progress.clone(),
            problems: self.problems.clone(),
            put_timeout: options.put_timeout,
        };
        let (wal, timeout, leftover) = (self.wal.clone(), options.put_timeout, point.leftover);
        let assembling = assembler.run(scan, point.segment, point.stored, taken, uploads);
        let uploading = async move {
            if !leftover.is_empty() {
                delete_tails(&wal, leftover, timeout).await;
            }
            uploader.run(to_upload, sealed).await
        };
        Pipeline {
            chunks,
            sealed: subscription,
            assembler: AbortOnDropHandle::new(tokio::spawn(assembling)),
            uploader: AbortOnDropHandle::new(tokio::spawn(uploading)),
        }
    }

    /// Waits until everything that was received is stored; false when we are asked to stop and it takes too long.
    async fn empty(
        &self,
        assembler: AbortOnDropHandle<Result<(), ArchiverError>>,
        uploader: AbortOnDropHandle<Result<(), ArchiverError>>,
        cancel: &CancellationToken,
    ) -> Result<bool, ArchiverError> {
        let emptied = async {
            let (assembled, uploaded) = tokio::join!(assembler, uploader);
            // The uploader's error first: the assembler ends early because of it.
            for ended in [uploaded, assembled] {
                ended.map_err(|error| ArchiverError::Broken(error.to_string()))??;
            }
            Ok(true)
        };
        let patience = async {
            cancel.cancelled().await;
            tokio::time::sleep(self.options.shutdown_timeout).await;
        };
        tokio::select! {
            emptied = emptied => emptied,
            () = patience => {
                tracing::warn!("not everything could be stored in time; the server keeps it for the next start");
                Ok(false)
            }
        }
    }
}

struct Pipeline {
    chunks: mpsc::Sender<super::assembler::Chunk>,
    sealed: watch::Receiver<Lsn>,
    assembler: AbortOnDropHandle<Result<(), ArchiverError>>,
    uploader: AbortOnDropHandle<Result<(), ArchiverError>>,
}

/// What of a connection is still needed after the pipeline is empty.
enum Kept {
    Connection(SwitchPoint, ReplicationConnection),
    Farewell(super::receiver::Farewell),
    Nothing(Option<postgres::Error>),
}

enum Ended {
    Switched(SwitchPoint, ReplicationConnection),
    Session(SessionEnd),
}
