//! Commands of the replication protocol.

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use super::framing::{Incoming, Wire, unexpected};
use super::stream::{SwitchPoint, WalStream};
use crate::postgres::error::{Error, Result, ServerMessage};

/// `IDENTIFY_SYSTEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemFacts {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    /// Up to where the server has flushed WAL; on a standby, received it.
    pub flush_lsn: Lsn,
}

/// A replication slot as `pg_replication_slots` and `READ_REPLICATION_SLOT` have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// From here on the server keeps WAL; none where the slot never reserved any.
    pub restart_lsn: Option<Lsn>,
}

/// What `START_REPLICATION` led to.
#[derive(Debug)]
pub enum Started {
    Streaming(WalStream),
    /// The timeline ends exactly where streaming was to start.
    EndOfTimeline(SwitchPoint, ReplicationConnection),
}

/// A connection on which commands can be given.
#[derive(Debug)]
pub struct ReplicationConnection {
    wire: Wire,
}

/// The columns of one row, as the server sent them.
pub(super) type Row = Vec<Option<Bytes>>;

impl ReplicationConnection {
    pub(super) const fn new(wire: Wire) -> Self {
        Self { wire }
    }

    /// # Errors
    /// The connection ends, or the answer is not understood.
    pub async fn identify_system(&mut self) -> Result<SystemFacts> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        Ok(SystemFacts {
            system_identifier: parse_column(&row, 0)?,
            timeline: parse_column(&row, 1)?,
            flush_lsn: parse_column(&row, 2)?,
        })
    }

    /// The value of a setting. The name is ours, never a user's.
    ///
    /// # Errors
    /// As [`ReplicationConnection::identify_system`].
    pub async fn show(&mut self, setting: &'static str) -> Result<String> {
        let row = self.one_row(&format!("SHOW {setting}")).await?;
        column(&row, 0)
    }

    /// The history file of a timeline other than the first.
    ///
    /// # Errors
    /// As [`ReplicationConnection::identify_system`]; the server answers `58P01` where it does not have the file.
    pub async fn timeline_history(&mut self, tli: TimelineId) -> Result<Bytes> {
        let row = self.one_row(&format!("TIMELINE_HISTORY {tli}")).await?;
        row.into_iter().nth(1).flatten().ok_or_else(|| Error::Protocol("a history file without content".to_owned()))
    }

    /// Makes a physical slot that keeps WAL from now on.
    ///
    /// # Errors
    /// As [`ReplicationConnection::identify_system`]; the server answers `42710` where a slot has the name.
    pub async fn create_slot(&mut self, slot: &str) -> Result<()> {
        self.query(&format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quote(slot))).await?;
        Ok(())
    }

    /// # Errors
    /// As [`ReplicationConnection::identify_system`].
    pub async fn drop_slot(&mut self, slot: &str) -> Result<()> {
        self.query(&format!("DROP_REPLICATION_SLOT {}", quote(slot))).await?;
        Ok(())
    }

    /// The slot, or none where there is none of that name. Servers from 15 on.
    ///
    /// # Errors
    /// As [`ReplicationConnection::identify_system`].
    pub async fn read_slot(&mut self, slot: &str) -> Result<Option<SlotState>> {
        let row = self.one_row(&format!("READ_REPLICATION_SLOT {}", quote(slot))).await?;
        if row.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        let restart_lsn = match row.get(1) {
            Some(Some(_)) => Some(parse_column(&row, 1)?),
            _ => None,
        };
        Ok(Some(SlotState { restart_lsn }))
    }

    /// Starts streaming at `start`, which must not be beyond what the server has.
    ///
    /// # Errors
    /// As [`ReplicationConnection::identify_system`]; the server refuses a position that is not in its history, or whose WAL
    /// it no longer has.
    pub async fn start(mut self, slot: Option<&str>, start: Lsn, tli: TimelineId) -> Result<Started> {
        let slot = slot.map(|slot| format!("SLOT {} ", quote(slot))).unwrap_or_default();
        self.send(&format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {tli}")).await?;
        match self.wire.receive().await? {
            Incoming::CopyBoth => Ok(Started::Streaming(WalStream::new(self.wire, tli, start))),
            // A timeline of the past that ends here: the server goes on to its successor without any COPY.
            Incoming::Other(Message::RowDescription(_)) => {
                let switch = self.switch_point().await?;
                Ok(Started::EndOfTimeline(switch, self))
            }
            message => Err(unexpected(message, "START_REPLICATION")),
        }
    }

    /// The row that ends a timeline, after its description was or was not read.
    pub(super) async fn switch_point(&mut self) -> Result<SwitchPoint> {
        let rows = self.rest_of_answer().await?;
        let row = rows.first().ok_or_else(|| Error::Protocol("the end of a timeline names no successor".to_owned()))?;
        Ok(SwitchPoint { next_timeline: parse_column(row, 0)?, switch_lsn: parse_column(row, 1)? })
    }

    async fn one_row(&mut self, command: &str) -> Result<Row> {
        let mut rows = self.query(command).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Error::Protocol(format!("\"{command}\" was not answered by one row"))),
        }
    }

    async fn query(&mut self, command: &str) -> Result<Vec<Row>> {
        self.send(command).await?;
        self.rest_of_answer().await
    }

    async fn send(&mut self, command: &str) -> Result<()> {
        frontend::query(command, self.wire.outgoing()).map_err(|error| Error::Protocol(error.to_string()))?;
        self.wire.flush().await
    }

    /// Everything up to the point where the server takes the next command. The end of a timeline completes twice.
    async fn rest_of_answer(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.wire.receive().await? {
                Incoming::Other(Message::DataRow(row)) => rows.push(columns(&row)?),
                Incoming::Other(Message::ErrorResponse(body)) => {
                    failure = Some(Error::from_server(ServerMessage::from(body)));
                }
                Incoming::Other(Message::RowDescription(_) | Message::CommandComplete(_)) => {}
                Incoming::Other(Message::ReadyForQuery(_)) => return failure.map_or(Ok(rows), Err),
                message if failure.is_none() => return Err(unexpected(message, "a command")),
                _ => {}
            }
        }
    }
}

fn columns(row: &DataRowBody) -> Result<Row> {
    let mut columns = Vec::new();
    let mut ranges = row.ranges();
    while let Some(range) = ranges.next().map_err(|error| Error::Protocol(error.to_string()))? {
        let value = match range {
            None => None,
            Some(range) if range.end <= row.buffer_bytes().len() && range.start <= range.end => {
                Some(row.buffer_bytes().slice(range))
            }
            Some(_) => return Err(Error::Protocol("a column beyond its row".to_owned())),
        };
        columns.push(value);
    }
    Ok(columns)
}

fn column(row: &Row, index: usize) -> Result<String> {
    let value = row.get(index).and_then(Option::as_ref);
    let value = value.ok_or_else(|| Error::Protocol(format!("column {index} is missing in an answer")))?;
    Ok(String::from_utf8_lossy(value).into_owned())
}

fn parse_column<T: std::str::FromStr>(row: &Row, index: usize) -> Result<T> {
    let text = column(row, index)?;
    text.parse().map_err(|_| Error::Protocol(format!("\"{text}\" in column {index} of an answer")))
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
