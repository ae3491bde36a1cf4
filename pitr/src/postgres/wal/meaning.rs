//! Records that matter to recovery as such: ends of transactions, restore points, checkpoints, ends of backups, and those
//! whose replay does something outside of pages.
//!
//! Parsed on demand. `xl_info` has bits of its own in its low half, so operations are told by the high half only.

use chrono::{DateTime, Utc};

use super::decoder::{OVERWRITE_CONTRECORD, SWITCH};
use super::prepare::PreparedTransaction;
use super::record::{Record, RecordError, RecordFault, ResourceManager};
use super::storage::{TruncateStorage, relation_map, storage};
use super::xact::{TransactionEnd, TransactionRecord, time};
use crate::postgres::fields::Fields;
use crate::postgres::relation::{Fork, Oid, RelationLocator};
use crate::postgres::{Lsn, MajorVersion, TimelineId, TransactionId};

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const BACKUP_END: u8 = 0x50;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const FULL_PAGE_WRITES: u8 = 0x80;
const END_OF_RECOVERY: u8 = 0x90;
const PAGE_IMAGES: u8 = 0xB0;
const CHECKPOINT_REDO: u8 = 0xE0;

/// Of [`ResourceManager::STANDBY`].
const RUNNING_TRANSACTIONS: u8 = 0x10;

const TABLESPACE_CREATE: u8 = 0x00;
const TABLESPACE_DROP: u8 = 0x10;

/// `MAXFNAMELEN`: room for the name of a restore point.
const RESTORE_POINT_NAME_SIZE: usize = 64;

/// What a record says.
#[derive(Clone, Copy, Debug)]
pub enum RecordMeaning<'a> {
    TransactionEnd(TransactionEnd<'a>),
    Prepare(PreparedTransaction<'a>),
    RestorePoint(RestorePoint<'a>),
    Checkpoint(Checkpoint),
    /// A backup that began at `start_lsn` is consistent from here on.
    BackupEnd {
        start_lsn: Lsn,
    },
    EndOfRecovery(EndOfRecovery),
    ParameterChange(ParameterChange),
    /// The rest of the segment is empty.
    Switch,
    /// The record at `overwritten_lsn` was never finished.
    OverwriteContrecord {
        overwritten_lsn: Lsn,
        time: DateTime<Utc>,
    },
    /// Replay makes a directory at this very path, outside the data directory.
    CreateTablespace {
        tablespace: Oid,
        path: &'a [u8],
    },
    DropTablespace {
        tablespace: Oid,
    },
    CreateDatabase(CreateDatabase),
    DropDatabase(DropDatabase<'a>),
    /// The file of a fork of a relation was made.
    CreateStorage {
        relation: RelationLocator,
        fork: Fork,
    },
    TruncateStorage(TruncateStorage),
    /// A `pg_filenode.map` was written; the shared one has database zero.
    UpdateRelationMap {
        database: Oid,
        tablespace: Oid,
        /// The file's new content.
        map: &'a [u8],
    },
    /// Images of whole pages, which need not have been there before.
    PageImages,
    /// The redo point of a checkpoint (17 and later).
    CheckpointRedo {
        wal_level: i32,
    },
    /// `full_page_writes` was changed.
    FullPageWrites {
        enabled: bool,
    },
    /// What was running at this record: no transaction from `next_xid` on had begun, all before `oldest_running_xid` had
    /// ended.
    RunningTransactions {
        next_xid: TransactionId,
        oldest_running_xid: TransactionId,
    },
    Other,
}

/// `pg_create_restore_point()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestorePoint<'a> {
    pub time: DateTime<Utc>,
    /// In the encoding of the database that it was made from.
    pub name: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Made while the server stopped: nothing was written since `redo_lsn`, which is the record itself.
    pub shutdown: bool,
    /// Where recovery from this checkpoint begins.
    pub redo_lsn: Lsn,
    pub tli: TimelineId,
    /// Differs from `tli` where this checkpoint begins a timeline.
    pub previous_tli: TimelineId,
    pub full_page_writes: bool,
    /// 0 minimal, 1 replica, 2 logical; told from 17 on.
    pub wal_level: Option<i32>,
}

/// The first record of a timeline, where no checkpoint is made at promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfRecovery {
    pub time: DateTime<Utc>,
    pub tli: TimelineId,
    pub previous_tli: TimelineId,
    /// 0 minimal, 1 replica, 2 logical; told from 17 on.
    pub wal_level: Option<i32>,
}

/// Settings that a server replaying this WAL must not have lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterChange {
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_transactions: i32,
    pub max_locks_per_transaction: i32,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    pub wal_log_hints: bool,
    pub track_commit_timestamp: bool,
}

