//! A running stream of WAL.

use bytes::{Buf, BufMut, Bytes};
use chrono::{DateTime, Utc};
use pitr::postgres::time::{from_postgres_microseconds, to_postgres_microseconds};
use pitr::postgres::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};

use super::command::ReplicationConnection;
use super::framing::{Incoming, Wire, unexpected};
use crate::postgres::error::{Error, Result, ServerMessage};

/// Where a timeline ends, and which one follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchPoint {
    pub next_timeline: TimelineId,
    /// First byte of the next timeline. What the old one has beyond is not part of the next one's history.
    pub switch_lsn: Lsn,
}

/// What the server says while it streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    Wal {
        start: Lsn,
        bytes: Bytes,
        /// Up to where the server has flushed WAL.
        server_end: Lsn,
    },
    Keepalive {
        server_end: Lsn,
        server_time: Option<DateTime<Utc>>,
        reply_requested: bool,
    },
    /// The timeline is over: go on with [`WalStream::end_of_timeline`].
    EndOfTimeline,
    /// The server is shutting down and has sent everything.
    ServerShutdown,
}

/// The positions of a standby status update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    pub written: Lsn,
    pub flushed: Lsn,
    pub applied: Lsn,
    /// Asks the server for a keepalive at once.
    pub request_reply: bool,
}

/// A stream that runs, from `start` on without a hole.
#[derive(Debug)]
pub struct WalStream {
    wire: Wire,
    timeline: TimelineId,
    position: Lsn,
}

impl WalStream {
    pub(super) const fn new(wire: Wire, timeline: TimelineId, start: Lsn) -> Self {
        Self { wire, timeline, position: start }
    }

    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Where the next byte belongs.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// The connection ends, the server ends the stream with an error, or WAL comes that does not follow what came before.
    pub async fn next(&mut self) -> Result<StreamMessage> {
        match self.wire.receive().await? {
            Incoming::CopyData(bytes) => self.copy_data(bytes),
            Incoming::Other(Message::CopyDone) => Ok(StreamMessage::EndOfTimeline),
            Incoming::Other(Message::CommandComplete(_)) => Ok(StreamMessage::ServerShutdown),
            Incoming::Other(Message::ErrorResponse(body)) => Err(Error::from_server(ServerMessage::from(body))),
            message => Err(unexpected(message, "streaming")),
        }
    }

    fn copy_data(&mut self, mut bytes: Bytes) -> Result<StreamMessage> {
        let short = |_| Error::Protocol("a message of the stream is too short".to_owned());
        match bytes.try_get_u8().map_err(short)? {
            b'w' => {
                let start = Lsn::new(bytes.try_get_u64().map_err(short)?);
                let server_end = Lsn::new(bytes.try_get_u64().map_err(short)?);
                bytes.try_get_i64().map_err(short)?;
                if start != self.position {
                    return Err(Error::Protocol(format!("WAL from {start} where {} was to come", self.position)));
                }
                self.position = start.advance(bytes.len() as u64);
                Ok(StreamMessage::Wal { start, bytes, server_end })
            }
            b'k' => {
                let server_end = Lsn::new(bytes.try_get_u64().map_err(short)?);
                let server_time = from_postgres_microseconds(bytes.try_get_i64().map_err(short)?);
                let reply_requested = bytes.try_get_u8().map_err(short)? != 0;
                Ok(StreamMessage::Keepalive { server_end, server_time, reply_requested })
            }
            other => Err(Error::Protocol(format!("a message of kind {other} in the stream"))),
        }
    }

    /// Tells the server how far we are. What is not sent when the future is dropped goes with the next update.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn send_status(&mut self, status: StandbyStatus, now: DateTime<Utc>) -> Result<()> {
        let mut update = Vec::with_capacity(34);
        update.put_u8(b'r');
        update.put_u64(status.written.as_u64());
        update.put_u64(status.flushed.as_u64());
        update.put_u64(status.applied.as_u64());
        update.put_i64(to_postgres_microseconds(now));
        update.put_u8(u8::from(status.request_reply));
        let message = CopyData::new(update.as_slice()).map_err(|error| Error::Protocol(error.to_string()))?;
        message.write(self.wire.outgoing());
        self.wire.flush().await
    }

    /// Ends the stream after [`StreamMessage::EndOfTimeline`], and says what follows.
    ///
    /// # Errors
    /// The connection ends, or the answer is not understood.
    pub async fn end_of_timeline(mut self) -> Result<(SwitchPoint, ReplicationConnection)> {
        frontend::copy_done(self.wire.outgoing());
        self.wire.flush().await?;
        let mut connection = ReplicationConnection::new(self.wire);
        let switch = connection.switch_point().await?;
        Ok((switch, connection))
    }
}
