//! Files of relations that come, shrink, or change places (`src/include/catalog/storage_xlog.h`, `utils/relmapper.h`).

use super::meaning::{RecordMeaning, whole};
use super::record::RecordFault;
use crate::postgres::fields::Fields;
use crate::postgres::relation::{Fork, RelationLocator};

const STORAGE_CREATE: u8 = 0x10;
const STORAGE_TRUNCATE: u8 = 0x20;
const RELMAP_UPDATE: u8 = 0x00;

const TRUNCATE_MAIN: u32 = 0x1;
const TRUNCATE_VISIBILITY_MAP: u32 = 0x2;
const TRUNCATE_FREE_SPACE_MAP: u32 = 0x4;

/// A relation is cut to `blocks` blocks of its main fork, and its maps to what belongs to those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruncateStorage {
    pub relation: RelationLocator,
    pub blocks: u32,
    pub main: bool,
    pub visibility_map: bool,
    pub free_space_map: bool,
}

pub(super) fn storage(operation: u8, data: &[u8]) -> Result<RecordMeaning<'_>, RecordFault> {
    let fields = Fields::new(data);
    match operation {
        STORAGE_CREATE => {
            let (relation, number) = whole(fields, |fields| Some((locator(fields)?, fields.u32()?)))?;
            let fork = u8::try_from(number).ok().and_then(Fork::from_number).ok_or(RecordFault::Fork { number })?;
            Ok(RecordMeaning::CreateStorage { relation, fork })
        }
        STORAGE_TRUNCATE => {
            let read = |fields: &mut Fields<'_>| Some((fields.u32()?, locator(fields)?, fields.u32()?));
            let (blocks, relation, flags) = whole(fields, read)?;
            Ok(RecordMeaning::TruncateStorage(TruncateStorage {
                relation,
                blocks,
                main: flags & TRUNCATE_MAIN != 0,
                visibility_map: flags & TRUNCATE_VISIBILITY_MAP != 0,
                free_space_map: flags & TRUNCATE_FREE_SPACE_MAP != 0,
            }))
        }
        _ => Ok(RecordMeaning::Other),
    }
}

/// `xl_relmap_update`; the map itself follows.
pub(super) fn relation_map(operation: u8, data: &[u8]) -> Result<RecordMeaning<'_>, RecordFault> {
    if operation != RELMAP_UPDATE {
        return Ok(RecordMeaning::Other);
    }
    let mut fields = Fields::new(data);
    let mut next = || fields.u32().ok_or(RecordFault::MainDataTooShort);
    let (database, tablespace, _length) = (next()?, next()?, next()?);
    Ok(RecordMeaning::UpdateRelationMap { database, tablespace, map: fields.rest() })
}

fn locator(fields: &mut Fields<'_>) -> Option<RelationLocator> {
    Some(RelationLocator { tablespace: fields.u32()?, database: fields.u32()?, relfilenode: fields.u32()? })
}
