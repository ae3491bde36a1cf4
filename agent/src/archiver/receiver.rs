//! Reads the stream and answers the server. Never waits for an upload.
//!
//! When the queue to the assembler is full, nothing more is read from the server, but it goes on hearing from us, so its
//! `wal_sender_timeout` never expires. A server that is to stop waits until we have confirmed everything; where the store
//! does not let us, the connection is given up after [`PATIENCE`] so that it can stop. Its slot keeps what we lack.

use std::sync::Arc;
use std::time::Duration;

use pitr::clock::Clock;
use pitr::postgres::Lsn;
use pitr::repository::lease::WalPosition;
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acknowledgement::Acknowledgement;
use super::assembler::Chunk;
use super::progress::ArchiveProgress;
use crate::postgres::Error;
use crate::postgres::replication::{StreamMessage, WalStream};

/// How long a server that waits for us, or a full queue, is borne before the connection is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// Status updates follow each other no faster.
const MIN_STATUS_GAP: Duration = Duration::from_millis(100);
/// A server that asks again within this time after our answer is waiting for us.
const PRESSING_GAP: Duration = Duration::from_secs(2);
/// A server that says nothing for so long although it was asked is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// A status update that cannot be written for so long: the server is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(500);

/// Why the stream is no longer read.
#[derive(Debug)]
pub(super) enum StreamEnd {
    EndOfTimeline(WalStream),
    /// The server stopped in an orderly way.
    ServerShutdown,
    /// The store does not get on, and the server shall not wait for it.
    Stalled,
    Failed(Error),
    /// Nobody takes the bytes any more: the assembler says why.
    PipelineEnded,
    /// We were asked to stop.
    Stopped(Farewell),
}

pub(super) struct Receiver {
    pub progress: ArchiveProgress,
    pub clock: Arc<dyn Clock>,
    pub status_interval: Duration,
    /// Commits wait for what we confirm: it is said at once.
    pub synchronous: bool,
    /// Whether we still hold the lease: without it nothing is confirmed.
    pub may_acknowledge: watch::Receiver<bool>,
}

/// A stream that is not read any more, on which the last word is still to be said.
#[derive(Debug)]
pub(super) struct Farewell {
    stream: WalStream,
    acknowledgement: Acknowledgement,
}

impl Farewell {
    /// Says once more how far we are.
    pub(super) async fn say(mut self, sealed: Lsn, clock: &dyn Clock) {
        self.acknowledgement.seal(sealed);
        let status = self.acknowledgement.status(false);
        let said = tokio::time::timeout(Duration::from_secs(1), self.stream.send_status(status, clock.now())).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::debug!("the last status update did not reach the server");
        }
    }
}

struct State {
    receiver: Receiver,
    stream: WalStream,
    acknowledgement: Acknowledgement,
    sealed: watch::Receiver<Lsn>,
    status_due: Instant,
    last_status: Instant,
    last_heard: Instant,
    /// Since when the queue has had no room.
    full_since: Option<Instant>,
    pressed: Option<Pressed>,
}

/// The server has sent everything and asks again and again whether it is durable.
#[derive(Clone, Copy, Debug)]
struct Pressed {
    since: Instant,
    last: Instant,
    until: Lsn,
}

impl Receiver {
    /// Reads until the stream ends, `cancel` says so, or the connection must be given up.
    pub(super) async fn run(
        self,
        stream: WalStream,
        chunks: mpsc::Sender<Chunk>,
        sealed: watch::Receiver<Lsn>,
        cancel: &CancellationToken,
    ) -> StreamEnd {
        let now = Instant::now();
        let mut state = State {
            acknowledgement: Acknowledgement::new(stream.position(), self.synchronous),
            status_due: now,
            last_status: now.checked_sub(MIN_STATUS_GAP).unwrap_or(now),
            last_heard: now,
            full_since: None,
            pressed: None,
            receiver: self,
            stream,
            sealed,
        };
        match state.read(&chunks, cancel).await {
            Ok(Reading::Stopped) => {
                StreamEnd::Stopped(Farewell { stream: state.stream, acknowledgement: state.acknowledgement })
            }
            Ok(Reading::EndOfTimeline) => StreamEnd::EndOfTimeline(state.stream),
            Ok(Reading::ServerShutdown) => StreamEnd::ServerShutdown,
            Ok(Reading::Stalled) => StreamEnd::Stalled,
            Ok(Reading::PipelineEnded) => StreamEnd::PipelineEnded,
            Err(error) => StreamEnd::Failed(error),
        }
    }
}

enum Reading {
    Stopped,
    EndOfTimeline,
    ServerShutdown,
    Stalled,
    PipelineEnded,
}

