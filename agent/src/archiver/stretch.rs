//! The newest stretch of WAL in the repository, from the newest backup on, looked at again and again: what was stored and
//! is not there any more is stored anew, or noted as lost.
//!
//! An object store forgets nothing by itself; people, scripts and lifecycle rules do. What a server still has is received
//! from it once more, over a connection without a slot, and validated as it was the first time.

use std::time::Duration;

use pitr::postgres::history::TimelineHistory;
use pitr::postgres::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};
use pitr::repository::backup::{BackupId, BackupManifest};
use pitr::repository::catalog::{DurableWal, LsnRange};
use pitr::repository::gap::GapCause;
use pitr::repository::lease::WalPosition;
use pitr::repository::{self, WalStore};
use tokio::sync::Notify;

use super::error::ArchiverError;
use super::open_segment::{OpenSegment, StoredPart, StreamFacts, WholeSegment};
use super::service::ArchiverOptions;
use crate::error_text::in_full;
use crate::postgres::replication::{self, StandbyStatus, Started, StreamMessage};
use crate::postgres::{self, sql};

/// So much WAL is looked at, at most: 64 listings.
const MAX_STRETCH_BYTES: u64 = 256 << 30;
/// A tail that is folded while it is listed looks like one that is gone, for a moment.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// `undefined_file`: a WAL segment that the server does not have any more.
const WAL_REMOVED: &str = "58P01";
/// The server may say nothing for so long.
const SILENCE: Duration = Duration::from_secs(30);

/// Looks after what is stored.
#[derive(Debug)]
pub(super) struct StretchKeeper<'a> {
    pub options: &'a ArchiverOptions,
    pub wal: WalStore,
    /// Told when the open segment is to be received anew.
    pub again: &'a Notify,
}

/// Segments of one timeline that are missing, `end` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    timeline: TimelineId,
    from: Lsn,
    first: SegmentNumber,
    end: SegmentNumber,
}

