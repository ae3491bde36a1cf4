//! Rows in records of the heap, as far as the records tell them (`heap_xlog_insert`, `heap_xlog_update`, `seq_redo`).
//!
//! An insertion has the whole row, or stands behind a page image that has it. An update on one page leaves out what the old
//! row and the new one begin and end with, so it can only be read by someone who has the old one.

use std::borrow::Cow;

use super::body::{BlockReference, RecordBody};
use super::record::{Record, RecordError, ResourceManager};
use crate::postgres::MajorVersion;
use crate::postgres::fields::Fields;
use crate::postgres::heap_page::{self, ROW_HEADER_SIZE};
use crate::postgres::relation::RelationLocator;

const HEAP_OPERATION: u8 = 0x70;
const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const HOT_UPDATE: u8 = 0x40;
/// `XLH_UPDATE_PREFIX_FROM_OLD`, `XLH_UPDATE_SUFFIX_FROM_OLD`.
const PREFIX_FROM_OLD: u8 = 0x20;
const SUFFIX_FROM_OLD: u8 = 0x40;
/// Of [`ResourceManager::SEQUENCE`].
const SEQUENCE_LOG: u8 = 0x00;

/// `ItemPointerData`: where a row stands in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct RowPlace {
    pub block: u32,
    pub offset: u16,
}

/// What a record does to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowRecord<'a> {
    Insert {
        place: RowPlace,
        /// None where the record cannot be read.
        data: Option<Cow<'a, [u8]>>,
    },
    Update {
        old: RowPlace,
        new: RowPlace,
        /// So many bytes at its beginning and at its end are those of the old row.
        prefix: u16,
        suffix: u16,
        /// What stands between them. None where the record cannot be read.
        data: Option<Cow<'a, [u8]>>,
    },
    Delete {
        place: RowPlace,
    },
}

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRecord {
    pub relation: RelationLocator,
    pub last_value: i64,
    pub is_called: bool,
}

impl<'a> Record<'a> {
    /// What an insertion, an update or a deletion of a single row does. None for every other record.
    ///
    /// # Errors
    /// The record's lengths contradict each other.
    pub fn row(&self, major: MajorVersion) -> Result<Option<RowRecord<'a>>, RecordError> {
        if self.resource_manager() != ResourceManager::HEAP {
            return Ok(None);
        }
        let body = self.body(major)?;
        Ok(match self.header().info & HEAP_OPERATION {
            INSERT => insert(&body),
            DELETE => delete(&body),
            UPDATE | HOT_UPDATE => update(&body),
            _ => None,
        })
    }

    /// The state of a sequence that this record sets.
    ///
    /// # Errors
    /// The record's lengths contradict each other.
    pub fn sequence(&self, major: MajorVersion) -> Result<Option<SequenceRecord>, RecordError> {
        if self.resource_manager() != ResourceManager::SEQUENCE || self.header().operation() != SEQUENCE_LOG {
            return Ok(None);
        }
        Ok(sequence(self.body(major)?.main_data()))
    }
}

fn block<'a>(body: &RecordBody<'a>, id: u8) -> Option<BlockReference<'a>> {
    body.blocks().find(|block| block.id == id)
}

fn insert<'a>(body: &RecordBody<'a>) -> Option<RowRecord<'a>> {
    let block = block(body, 0)?;
    let place = RowPlace { block: block.block, offset: Fields::new(body.main_data()).u16()? };
    Some(RowRecord::Insert { place, data: whole(&block, place, 0) })
}

fn delete<'a>(body: &RecordBody<'a>) -> Option<RowRecord<'a>> {
    let offset = Fields::at(body.main_data(), 4)?.u16()?;
    Some(RowRecord::Delete { place: RowPlace { block: block(body, 0)?.block, offset } })
}

/// `xl_heap_update`. The old row is on block 1, or on the same page as the new one.
fn update<'a>(body: &RecordBody<'a>) -> Option<RowRecord<'a>> {
    let mut fields = Fields::at(body.main_data(), 4)?;
    let (old_offset, _infobits, flags, _xmax) = (fields.u16()?, fields.u8()?, fields.u8()?, fields.u32()?);
    let new_block = block(body, 0)?;
    let old_block = block(body, 1).map_or(new_block.block, |old| old.block);
    let new = RowPlace { block: new_block.block, offset: fields.u16()? };
    let old = RowPlace { block: old_block, offset: old_offset };
    let mut parts = Fields::new(new_block.data);
    let mut length = |flag: u8| if flags & flag == 0 { Some(0) } else { parts.u16() };
    let lengths = (|| Some((length(PREFIX_FROM_OLD)?, length(SUFFIX_FROM_OLD)?)))();
    let has_data = !new_block.data.is_empty();
    let (prefix, suffix) = lengths.filter(|_| has_data).unwrap_or_default();
    let skipped = usize::from(flags & PREFIX_FROM_OLD != 0) + usize::from(flags & SUFFIX_FROM_OLD != 0);
    Some(RowRecord::Update { old, new, prefix, suffix, data: whole(&new_block, new, skipped * 2) })
}

/// What the block's data, or else its page image, says of a row: behind `skip` bytes of data `xl_heap_header`, then what
/// stands behind the row's header.
fn whole<'a>(block: &BlockReference<'a>, place: RowPlace, skip: usize) -> Option<Cow<'a, [u8]>> {
    if block.data.is_empty() {
        let page = block.image?.page()?;
        return Some(Cow::Owned(heap_page::row(&page, place.offset)?.data.to_vec()));
    }
    let mut fields = Fields::at(block.data, skip)?;
    let (_infomask2, _infomask, header) = (fields.u16()?, fields.u16()?, fields.u8()?);
    let bitmap = usize::from(header).checked_sub(ROW_HEADER_SIZE)?;
    Some(Cow::Borrowed(fields.rest().get(bitmap..)?))
}

/// `xl_seq_rec`, and the row of the sequence behind it.
fn sequence(data: &[u8]) -> Option<SequenceRecord> {
    let mut fields = Fields::new(data);
    let relation = RelationLocator { tablespace: fields.u32()?, database: fields.u32()?, relfilenode: fields.u32()? };
    let mut row = Fields::new(heap_page::data(fields.rest())?);
    let (last_value, _log_count, is_called) = (row.i64()?, row.i64()?, row.u8()? != 0);
    Some(SequenceRecord { relation, last_value, is_called })
}
