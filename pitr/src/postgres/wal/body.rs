//! What stands behind the header of a record: the blocks it refers to, and its main data.
//!
//! Headers of fragments come first, then the bytes they announce, the main data last. Read by the rules of
//! `DecodeXLogRecord`: once as a whole, to see that all lengths agree, then block by block as they are asked for.

use super::record::RecordFault;
use crate::postgres::fields::Fields;
use crate::postgres::relation::{Fork, RelationLocator};
use crate::postgres::{MajorVersion, PAGE_SIZE, TransactionId};

const MAIN_DATA_SHORT: u8 = 255;
const MAIN_DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_LEVEL_XID: u8 = 252;
const MAX_BLOCK_ID: u8 = 32;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

/// How a page image is compressed (`wal_compression`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageCompression {
    Pglz,
    Lz4,
    Zstd,
}

/// A full-page image. The page is `bytes`, decompressed where they are, with zeros put in at the hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageImage<'a> {
    pub bytes: &'a [u8],
    pub hole_offset: u16,
    pub hole_length: u16,
    pub compression: Option<ImageCompression>,
    /// Replay restores it; otherwise it is there for `wal_consistency_checking` only.
    pub apply: bool,
}

/// Which block a record changes (`BufferTag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTag {
    pub relation: RelationLocator,
    pub fork: Fork,
    pub block: u32,
}

/// A block that the record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReference<'a> {
    pub id: u8,
    pub relation: RelationLocator,
    pub fork: Fork,
    pub block: u32,
    /// Replay makes the page anew, without reading it.
    pub will_init: bool,
    pub image: Option<PageImage<'a>>,
    pub data: &'a [u8],
}

/// What stands behind the header of a record. Its lengths are consistent.
#[derive(Clone, Copy, Debug)]
pub struct RecordBody<'a> {
    fragments: FragmentHeaders<'a>,
    payload: &'a [u8],
    main_data: &'a [u8],
    origin: Option<u16>,
    top_level_xid: Option<TransactionId>,
}

impl<'a> RecordBody<'a> {
    #[inline]
    pub(super) fn parse(bytes: &'a [u8], major: MajorVersion) -> Result<Self, RecordFault> {
        Self::parse_visiting(bytes, major, |_| {})
    }

    /// In one go: `visit` sees every block before the lengths behind it were found to be right.
    #[inline]
    pub(super) fn parse_visiting(
        bytes: &'a [u8],
        major: MajorVersion,
        mut visit: impl FnMut(BlockTag),
    ) -> Result<Self, RecordFault> {
        let start = FragmentHeaders::new(bytes, major);
        let mut fragments = start;
        let mut main_length = 0;
        let mut origin = None;
        let mut top_level_xid = None;
        while let Some(fragment) = fragments.next_fragment()? {
            match fragment {
                Fragment::MainData { length } => main_length = length,
                Fragment::Origin(id) => origin = Some(id),
                Fragment::TopLevelXid(xid) => top_level_xid = Some(xid),
                Fragment::Block(block) => {
                    visit(BlockTag { relation: block.relation, fork: block.fork, block: block.block });
                }
            }
        }
        let payload = fragments.fields.rest();
        let length = RecordFault::Length { fragments: fragments.payload_length, found: payload.len() };
        if payload.len() != fragments.payload_length {
            return Err(length);
        }
        let blocks_length = payload.len().checked_sub(main_length).ok_or(length)?;
        let (payload, main_data) = payload.split_at_checked(blocks_length).ok_or(length)?;
        Ok(Self { fragments: start, payload, main_data, origin, top_level_xid })
    }

