//! What records of the heap do to rows (`src/include/access/heapam_xlog.h`).
//!
//! A record changes rows of the relation of its first block. Which transaction did is in its header.

use super::record::{Record, RecordError, RecordFault, ResourceManager};
use crate::postgres::fields::Fields;
use crate::postgres::relation::Oid;

const HEAP_OPERATION: u8 = 0x70;
const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const TRUNCATE: u8 = 0x30;
const HOT_UPDATE: u8 = 0x40;
const CONFIRM: u8 = 0x50;
/// Of [`ResourceManager::HEAP2`].
const MULTI_INSERT: u8 = 0x50;

/// `XLH_INSERT_IS_SPECULATIVE`.
const INSERT_IS_SPECULATIVE: u8 = 0x04;
/// `XLH_DELETE_IS_SUPER`: takes a speculative insertion back.
const DELETE_IS_SUPER: u8 = 0x08;
/// `XLH_DELETE_IS_PARTITION_MOVE`.
const DELETE_IS_PARTITION_MOVE: u8 = 0x10;

/// A change of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapChange<'a> {
    Insert {
        rows: u16,
    },
    /// `ON CONFLICT`: a row that is there only once it is confirmed.
    SpeculativeInsert,
    ConfirmInsert,
    /// The speculative insertion lost.
    UndoInsert,
    Update,
    Delete,
    /// The first half of an `UPDATE` that moves a row to another partition.
    MoveOut,
    Truncate(TruncatedTables<'a>),
}

/// `TRUNCATE`, as logical decoding learns of it (`wal_level = logical` only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruncatedTables<'a> {
    pub database: Oid,
    relations: &'a [u8],
}

impl<'a> TruncatedTables<'a> {
    /// `pg_class.oid` of each.
    pub fn relations(&self) -> impl Iterator<Item = Oid> + use<'a> {
        let (oids, _) = self.relations.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_le_bytes(*oid))
    }
}

impl<'a> Record<'a> {
    /// How this record, whose main data is `data`, changes rows, if it does. Locks, changes in place, pruning and all that
    /// `VACUUM` does are none.
    ///
    /// # Errors
    /// It is such a change, and does not hold what it must.
    #[inline]
    pub fn heap_change(&self, data: &'a [u8]) -> Result<Option<HeapChange<'a>>, RecordError> {
        let operation = self.header.info & HEAP_OPERATION;
        let change = match (self.header.resource_manager, operation) {
            (ResourceManager::HEAP, INSERT) => insert(data),
            (ResourceManager::HEAP, DELETE) => delete(data),
            (ResourceManager::HEAP, UPDATE | HOT_UPDATE) => Some(HeapChange::Update),
            (ResourceManager::HEAP, CONFIRM) => Some(HeapChange::ConfirmInsert),
            (ResourceManager::HEAP, TRUNCATE) => truncate(data),
            (ResourceManager::HEAP2, MULTI_INSERT) => multi_insert(data),
            _ => return Ok(None),
        };
        change.map(Some).ok_or_else(|| self.error(RecordFault::MainDataTooShort))
    }
}

/// `xl_heap_insert`.
fn insert(data: &[u8]) -> Option<HeapChange<'_>> {
    let flags = Fields::at(data, 2)?.u8()?;
    let speculative = flags & INSERT_IS_SPECULATIVE != 0;
    Some(if speculative { HeapChange::SpeculativeInsert } else { HeapChange::Insert { rows: 1 } })
}

/// `xl_heap_delete`.
fn delete(data: &[u8]) -> Option<HeapChange<'_>> {
    let flags = Fields::at(data, 7)?.u8()?;
    Some(if flags & DELETE_IS_SUPER != 0 {
        HeapChange::UndoInsert
    } else if flags & DELETE_IS_PARTITION_MOVE != 0 {
        HeapChange::MoveOut
    } else {
        HeapChange::Delete
    })
}

/// `xl_heap_multi_insert`.
fn multi_insert(data: &[u8]) -> Option<HeapChange<'_>> {
    Some(HeapChange::Insert { rows: Fields::at(data, 2)?.u16()? })
}

/// `xl_heap_truncate`.
fn truncate(data: &[u8]) -> Option<HeapChange<'_>> {
    const RELATIONS_OFFSET: usize = 12;
    let mut fields = Fields::new(data);
    let database = fields.u32()?;
    let count = usize::try_from(fields.u32()?).ok()?;
    let relations = Fields::at(data, RELATIONS_OFFSET)?.bytes(count.checked_mul(4)?)?;
    Some(HeapChange::Truncate(TruncatedTables { database, relations }))
}