impl StretchKeeper<'_> {
    /// Never ends.
    pub(super) async fn keep(&self) {
        self.sealed().await;
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(error = in_full(&error), "the WAL in the repository could not be looked through");
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.look_interval) => {}
                () = self.options.gaps.look_requested() => {}
            }
        }
    }

    /// Resolves when it is known up to where anything is to be found.
    async fn sealed(&self) {
        let mut progress = self.options.progress.subscribe();
        // The sender lives in the options.
        let _ = progress.wait_for(|progress| progress.connected && progress.sealed.is_some()).await;
    }

    async fn look(&self) -> Result<(), ArchiverError> {
        // Before anything is listed: what is sealed later need not be found.
        let Some(sealed) = self.options.progress.now().sealed else { return Ok(()) };
        let Some(from) = self.begin(sealed).await? else { return Ok(()) };
        let seen = self.missing(sealed, from).await?;
        if seen.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(SECOND_LOOK).await;
        for missing in self.missing(sealed, from).await? {
            if seen.iter().any(|seen| seen.first == missing.first) && !self.is_noted(missing) {
                self.mend(missing, sealed).await?;
            }
        }
        Ok(())
    }

    /// The start of the newest backup, or of the timeline where that is later.
    async fn begin(&self, sealed: WalPosition) -> Result<Option<Lsn>, ArchiverError> {
        let Some(backup) = newest_backup(&self.wal).await? else { return Ok(None) };
        let begin = match sealed.timeline {
            TimelineId::FIRST => Lsn::INVALID,
            timeline => {
                let file = self.wal.read_history(timeline).await?;
                TimelineHistory::parse(timeline, &file).map_or(sealed.lsn, |history| history.begin())
            }
        };
        let of_backup = if backup.timeline > sealed.timeline { sealed.lsn } else { backup.start_lsn };
        let most = Lsn::new(sealed.lsn.as_u64().saturating_sub(MAX_STRETCH_BYTES));
        Ok(Some(begin.max(of_backup).max(most)))
    }

    async fn missing(&self, sealed: WalPosition, from: Lsn) -> Result<Vec<Missing>, ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let stored = stored(&self.wal, sealed.timeline, from, size).await?;
        let mut found = Vec::new();
        let mut position = from;
        loop {
            let end = stored.contiguous_to(position, sealed.lsn);
            if end >= sealed.lsn {
                return Ok(found);
            }
            let first = size.segment_of(end);
            let next = stored.next_covered(first.next()).map_or(sealed.lsn, |next| size.start_of(next)).min(sealed.lsn);
            let last = size.segment_before(next);
            found.push(Missing { timeline: sealed.timeline, from: end, first, end: last.next() });
            if next >= sealed.lsn {
                return Ok(found);
            }
            position = next;
        }
    }

    /// Whether it is known to be lost.
    fn is_noted(&self, missing: Missing) -> bool {
        let size = self.wal.lineage().lineage().wal_segment_size;
        self.options.gaps.uncovered().iter().any(|note| {
            note.timeline == missing.timeline
                && size.segment_of(note.from_lsn) <= missing.first
                && note.to_lsn.is_none_or(|to| to > missing.from)
        })
    }

    async fn mend(&self, missing: Missing, sealed: WalPosition) -> Result<(), ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let open = size.segment_of(sealed.lsn);
        tracing::error!(
            timeline = %missing.timeline, from = %missing.from,
            "WAL that was in the repository is not there any more; it is received from the server anew"
        );
        let whole = Missing { end: missing.end.min(open), ..missing };
        if missing.end > open {
            // The open segment: a new connection finds the repository's end where it is now.
            self.again.notify_one();
        }
        let mut next = whole.first;
        while next < whole.end {
            match self.receive(whole.timeline, next, whole.end).await {
                Ok(()) => {
                    tracing::info!(timeline = %missing.timeline, from = %missing.from, "it is stored again");
                    return Ok(());
                }
                Err(ArchiverError::Postgres(error)) if error.sqlstate() == Some(WAL_REMOVED) => {
                    next = self.lost(whole, next).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Notes what the server does not have either; says where it may go on.
    async fn lost(&self, missing: Missing, first: SegmentNumber) -> Result<SegmentNumber, ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let session = sql::connect(&self.server()).await?;
        let files = crate::postgres::instance::wal_files(&session).await.unwrap_or_default();
        session.close().await?;
        let mut end = first.next();
        while end < missing.end && !files.contains(&end.name(missing.timeline, size)) {
            end = end.next();
        }
        let from = missing.from.max(size.start_of(first));
        let reason = "it was deleted from the repository, and the server no longer has it".to_owned();
        let to = Some(size.start_of(end));
        self.options.gaps.note(self.options.gap_note(missing.timeline, from, to, GapCause::ObjectDeleted, reason));
        Ok(end)
    }

    fn server(&self) -> postgres::ConnInfo {
        match self.options.progress.now().endpoint {
            Some(endpoint) => self.options.conninfo.clone().only(&endpoint),
            None => self.options.conninfo.clone(),
        }
    }

    /// Receives and stores whole segments.
    async fn receive(
        &self,
        timeline: TimelineId,
        first: SegmentNumber,
        end: SegmentNumber,
    ) -> Result<(), ArchiverError> {
        let lineage = self.wal.lineage().lineage();
        let size = lineage.wal_segment_size;
        let unsupported = || ArchiverError::Unsuitable("the version of the server is not supported".to_owned());
        let facts = StreamFacts {
            timeline,
            system_identifier: lineage.lineage.system_identifier(),
            major: lineage.postgres_version.major().ok_or_else(unsupported)?,
            segment_size: size,
            begin: Lsn::INVALID,
        };
        let connection = replication::connect(&self.server()).await?;
        let Started::Streaming(mut stream) = connection.start(None, size.start_of(first), timeline).await? else {
            return Ok(());
        };
        let (mut number, mut segment) =
            (first, OpenSegment::new(facts, first, StoredPart::default(), self.wal.contents()));
        while number < end {
            let message = tokio::time::timeout(SILENCE, stream.next()).await;
            let quiet = || postgres::Error::TimedOut { server: "the server".to_owned(), seconds: SILENCE.as_secs() };
            match message.map_err(|_| quiet())?? {
                StreamMessage::Wal { bytes, .. } => {
                    let mut rest: &[u8] = &bytes;
                    while !rest.is_empty() && number < end {
                        let taken = segment.feed(rest)?;
                        rest = rest.get(taken..).unwrap_or_default();
                        if segment.is_complete() {
                            number = number.next();
                            let next = OpenSegment::new(facts, number, StoredPart::default(), self.wal.contents());
                            self.store(std::mem::replace(&mut segment, next).finish()?).await?;
                        }
                    }
                }
                StreamMessage::Keepalive { .. } => {
                    let status = StandbyStatus {
                        written: segment.position(),
                        flushed: Lsn::INVALID,
                        applied: Lsn::INVALID,
                        request_reply: false,
                    };
                    stream.send_status(status, self.options.clock.now()).await?;
                }
                StreamMessage::EndOfTimeline | StreamMessage::ServerShutdown => return Ok(()),
            }
        }
        Ok(())
    }

    async fn store(&self, whole: WholeSegment) -> Result<(), ArchiverError> {
        let wal = self.wal.clone();
        let prepare = move || wal.prepare_segment(whole.name, whole.facts.major, &whole.content);
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let prepared = prepared.map_err(|error| ArchiverError::Broken(error.to_string()))??;
        self.wal.put(&prepared).await?;
        Ok(())
    }
}

async fn newest_backup(wal: &WalStore) -> Result<Option<BackupManifest>, repository::Error> {
    let (lineage, layout) = (wal.lineage(), wal.lineage().layout());
    let children = lineage.store().list_children(&layout.backups()).await?;
    let mut ids: Vec<BackupId> = children.iter().filter_map(|child| child.name().parse().ok()).collect();
    ids.sort_unstable();
    for id in ids.iter().rev() {
        match lineage.get::<BackupManifest>(&layout.manifest(id)).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) if error.is_not_found() || error.is_corruption() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What is stored of `timeline` from the log of `from` on.
async fn stored(
    wal: &WalStore,
    timeline: TimelineId,
    from: Lsn,
    size: WalSegmentSize,
) -> Result<DurableWal, repository::Error> {
    let first_log = size.segment_of(from).name(timeline, size).log();
    let mut stored = DurableWal::new(size);
    for log in wal.logs(timeline).await?.into_iter().filter(|log| *log >= first_log) {
        let listed = wal.log(timeline, log).await?;
        for number in listed.segments.iter().filter_map(|name| name.number(size)) {
            stored.add_segment(number);
        }
        for tail in listed.tails.values().flatten() {
            let Some(number) = tail.segment.number(size) else { continue };
            // A tail of another place is no WAL of this one.
            let _ = stored.add_tail(number, LsnRange { from: tail.from, to: tail.to });
        }
    }
    Ok(stored)
}
