//! Messages out of bytes and into bytes.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::postgres::error::{Error, Result, ServerMessage};
use crate::postgres::transport::Transport;

/// `CopyBothResponse`, which postgres-protocol takes for an error.
const COPY_BOTH: u8 = b'W';
const COPY_DATA: u8 = b'd';
/// A server sends 128 KiB of WAL at once (`MAX_SEND_SIZE`), and history files of some kilobytes. A length beyond this is
/// not from a server that we know.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
const READ_BYTES: usize = 256 << 10;

/// A message from the server.
pub(super) enum Incoming {
    CopyBoth,
    CopyData(Bytes),
    Other(Message),
}

/// A connection as a sequence of messages.
///
/// Reading is cancel-safe: what arrived stands in a buffer that belongs to the connection. Writing too: what was not
/// written yet stands in the other.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    incoming: BytesMut,
    outgoing: BytesMut,
}

impl Wire {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, incoming: BytesMut::with_capacity(READ_BYTES), outgoing: BytesMut::new() }
    }

    pub(super) const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Where messages to be sent are appended.
    pub(super) const fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Sends what stands in the buffer. Cancel-safe.
    pub(super) async fn flush(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            let written = self.transport.write(&self.outgoing).await.map_err(closed)?;
            if written == 0 {
                return Err(Error::Closed(None));
            }
            self.outgoing.advance(written);
        }
        self.transport.flush().await.map_err(closed)
    }

    /// The next message; notices and parameters are passed over. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<Incoming> {
        loop {
            if let Some(message) = self.parse()? {
                match message {
                    Incoming::Other(Message::NoticeResponse(notice)) => log_notice(&notice),
                    Incoming::Other(Message::ParameterStatus(_) | Message::NotificationResponse(_)) => {}
                    message => return Ok(message),
                }
                continue;
            }
            self.incoming.reserve(READ_BYTES);
            if self.transport.read_buf(&mut self.incoming).await.map_err(closed)? == 0 {
                return Err(Error::Closed(None));
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Incoming>> {
        let malformed = |error: io::Error| Error::Protocol(error.to_string());
        let Some(header) = Header::parse(&self.incoming).map_err(malformed)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(Error::Protocol(format!("a message of {length} bytes")));
        }
        // The length counts itself, and the tag stands before it.
        let total = length.saturating_add(1);
        if self.incoming.len() < total {
            self.incoming.reserve(total - self.incoming.len());
            return Ok(None);
        }
        Ok(match header.tag() {
            COPY_BOTH => {
                self.incoming.advance(total);
                Some(Incoming::CopyBoth)
            }
            COPY_DATA => {
                let mut message = self.incoming.split_to(total);
                message.advance(5);
                Some(Incoming::CopyData(message.freeze()))
            }
            _ => Message::parse(&mut self.incoming).map_err(malformed)?.map(Incoming::Other),
        })
    }
}

fn closed(error: io::Error) -> Error {
    Error::Closed(Some(error))
}

fn log_notice(notice: &postgres_protocol::message::backend::NoticeResponseBody) {
    use fallible_iterator::FallibleIterator;
    let mut fields = notice.fields();
    while let Ok(Some(field)) = fields.next() {
        if field.type_() == b'M' {
            tracing::debug!(notice = %String::from_utf8_lossy(field.value_bytes()), "the server noted");
        }
    }
}

/// What a message means that has no place here.
pub(super) fn unexpected(message: Incoming, during: &'static str) -> Error {
    match message {
        Incoming::Other(Message::ErrorResponse(body)) => Error::from_server(ServerMessage::from(body)),
        _ => Error::Protocol(format!("an unexpected message during {during}")),
    }
}
