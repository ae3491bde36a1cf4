//! Follows the segments that are handed over, from the place where the repository ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr::postgres::history::{PathStep, TimelineHistory, TimelinePath};
use pitr::postgres::{Lsn, MajorVersion, SegmentName, SegmentNumber, TimelineId, WalSegmentSize};
use pitr::repository;
use pitr::repository::WalStore;
use pitr::repository::gap::GapCause;
use pitr::repository::lease::WalPosition;
use pitr::storage::ObjectStoreExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::missing::{self, Whereabouts};
use super::sequence::Sequence;
use super::server::{Server, ServerPosition};
use crate::archiver::ArchiverError;
use crate::archiver::assembler::Heralds;
use crate::archiver::lead_in;
use crate::archiver::open_segment::StreamFacts;
use crate::archiver::problems::{Place, Problems};
use crate::archiver::progress::ArchiveProgress;
use crate::archiver::record_scan::RecordScan;
use crate::archiver::resume::{self, Found};
use crate::archiver::service::ArchiverOptions;
use crate::error_text::in_full;
use crate::wal_push::{Arrival, Deposit};

/// How often the server is asked how far it is, and what is missing is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Looks after which a segment that is missing is not taken for one that is on its way.
const LOOKS: u32 = 2;

/// What following the WAL works with.
pub(in crate::archiver) struct ArchiveMode {
    options: Arc<ArchiverOptions>,
    wal: WalStore,
    problems: Problems,
    deposit: Deposit,
    arrivals: mpsc::Receiver<Arrival>,
    server: Server,
    wanted: watch::Receiver<Lsn>,
    place: Option<Following>,
    /// A segment that is missing, and at how many looks it was.
    missing: Option<(SegmentName, u32)>,
    /// Up to here everything is in complete segments.
    switched: Lsn,
}

/// Where we are.
struct Following {
    sequence: Sequence,
    facts: StreamFacts,
    /// Reads on from segment to segment; none while it reads.
    scan: Option<RecordScan>,
}

impl ArchiveMode {
    pub(in crate::archiver) fn new(
        options: &Arc<ArchiverOptions>,
        wal: &WalStore,
        problems: &Problems,
        deposit: &Deposit,
        arrivals: mpsc::Receiver<Arrival>,
    ) -> Self {
        let lineage = wal.lineage().lineage().clone();
        Self {
            options: Arc::clone(options),
            wal: wal.clone(),
            problems: problems.clone(),
            deposit: deposit.clone(),
            arrivals,
            server: Server::new(options.conninfo.clone(), lineage),
            wanted: options.progress.wanted(),
            place: None,
            missing: None,
            switched: Lsn::INVALID,
        }
    }

