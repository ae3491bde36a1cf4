//! Ends of transactions (`src/include/access/xact.h`): commits and aborts, of prepared transactions too.
//!
//! The parts of these records follow each other without a length of the whole, and differ between versions. So the main
//! data must be used up exactly: a byte left over would mean that something was misread.

use chrono::{DateTime, Utc};

use super::invalidations::{INVALIDATION_SIZE, Invalidations};
use super::prepare::{PreparedTransaction, prepare};
use super::record::{Record, RecordError, RecordFault, ResourceManager};
use crate::postgres::fields::Fields;
use crate::postgres::relation::{Oid, RelationLocator};
use crate::postgres::time::from_postgres_microseconds;
use crate::postgres::{Lsn, MajorVersion, TransactionId};

const OPERATION: u8 = 0x70;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const HAS_XINFO: u8 = 0x80;

const HAS_DATABASE: u32 = 0x1;
const HAS_SUBTRANSACTIONS: u32 = 0x2;
const HAS_RELATIONS: u32 = 0x4;
const HAS_INVALIDATIONS: u32 = 0x8;
const HAS_TWO_PHASE: u32 = 0x10;
const HAS_ORIGIN: u32 = 0x20;
const HAS_GID: u32 = 0x80;
const HAS_DROPPED_STATS: u32 = 0x100;

pub(super) const XID_SIZE: usize = 4;
pub(super) const RELATION_SIZE: usize = 12;

/// Whether a transaction's changes became visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Commit,
    Abort,
}

/// The record that ends a transaction.
#[derive(Clone, Copy, Debug)]
pub struct TransactionEnd<'a> {
    pub outcome: Outcome,
    /// The top-level transaction, also of a prepared one, where the record itself carries another.
    pub xid: TransactionId,
    /// `COMMIT PREPARED` or `ROLLBACK PREPARED`.
    pub prepared: bool,
    pub time: DateTime<Utc>,
    pub database: Option<TransactionDatabase>,
    pub subtransactions: TransactionIds<'a>,
    /// Relations whose files go away with this.
    pub dropped_relations: RelationLocators<'a>,
    /// Of a commit, what other sessions must forget.
    pub invalidations: Invalidations<'a>,
    /// Name of the prepared transaction (`wal_level = logical` only).
    pub gid: Option<&'a [u8]>,
    pub origin: Option<TransactionOrigin>,
}

/// Database in which a transaction ran, and its default tablespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionDatabase {
    pub database: Oid,
    pub tablespace: Oid,
}

/// Where a replicated transaction was first committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOrigin {
    pub lsn: Lsn,
    /// As the origin gave it: microseconds since 2000-01-01 UTC.
    pub time_microseconds: i64,
}

/// Transaction IDs as they stand in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionIds<'a>(pub(super) &'a [u8]);

impl<'a> TransactionIds<'a> {
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / XID_SIZE
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = TransactionId> + use<'a> {
        let (xids, _) = self.0.as_chunks::<XID_SIZE>();
        xids.iter().map(|xid| TransactionId::new(u32::from_le_bytes(*xid)))
    }
}

/// Relations as they stand in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelationLocators<'a>(pub(super) &'a [u8]);

impl<'a> RelationLocators<'a> {
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / RELATION_SIZE
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = RelationLocator> + use<'a> {
        let (relations, _) = self.0.as_chunks::<RELATION_SIZE>();
        relations.iter().map(|relation| {
            let [tablespace, database, relfilenode] = oids(relation);
            RelationLocator { tablespace, database, relfilenode }
        })
    }
}

fn oids(bytes: &[u8; RELATION_SIZE]) -> [Oid; 3] {
    let (words, _) = bytes.as_chunks::<4>();
    let mut oids = [0; 3];
    oids.iter_mut().zip(words).for_each(|(oid, word)| *oid = u32::from_le_bytes(*word));
    oids
}