/// `CREATE DATABASE`, or a move into another tablespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateDatabase {
    pub database: Oid,
    pub tablespace: Oid,
    /// Database and tablespace whose files are copied; none where the copy itself is in the WAL (15 and later).
    pub copied_from: Option<(Oid, Oid)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropDatabase<'a> {
    pub database: Oid,
    tablespaces: &'a [u8],
}

impl<'a> DropDatabase<'a> {
    /// Where directories of the database go away.
    pub fn tablespaces(&self) -> impl Iterator<Item = Oid> + use<'a> {
        let (oids, _) = self.tablespaces.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_le_bytes(*oid))
    }
}

impl<'a> Record<'a> {
    /// What this record, written by `major`, says.
    ///
    /// # Errors
    /// It is of a kind that is known here, and does not hold what that kind must.
    pub fn meaning(&self, major: MajorVersion) -> Result<RecordMeaning<'a>, RecordError> {
        let resource_manager = self.header.resource_manager;
        if resource_manager == ResourceManager::TRANSACTION {
            return Ok(match self.transaction_record(major)? {
                TransactionRecord::End(end) => RecordMeaning::TransactionEnd(end),
                TransactionRecord::Prepare(prepare) => RecordMeaning::Prepare(prepare),
                TransactionRecord::Other => RecordMeaning::Other,
            });
        }
        let known = [
            ResourceManager::XLOG,
            ResourceManager::STORAGE,
            ResourceManager::DATABASE,
            ResourceManager::TABLESPACE,
            ResourceManager::RELMAP,
            ResourceManager::STANDBY,
        ];
        if !known.contains(&resource_manager) {
            return Ok(RecordMeaning::Other);
        }
        let data = self.body(major)?.main_data();
        let operation = self.header.operation();
        let parsed = match resource_manager {
            ResourceManager::XLOG => xlog(operation, data, major),
            ResourceManager::STORAGE => storage(operation, data),
            ResourceManager::RELMAP => relation_map(operation, data),
            ResourceManager::STANDBY => standby(operation, data),
            ResourceManager::DATABASE => database(operation, data, major),
            _ => tablespace(operation, data),
        };
        parsed.map_err(|fault| self.error(fault))
    }
}

type Parsed<'a> = Result<RecordMeaning<'a>, RecordFault>;

fn xlog(operation: u8, data: &[u8], major: MajorVersion) -> Parsed<'_> {
    let fields = Fields::new(data);
    Ok(match operation {
        CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE => RecordMeaning::Checkpoint(checkpoint(operation, fields, major)?),
        SWITCH => RecordMeaning::Switch,
        PAGE_IMAGES => RecordMeaning::PageImages,
        BACKUP_END => RecordMeaning::BackupEnd { start_lsn: whole(fields, Fields::lsn)? },
        FULL_PAGE_WRITES => RecordMeaning::FullPageWrites { enabled: whole(fields, Fields::u8)? != 0 },
        CHECKPOINT_REDO => RecordMeaning::CheckpointRedo { wal_level: whole(fields, Fields::i32)? },
        PARAMETER_CHANGE => RecordMeaning::ParameterChange(parameter_change(fields)?),
        RESTORE_POINT => RecordMeaning::RestorePoint(restore_point(fields)?),
        END_OF_RECOVERY => RecordMeaning::EndOfRecovery(end_of_recovery(fields, major)?),
        OVERWRITE_CONTRECORD => {
            let (overwritten_lsn, microseconds) = whole(fields, |fields| Some((fields.lsn()?, fields.i64()?)))?;
            RecordMeaning::OverwriteContrecord { overwritten_lsn, time: time(microseconds)? }
        }
        _ => RecordMeaning::Other,
    })
}

/// What `read` takes must be all.
pub(super) fn whole<'a, T>(
    mut fields: Fields<'a>,
    read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
) -> Result<T, RecordFault> {
    let value = read(&mut fields).ok_or(RecordFault::MainDataTooShort)?;
    match fields.rest().len() {
        0 => Ok(value),
        excess => Err(RecordFault::MainDataTooLong { excess }),
    }
}

fn timeline(fields: &mut Fields<'_>) -> Result<TimelineId, RecordFault> {
    TimelineId::new(fields.u32().ok_or(RecordFault::MainDataTooShort)?).ok_or(RecordFault::Timeline)
}

/// `CheckPoint`; what follows the fields read here differs between versions.
fn checkpoint(operation: u8, mut fields: Fields<'_>, major: MajorVersion) -> Result<Checkpoint, RecordFault> {
    let short = RecordFault::MainDataTooShort;
    let redo_lsn = fields.lsn().ok_or(short)?;
    let (tli, previous_tli) = (timeline(&mut fields)?, timeline(&mut fields)?);
    let full_page_writes = fields.u8().ok_or(short)? != 0;
    let wal_level = if tells_wal_level(major) {
        fields.bytes(3).ok_or(short)?;
        Some(fields.i32().ok_or(short)?)
    } else {
        None
    };
    let shutdown = operation == CHECKPOINT_SHUTDOWN;
    Ok(Checkpoint { shutdown, redo_lsn, tli, previous_tli, full_page_writes, wal_level })
}