    /// Follows until `cancel`.
    ///
    /// # Errors
    /// What trying again cannot mend: another cluster answers.
    pub(in crate::archiver) async fn run(mut self, cancel: &CancellationToken) -> Result<(), ArchiverError> {
        self.progress().update(|progress| progress.pushed = true);
        let mut look_at = Instant::now();
        loop {
            let worked = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                Some(arrival) = self.arrivals.recv() => self.take(arrival).await,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.switch_where_wanted().await,
                    Err(_) => return Ok(()),
                },
                () = tokio::time::sleep_until(look_at) => {
                    look_at = Instant::now() + LOOK_EVERY;
                    self.look().await
                }
            };
            match worked {
                Ok(()) => {}
                Err(error) if error.is_passing() => self.report(&error),
                Err(error) => {
                    self.problems.set(Place::Archive, Some(in_full(&error)));
                    return Err(error);
                }
            }
        }
    }

    fn progress(&self) -> &ArchiveProgress {
        &self.options.progress
    }

    fn size(&self) -> WalSegmentSize {
        self.wal.lineage().lineage().wal_segment_size
    }

    fn report(&self, error: &ArchiverError) {
        let text = in_full(error);
        tracing::warn!(error = %text, hint = error.hint(), "archiving does not get on; it is tried again");
        self.problems.set(Place::Stream, Some(text));
        self.progress().update(|progress| progress.connected = false);
    }

    /// Asks the server how far it is, and does what follows from that.
    async fn look(&mut self) -> Result<(), ArchiverError> {
        let position = self.server.position().await?;
        self.progress().update(|progress| {
            progress.server = Some(position.flushed);
            progress.connected = true;
        });
        self.problems.clear(Place::Stream);
        if self.place.is_none() {
            self.begin(position).await?;
        }
        self.advance(None).await?;
        self.follow_timeline(position.flushed.timeline).await?;
        self.find_missing(position).await?;
        self.switch_where_wanted().await
    }

    async fn take(&mut self, arrival: Arrival) -> Result<(), ArchiverError> {
        let Some(place) = &mut self.place else { return Ok(()) };
        place.sequence.note(arrival.name);
        self.advance(Some(arrival)).await
    }

    /// Goes on where the repository ends; in an empty one at the segment that the server writes now, which is the first that
    /// will surely be handed over.
    async fn begin(&mut self, position: ServerPosition) -> Result<(), ArchiverError> {
        let size = self.size();
        let path = self.path(position.flushed.timeline).await?;
        let history = path_of_resume(position.flushed.timeline, path.as_ref());
        let sealed = self.progress().now().sealed;
        let (timeline, segment, sealed) = match resume::find(&self.wal, &history, sealed.map(|at| at.lsn)).await? {
            Found::Resume(point, _) => (point.timeline, point.segment, point.sealed),
            Found::Nothing(_) => (position.flushed.timeline, size.segment_of(position.flushed.lsn), None),
        };
        tracing::info!(%timeline, lsn = %size.start_of(segment), "archiving what archive_command hands over");
        if let Some(lsn) = sealed {
            self.progress().update(|progress| progress.sealed = Some(WalPosition { timeline, lsn }));
        }
        self.place = Some(self.following(timeline, segment).await?);
        Ok(())
    }

    /// At a segment, with all that is stored behind it.
    async fn following(&self, timeline: TimelineId, segment: SegmentNumber) -> Result<Following, ArchiverError> {
        let size = self.size();
        let mut sequence = Sequence::new(timeline, segment, size);
        let first_log = sequence.next_name().log();
        for log in self.wal.logs(timeline).await?.into_iter().filter(|log| *log >= first_log) {
            for name in self.wal.log(timeline, log).await?.segments {
                sequence.note(name);
            }
        }
        let facts = self.facts(timeline).await?;
        let scan = lead_in::read(&self.wal, facts, segment, self.heralds()).await?;
        self.options.findings.begin(WalPosition { timeline, lsn: size.start_of(segment) });
        Ok(Following { sequence, facts, scan: Some(scan) })
    }

    async fn facts(&self, timeline: TimelineId) -> Result<StreamFacts, ArchiverError> {
        // A history that has not come yet is met again with the first segment that is whole.
        let path = self.path(timeline).await?;
        let begin = path.and_then(|path| path.steps().last().map(|step| step.begin)).unwrap_or(Lsn::INVALID);
        let lineage = self.wal.lineage().lineage();
        let version = lineage.postgres_version;
        let major: Option<MajorVersion> = version.major();
        Ok(StreamFacts {
            timeline,
            system_identifier: lineage.lineage.system_identifier(),
            major: major.ok_or_else(|| ArchiverError::Unsuitable(format!("PostgreSQL {version} is not supported")))?,
            segment_size: lineage.wal_segment_size,
            begin,
        })
    }

    /// Reads every segment that joins, and seals it.
    async fn advance(&mut self, arrival: Option<Arrival>) -> Result<(), ArchiverError> {
        loop {
            let Some(place) = &mut self.place else { return Ok(()) };
            let Some(name) = place.sequence.stored_next() else { return Ok(()) };
            let held = arrival.as_ref().filter(|arrival| arrival.name == name).and_then(|a| a.content.clone());
            let content = match held {
                Some(content) => content,
                None => self.wal.whole_segment(name).await?,
            };
            let (start, end, timeline) =
                (place.sequence.next_start(), place.sequence.next_end(), place.sequence.timeline());
            let scan = place.scan.take();
            let scan = match scan {
                Some(scan) => scan,
                None => RecordScan::new(place.facts),
            };
            let scan = self.scan(scan, start, content).await?;
            let commit_time = scan.commit_time();
            if let Some(place) = &mut self.place {
                place.scan = Some(scan);
                place.sequence.advance();
            }
            let sealed = Some(WalPosition { timeline, lsn: end });
            self.progress().update(|progress| {
                (progress.sealed, progress.received) = (sealed, sealed);
                progress.sealed_commit_time = commit_time.or(progress.sealed_commit_time);
            });
        }
    }

    fn heralds(&self) -> Heralds {
        Heralds { progress: self.options.progress.clone(), findings: self.options.findings.clone() }
    }

    async fn scan(&self, mut scan: RecordScan, start: Lsn, content: Bytes) -> Result<RecordScan, ArchiverError> {
        let mut heralds = self.heralds();
        let scanned = tokio::task::spawn_blocking(move || {
            let read = scan.feed(start, &content, &mut heralds);
            (scan, read)
        });
        let (scan, read) = scanned.await.map_err(|error| ArchiverError::Broken(error.to_string()))?;
        if let Err(error) = read {
            tracing::warn!(%error, "WAL that is stored cannot be decoded");
            self.problems.set(Place::Archive, Some(format!("WAL that is stored cannot be decoded: {error}")));
        }
        Ok(scan)
    }

    /// Once all of a timeline that the server left is taken, goes on with the next one on the server's way.
    async fn follow_timeline(&mut self, current: TimelineId) -> Result<(), ArchiverError> {
        let size = self.size();
        loop {
            let Some(Following { sequence, .. }) = &self.place else { return Ok(()) };
            let (timeline, next) = (sequence.timeline(), sequence.next());
            if timeline == current {
                return Ok(());
            }
            let Some(path) = self.path(current).await? else { return Ok(()) };
            let steps = path.steps();
            let follower = steps.iter().skip_while(|step| step.tli != timeline).nth(1).copied();
            let Some(follower) = follower else {
                let text = format!("timeline {timeline} is not in the history of the server's timeline {current}");
                tracing::warn!(%timeline, %current, "the repository holds WAL that is not in this server's history");
                self.problems.set(Place::Archive, Some(text));
                self.place = None;
                return Ok(());
            };
            let shared = size.segment_of(follower.begin);
            if next < shared {
                return Ok(());
            }
            tracing::info!(%timeline, next = %follower.tli, lsn = %follower.begin, "the server has gone to another timeline");
            self.place = Some(self.following(follower.tli, shared).await?);
            self.missing = None;
            self.advance(None).await?;
        }
    }

    /// The server's history, from the repository, else from the server; none where it has not come yet. The first timeline has
    /// none.
    async fn path(&self, current: TimelineId) -> Result<Option<TimelinePath>, ArchiverError> {
        if current == TimelineId::FIRST {
            return Ok(Some(TimelinePath::without_history(current)));
        }
        let content = match self.wal.read_history(current).await {
            Ok(content) => content,
            Err(error) if error.is_not_found() => {
                let path = self.deposit.path(format!("{}.history", current.to_hex()));
                match tokio::fs::read(path).await {
                    Ok(content) => content.into(),
                    Err(_) => return Ok(None),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let history =
            TimelineHistory::parse(current, &content).map_err(|error| ArchiverError::Unsuitable(error.to_string()))?;
        Ok(Some(TimelinePath::new(&history)))
    }

    /// Looks for the next segment where the server has written it, and it does not come.
    async fn find_missing(&mut self, position: ServerPosition) -> Result<(), ArchiverError> {
        let Some(Following { sequence, .. }) = &self.place else { return Ok(()) };
        let (name, end) = (sequence.next_name(), sequence.next_end());
        if position.flushed.lsn < end {
            self.missing = None;
            return Ok(());
        }
        let pg_wal = self.deposit.path("");
        let looked = blocking(move || missing::look(&pg_wal, name)).await?;
        if looked == Whereabouts::Ready {
            self.missing = None;
            return Ok(());
        }
        let looks = self.missing.filter(|(missing, _)| *missing == name).map_or(0, |(_, looks)| looks) + 1;
        self.missing = Some((name, looks));
        if looks < LOOKS {
            return Ok(());
        }
        match looked {
            Whereabouts::Left => self.fetch(name).await,
            _ => self.give_up(name, position.flushed.timeline).await,
        }
    }

    /// The server takes it for archived, and it was not handed to us.
    async fn fetch(&mut self, name: SegmentName) -> Result<(), ArchiverError> {
        let deposited = match self.deposit.fetch(name).await {
            Ok(deposited) => deposited,
            Err(error) => {
                let text = format!("segment {name} was not handed over, and cannot be fetched: {}", in_full(&error));
                tracing::warn!(segment = %name, error = %in_full(&error), "a segment that was not handed over cannot be fetched");
                self.problems.set(Place::Push, Some(text));
                return Ok(());
            }
        };
        if !deposited.found {
            tracing::warn!(
                segment = %name,
                "the server took a segment for archived that was not handed over: it was fetched from pg_wal; check archive_command"
            );
        }
        self.missing = None;
        match deposited.arrival {
            Some(arrival) => self.take(arrival).await,
            None => Ok(()),
        }
    }

    /// It is nowhere: there is a hole, and the archive goes on behind it.
    async fn give_up(&mut self, name: SegmentName, current: TimelineId) -> Result<(), ArchiverError> {
        let size = self.size();
        if self
            .wal
            .lineage()
            .store()
            .exists(&self.wal.lineage().layout().segment(name))
            .await
            .map_err(repository::Error::from)?
        {
            if let Some(place) = &mut self.place {
                place.sequence.note(name);
            }
            return self.advance(None).await;
        }
        let pg_wal = self.deposit.path("");
        let kept = blocking(move || missing::first_behind(&pg_wal, name, size)).await?;
        let Some(Following { sequence, .. }) = &self.place else { return Ok(()) };
        let (timeline, from) = (name.tli(), sequence.next_start());
        let behind = kept.into_iter().chain(sequence.earliest_ahead()).min();
        let follower =
            self.follower(timeline, current).await?.filter(|step| size.segment_of(step.begin) > sequence.next());
        let to = match (behind, follower) {
            (Some(behind), _) => {
                if let Some(place) = &mut self.place {
                    place.sequence.skip_to(behind);
                    place.scan = None;
                }
                size.start_of(behind)
            }
            (None, Some(follower)) => {
                let shared = size.segment_of(follower.begin);
                self.place = Some(self.following(follower.tli, shared).await?);
                size.start_of(shared)
            }
            (None, None) => {
                let text =
                    format!("segment {name} was never handed over, and the server does not have it: archiving waits");
                self.problems.set(Place::Archive, Some(text));
                return Ok(());
            }
        };
        self.missing = None;
        self.tell_hole(timeline, from, to);
        self.advance(None).await
    }

    /// Noted in the repository, told as a problem, and followed by a backup at once.
    fn tell_hole(&self, timeline: TimelineId, from: Lsn, to: Lsn) {
        let reason =
            "the server took it for archived without handing it over, and no longer has it: check archive_command";
        let note = self.options.gap_note(timeline, from, Some(to), GapCause::NotHandedOver, reason.to_owned());
        self.options.gaps.note(note);
    }

    /// The timeline that follows `timeline` on the way to `current`.
    async fn follower(&self, timeline: TimelineId, current: TimelineId) -> Result<Option<PathStep>, ArchiverError> {
        let path = self.path(current).await?;
        let steps = path.as_ref().map(TimelinePath::steps).unwrap_or_default();
        Ok(steps.iter().skip_while(|step| step.tli != timeline).nth(1).copied())
    }

    /// Somebody waits for a position in the open segment: it is handed over only once the server is made to end it.
    async fn switch_where_wanted(&mut self) -> Result<(), ArchiverError> {
        let wanted = *self.wanted.borrow_and_update();
        let size = self.size();
        let sealed = self.progress().now().sealed.map_or(Lsn::INVALID, |sealed| sealed.lsn);
        if wanted <= self.switched.max(sealed) {
            return Ok(());
        }
        let inserted = self.server.position().await?.inserted;
        let open = size.start_of(size.segment_of(inserted));
        if wanted <= open {
            self.switched = open;
            return Ok(());
        }
        // No server of this history has said it: ending segments would not bring it nearer.
        if wanted > inserted {
            return Ok(());
        }
        match self.server.switch_wal(size).await {
            Ok(switched) => {
                self.switched = switched;
                tracing::debug!(lsn = %switched, "the server was made to end a segment that is waited for");
                Ok(())
            }
            Err(ArchiverError::Postgres(error)) if error.sqlstate().is_some() => {
                let text = format!(
                    "the server does not end its open segment for us: whoever waits for a marker or a backup waits until it \
                     is full, or for archive_timeout: {error}"
                );
                Err(ArchiverError::Unsuitable(text))
            }
            Err(error) => Err(error),
        }
    }
}

fn path_of_resume(current: TimelineId, path: Option<&TimelinePath>) -> resume::TimelinePath {
    resume::TimelinePath::of_steps(current, path.map(TimelinePath::steps).unwrap_or_default())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ArchiverError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| ArchiverError::Broken(error.to_string()))?;
    done.map_err(|error| ArchiverError::Unsuitable(format!("the server's pg_wal cannot be read: {error}")))
}