/// What a record of the transaction manager says.
#[derive(Clone, Copy, Debug)]
pub enum TransactionRecord<'a> {
    End(TransactionEnd<'a>),
    Prepare(PreparedTransaction<'a>),
    /// Assignments of subtransactions, invalidations.
    Other,
}

impl<'a> Record<'a> {
    /// The end of a transaction that this record is, if it is one.
    ///
    /// Anything else costs no more than a look at the header.
    ///
    /// # Errors
    /// It is one, and does not hold what it must.
    pub fn transaction_end(&self, major: MajorVersion) -> Result<Option<TransactionEnd<'a>>, RecordError> {
        let ends = matches!(self.header.info & OPERATION, COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED);
        if self.header.resource_manager != ResourceManager::TRANSACTION || !ends {
            return Ok(None);
        }
        match self.transaction_record(major)? {
            TransactionRecord::End(end) => Ok(Some(end)),
            TransactionRecord::Prepare(_) | TransactionRecord::Other => Ok(None),
        }
    }

    /// What this record of [`ResourceManager::TRANSACTION`] says.
    pub(super) fn transaction_record(&self, major: MajorVersion) -> Result<TransactionRecord<'a>, RecordError> {
        let data = self.body(major)?.main_data();
        let parsed = match self.header.info & OPERATION {
            COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED => self.end(data, major).map(TransactionRecord::End),
            PREPARE => prepare(data, major).map(TransactionRecord::Prepare),
            _ => Ok(TransactionRecord::Other),
        };
        parsed.map_err(|fault| self.error(fault))
    }

    /// `ParseCommitRecord` and `ParseAbortRecord`, which differ in the invalidations only.
    fn end(&self, data: &'a [u8], major: MajorVersion) -> Result<TransactionEnd<'a>, RecordFault> {
        let operation = self.header.info & OPERATION;
        let outcome = if matches!(operation, COMMIT | COMMIT_PREPARED) { Outcome::Commit } else { Outcome::Abort };
        let prepared = matches!(operation, COMMIT_PREPARED | ABORT_PREPARED);
        let mut fields = Fields::new(data);
        let short = RecordFault::MainDataTooShort;
        let time = time(fields.i64().ok_or(short)?)?;
        let present = if self.header.info & HAS_XINFO == 0 { 0 } else { fields.u32().ok_or(short)? };
        let has = |part: u32| present & part != 0;

        let database = if has(HAS_DATABASE) { Some(database(&mut fields).ok_or(short)?) } else { None };
        let mut counted =
            |part: u32, size: usize| if has(part) { fields.counted(size).ok_or(short) } else { Ok(&[][..]) };
        let subtransactions = TransactionIds(counted(HAS_SUBTRANSACTIONS, XID_SIZE)?);
        let dropped_relations = RelationLocators(counted(HAS_RELATIONS, RELATION_SIZE)?);
        if major >= MajorVersion::V15 {
            counted(HAS_DROPPED_STATS, dropped_stats_size(major))?;
        }
        let invalidations = match outcome {
            Outcome::Commit => Invalidations(counted(HAS_INVALIDATIONS, INVALIDATION_SIZE)?),
            Outcome::Abort => Invalidations::default(),
        };
        let (mut xid, mut gid) = (self.header.xid, None);
        if has(HAS_TWO_PHASE) {
            xid = TransactionId::new(fields.u32().ok_or(short)?);
            gid = if has(HAS_GID) { Some(fields.c_string().ok_or(short)?) } else { None };
        } else if prepared {
            return Err(short);
        }
        let origin = if has(HAS_ORIGIN) { Some(origin(&mut fields).ok_or(short)?) } else { None };
        match fields.rest().len() {
            0 => Ok(TransactionEnd {
                outcome,
                xid,
                prepared,
                time,
                database,
                subtransactions,
                dropped_relations,
                invalidations,
                gid,
                origin,
            }),
            excess => Err(RecordFault::MainDataTooLong { excess }),
        }
    }
}

pub(super) fn time(microseconds: i64) -> Result<DateTime<Utc>, RecordFault> {
    from_postgres_microseconds(microseconds).ok_or(RecordFault::Time { microseconds })
}

/// `xl_xact_stats_item`: in 18 the object's number became 64 bits wide.
pub(super) const fn dropped_stats_size(major: MajorVersion) -> usize {
    match major {
        MajorVersion::V18 => 16,
        _ => 12,
    }
}

fn database(fields: &mut Fields<'_>) -> Option<TransactionDatabase> {
    Some(TransactionDatabase { database: fields.u32()?, tablespace: fields.u32()? })
}

fn origin(fields: &mut Fields<'_>) -> Option<TransactionOrigin> {
    Some(TransactionOrigin { lsn: fields.lsn()?, time_microseconds: fields.i64()? })
}

#[cfg(test)]
mod tests;