/// For PostgreSQL's own summarizer of the WAL, which came with 17.
fn tells_wal_level(major: MajorVersion) -> bool {
    major >= MajorVersion::V17
}

/// `xl_running_xacts`; the transactions follow.
fn standby(operation: u8, data: &[u8]) -> Parsed<'_> {
    const NEXT_XID_OFFSET: usize = 12;
    if operation != RUNNING_TRANSACTIONS {
        return Ok(RecordMeaning::Other);
    }
    let short = RecordFault::MainDataTooShort;
    let mut fields = Fields::at(data, NEXT_XID_OFFSET).ok_or(short)?;
    let mut next = || fields.u32().map(TransactionId::new).ok_or(short);
    Ok(RecordMeaning::RunningTransactions { next_xid: next()?, oldest_running_xid: next()? })
}

fn restore_point(mut fields: Fields<'_>) -> Result<RestorePoint<'_>, RecordFault> {
    let short = RecordFault::MainDataTooShort;
    let time = time(fields.i64().ok_or(short)?)?;
    let room = whole(fields, |fields| fields.bytes(RESTORE_POINT_NAME_SIZE))?;
    let name = Fields::new(room).c_string().ok_or(short)?;
    Ok(RestorePoint { time, name })
}

/// `xl_end_of_recovery`.
fn end_of_recovery(mut fields: Fields<'_>, major: MajorVersion) -> Result<EndOfRecovery, RecordFault> {
    let short = RecordFault::MainDataTooShort;
    let time = time(fields.i64().ok_or(short)?)?;
    let (tli, previous_tli) = (timeline(&mut fields)?, timeline(&mut fields)?);
    let wal_level = if tells_wal_level(major) { Some(fields.i32().ok_or(short)?) } else { None };
    Ok(EndOfRecovery { time, tli, previous_tli, wal_level })
}

/// `xl_parameter_change`. Its last two bytes are padding, which the server does or does not write.
fn parameter_change(mut fields: Fields<'_>) -> Result<ParameterChange, RecordFault> {
    let mut next = || fields.i32().ok_or(RecordFault::MainDataTooShort);
    let (max_connections, max_worker_processes, max_wal_senders) = (next()?, next()?, next()?);
    let (max_prepared_transactions, max_locks_per_transaction, wal_level) = (next()?, next()?, next()?);
    let mut flag = || fields.u8().map(|flag| flag != 0).ok_or(RecordFault::MainDataTooShort);
    Ok(ParameterChange {
        max_connections,
        max_worker_processes,
        max_wal_senders,
        max_prepared_transactions,
        max_locks_per_transaction,
        wal_level,
        wal_log_hints: flag()?,
        track_commit_timestamp: flag()?,
    })
}

/// In 15 a second way to make a database took the number that dropping one had.
fn database(operation: u8, data: &[u8], major: MajorVersion) -> Parsed<'_> {
    const CREATE: u8 = 0x00;
    let (create_in_wal, drop) = if major >= MajorVersion::V15 { (Some(0x10), 0x20) } else { (None, 0x10) };
    let fields = Fields::new(data);
    Ok(if operation == CREATE {
        let (database, tablespace, copied_from) =
            whole(fields, |fields| Some((fields.u32()?, fields.u32()?, (fields.u32()?, fields.u32()?))))?;
        RecordMeaning::CreateDatabase(CreateDatabase { database, tablespace, copied_from: Some(copied_from) })
    } else if Some(operation) == create_in_wal {
        let (database, tablespace) = whole(fields, |fields| Some((fields.u32()?, fields.u32()?)))?;
        RecordMeaning::CreateDatabase(CreateDatabase { database, tablespace, copied_from: None })
    } else if operation == drop {
        let (database, tablespaces) = whole(fields, |fields| Some((fields.u32()?, fields.counted(4)?)))?;
        RecordMeaning::DropDatabase(DropDatabase { database, tablespaces })
    } else {
        RecordMeaning::Other
    })
}

fn tablespace(operation: u8, data: &[u8]) -> Parsed<'_> {
    let fields = Fields::new(data);
    Ok(match operation {
        TABLESPACE_CREATE => {
            let (tablespace, path) = whole(fields, |fields| Some((fields.u32()?, fields.c_string()?)))?;
            RecordMeaning::CreateTablespace { tablespace, path }
        }
        TABLESPACE_DROP => RecordMeaning::DropTablespace { tablespace: whole(fields, Fields::u32)? },
        _ => RecordMeaning::Other,
    })
}

#[cfg(test)]
mod tests;