    #[must_use]
    pub const fn main_data(&self) -> &'a [u8] {
        self.main_data
    }

    /// The replication origin that the change came from.
    #[must_use]
    pub const fn origin(&self) -> Option<u16> {
        self.origin
    }

    /// The top-level transaction, where a subtransaction first says so (`wal_level = logical`).
    #[must_use]
    pub const fn top_level_xid(&self) -> Option<TransactionId> {
        self.top_level_xid
    }

    /// The blocks, by rising id.
    #[must_use]
    pub const fn blocks(&self) -> Blocks<'a> {
        Blocks { fragments: self.fragments, payload: Fields::new(self.payload) }
    }
}

/// Walks the blocks of a record.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    fragments: FragmentHeaders<'a>,
    payload: Fields<'a>,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = BlockReference<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // `RecordBody::parse` went this way before: no error is left.
            let Fragment::Block(block) = self.fragments.next_fragment().ok()?? else { continue };
            let image = match block.image {
                None => None,
                Some(image) => Some(PageImage {
                    bytes: self.payload.bytes(usize::from(image.length))?,
                    hole_offset: image.hole_offset,
                    hole_length: image.hole_length,
                    compression: image.compression,
                    apply: image.apply,
                }),
            };
            return Some(BlockReference {
                id: block.id,
                relation: block.relation,
                fork: block.fork,
                block: block.block,
                will_init: block.will_init,
                image,
                data: self.payload.bytes(usize::from(block.data_length))?,
            });
        }
    }
}

/// Header of one fragment.
enum Fragment {
    Block(BlockHeader),
    MainData { length: usize },
    Origin(u16),
    TopLevelXid(TransactionId),
}

struct BlockHeader {
    id: u8,
    relation: RelationLocator,
    fork: Fork,
    block: u32,
    will_init: bool,
    image: Option<ImageHeader>,
    data_length: u16,
}

struct ImageHeader {
    length: u16,
    hole_offset: u16,
    hole_length: u16,
    compression: Option<ImageCompression>,
    apply: bool,
}

/// Reads the headers of fragments one by one, and adds up what they announce.
#[derive(Clone, Copy, Debug)]
struct FragmentHeaders<'a> {
    fields: Fields<'a>,
    major: MajorVersion,
    payload_length: usize,
    relation: Option<RelationLocator>,
    next_block_id: u8,
    complete: bool,
}

impl<'a> FragmentHeaders<'a> {
    const fn new(bytes: &'a [u8], major: MajorVersion) -> Self {
        Self { fields: Fields::new(bytes), major, payload_length: 0, relation: None, next_block_id: 0, complete: false }
    }

    /// The headers end with that of the main data, or where as many bytes are left as were announced.
    #[inline]
    fn next_fragment(&mut self) -> Result<Option<Fragment>, RecordFault> {
        if self.complete || self.fields.rest().len() <= self.payload_length {
            return Ok(None);
        }
        let id = self.fields.u8().ok_or(RecordFault::Truncated)?;
        let fragment = match id {
            MAIN_DATA_SHORT => {
                let length = self.fields.u8().ok_or(RecordFault::Truncated)?;
                self.main_data(usize::from(length))
            }
            MAIN_DATA_LONG => {
                let length = self.fields.u32().and_then(|length| usize::try_from(length).ok());
                self.main_data(length.ok_or(RecordFault::Truncated)?)
            }
            ORIGIN => Fragment::Origin(self.fields.u16().ok_or(RecordFault::Truncated)?),
            TOP_LEVEL_XID if self.major >= MajorVersion::V14 => {
                Fragment::TopLevelXid(TransactionId::new(self.fields.u32().ok_or(RecordFault::Truncated)?))
            }
            0..=MAX_BLOCK_ID => Fragment::Block(self.block(id)?),
            _ => return Err(RecordFault::UnknownFragment { id }),
        };
        Ok(Some(fragment))
    }

    #[inline]
    fn main_data(&mut self, length: usize) -> Fragment {
        self.complete = true;
        self.payload_length = self.payload_length.saturating_add(length);
        Fragment::MainData { length }
    }