impl State {
    async fn read(&mut self, chunks: &mpsc::Sender<Chunk>, cancel: &CancellationToken) -> Result<Reading, Error> {
        let mut place: Option<Permit<'_, Chunk>> = None;
        let mut tick = tokio::time::interval(TICK);
        loop {
            if place.is_none() && self.full_since.is_none() {
                self.full_since = Some(Instant::now());
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(Reading::Stopped),
                reserved = chunks.reserve(), if place.is_none() => match reserved {
                    Ok(reserved) => {
                        place = Some(reserved);
                        self.full_since = None;
                    }
                    Err(_) => return Ok(Reading::PipelineEnded),
                },
                message = self.stream.next(), if place.is_some() => {
                    self.last_heard = Instant::now();
                    match message? {
                        StreamMessage::Wal { start, bytes, server_end } => {
                            self.note_server(server_end);
                            if let Some(place) = place.take() {
                                self.note_received(start.advance(bytes.len() as u64));
                                place.send(Chunk { start, bytes });
                            }
                        }
                        StreamMessage::Keepalive { server_end, reply_requested, .. } => {
                            self.note_server(server_end);
                            if reply_requested {
                                self.note_request(server_end);
                            }
                        }
                        StreamMessage::EndOfTimeline => return Ok(Reading::EndOfTimeline),
                        StreamMessage::ServerShutdown => return Ok(Reading::ServerShutdown),
                    }
                }
                changed = self.sealed.changed() => {
                    if changed.is_err() {
                        return Ok(Reading::PipelineEnded);
                    }
                    self.note_sealed();
                }
                () = tokio::time::sleep_until(self.status_due) => self.send_status().await?,
                _ = tick.tick() => {
                    if self.must_give_up() {
                        return Ok(Reading::Stalled);
                    }
                    if self.last_heard.elapsed() > SILENCE && self.full_since.is_none() {
                        let server = format!("timeline {}", self.stream.timeline());
                        return Err(Error::TimedOut { server, seconds: SILENCE.as_secs() });
                    }
                }
            }
        }
    }

    fn note_server(&self, end: Lsn) {
        let position = WalPosition { timeline: self.stream.timeline(), lsn: end };
        if self.receiver.progress.now().server != Some(position) {
            self.receiver.progress.update(|progress| progress.server = Some(position));
        }
    }

    fn note_received(&mut self, end: Lsn) {
        self.acknowledgement.receive(end);
        let position = WalPosition { timeline: self.stream.timeline(), lsn: end };
        self.receiver.progress.update(|progress| progress.received = Some(position));
    }

    fn note_sealed(&mut self) {
        if !*self.receiver.may_acknowledge.borrow() {
            return;
        }
        let before = self.acknowledgement.flushed();
        let sealed = *self.sealed.borrow_and_update();
        self.acknowledgement.seal(sealed);
        if self.acknowledgement.flushed() == before {
            return;
        }
        if self.receiver.synchronous {
            self.status_due = Instant::now();
        } else {
            self.status_soon();
        }
    }

    /// The server wants to hear from us. Where it is ahead of what we confirmed, it may be waiting for us to stop.
    fn note_request(&mut self, server_end: Lsn) {
        self.status_soon();
        if self.acknowledgement.flushed() >= server_end || self.acknowledgement.received() < server_end {
            return;
        }
        self.receiver.progress.request_flush();
        let now = Instant::now();
        self.pressed = match self.pressed {
            Some(pressed) if now.duration_since(pressed.last) <= PRESSING_GAP => {
                Some(Pressed { last: now, until: server_end, ..pressed })
            }
            _ => Some(Pressed { since: now, last: now, until: server_end }),
        };
    }

    fn status_soon(&mut self) {
        self.status_due = self.status_due.min(self.last_status + MIN_STATUS_GAP);
    }

    async fn send_status(&mut self) -> Result<(), Error> {
        self.note_sealed();
        let regular = self.last_status.elapsed() >= self.receiver.status_interval;
        // An idle server says nothing by itself: ask, to know that it lives and how far it is.
        let status = self.acknowledgement.status(regular);
        let now = self.receiver.clock.now();
        match tokio::time::timeout(SEND_TIMEOUT, self.stream.send_status(status, now)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(Error::Closed(None)),
        }
        self.last_status = Instant::now();
        self.status_due = self.last_status + self.receiver.status_interval;
        Ok(())
    }

    fn must_give_up(&mut self) -> bool {
        if self.full_since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            return true;
        }
        let Some(pressed) = self.pressed else { return false };
        if self.acknowledgement.flushed() >= pressed.until || pressed.last.elapsed() > PRESSING_GAP {
            self.pressed = None;
            return false;
        }
        pressed.since.elapsed() >= PATIENCE
    }
}