    #[inline]
    fn block(&mut self, id: u8) -> Result<BlockHeader, RecordFault> {
        if id < self.next_block_id {
            return Err(RecordFault::BlockOrder { id });
        }
        self.next_block_id = id + 1;
        let flags = self.fields.u8().ok_or(RecordFault::Truncated)?;
        let data_length = self.fields.u16().ok_or(RecordFault::Truncated)?;
        let contradicting = RecordFault::BlockFlags { id, flags };
        let fork = Fork::from_number(flags & FORK_MASK).ok_or(contradicting)?;
        if (flags & HAS_DATA != 0) != (data_length > 0) {
            return Err(contradicting);
        }
        self.payload_length += usize::from(data_length);
        let image = if flags & HAS_IMAGE == 0 { None } else { Some(self.image(id)?) };
        if flags & SAME_RELATION == 0 {
            self.relation = Some(self.relation().ok_or(RecordFault::Truncated)?);
        }
        let relation = self.relation.ok_or(RecordFault::NoRelation { id })?;
        let block = self.fields.u32().ok_or(RecordFault::Truncated)?;
        Ok(BlockHeader { id, relation, fork, block, will_init: flags & WILL_INIT != 0, image, data_length })
    }

    #[inline]
    fn relation(&mut self) -> Option<RelationLocator> {
        Some(RelationLocator {
            tablespace: self.fields.u32()?,
            database: self.fields.u32()?,
            relfilenode: self.fields.u32()?,
        })
    }

    fn image(&mut self, id: u8) -> Result<ImageHeader, RecordFault> {
        let length = self.fields.u16().ok_or(RecordFault::Truncated)?;
        let hole_offset = self.fields.u16().ok_or(RecordFault::Truncated)?;
        let flags = ImageFlags::parse(self.fields.u8().ok_or(RecordFault::Truncated)?, self.major);
        let impossible = RecordFault::Image { id };
        let whole_page = usize::from(length) == PAGE_SIZE;
        let hole_length = match (flags.compression.is_some(), flags.has_hole) {
            (true, true) => self.fields.u16().ok_or(RecordFault::Truncated)?,
            (true, false) => 0,
            (false, _) => u16::try_from(PAGE_SIZE).ok().and_then(|page| page.checked_sub(length)).ok_or(impossible)?,
        };
        let consistent = if flags.has_hole {
            hole_offset > 0 && hole_length > 0 && !whole_page
        } else {
            hole_offset == 0 && hole_length == 0 && whole_page == flags.compression.is_none()
        };
        let hole_end = usize::from(hole_offset) + usize::from(hole_length);
        if !consistent || hole_end > PAGE_SIZE || usize::from(length) > PAGE_SIZE {
            return Err(impossible);
        }
        self.payload_length += usize::from(length);
        Ok(ImageHeader { length, hole_offset, hole_length, compression: flags.compression, apply: flags.apply })
    }
}

/// `bimg_info`. In 15 the bits behind the first changed their meaning.
struct ImageFlags {
    has_hole: bool,
    apply: bool,
    compression: Option<ImageCompression>,
}

impl ImageFlags {
    const fn parse(info: u8, major: MajorVersion) -> Self {
        let (apply, compression) = match major {
            MajorVersion::V13 | MajorVersion::V14 => {
                (info & 0x04 != 0, if info & 0x02 != 0 { Some(ImageCompression::Pglz) } else { None })
            }
            MajorVersion::V15 | MajorVersion::V16 | MajorVersion::V17 | MajorVersion::V18 => {
                let compression = if info & 0x04 != 0 {
                    Some(ImageCompression::Pglz)
                } else if info & 0x08 != 0 {
                    Some(ImageCompression::Lz4)
                } else if info & 0x10 != 0 {
                    Some(ImageCompression::Zstd)
                } else {
                    None
                };
                (info & 0x02 != 0, compression)
            }
        };
        Self { has_hole: info & 0x01 != 0, apply, compression }
    }
}

#[cfg(test)]
mod tests;
