//! WAL records (`src/include/access/xlogrecord.h`): the header, and what is wrong with a record.
//!
//! A [`Record`] borrows its bytes. Its header is always parsed; everything behind the header only on demand
//! ([`Record::body`]), so that whoever asks for little pays for little. The checksum was right when a decoder hands a
//! record out; lengths are checked all the same, by the rules of `DecodeXLogRecord`.

use std::fmt;

use super::body::{BlockTag, RecordBody};
use crate::postgres::fields::Fields;
use crate::postgres::{Lsn, MajorVersion, TransactionId};

/// `SizeOfXLogRecord`.
pub const RECORD_HEADER_SIZE: usize = 24;
/// Where `xl_crc` stands in the header; it covers what is before and what is behind it.
const CRC_OFFSET: usize = 20;

/// `RmgrId`: the subsystem that wrote a record and can replay it (`rmgrlist.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceManager(u8);

impl ResourceManager {
    pub const XLOG: Self = Self(0);
    pub const TRANSACTION: Self = Self(1);
    pub const STORAGE: Self = Self(2);
    pub const DATABASE: Self = Self(4);
    pub const TABLESPACE: Self = Self(5);
    pub const RELMAP: Self = Self(7);
    pub const STANDBY: Self = Self(8);
    pub const HEAP2: Self = Self(9);
    pub const HEAP: Self = Self(10);
    pub const SEQUENCE: Self = Self(15);
    const LAST_BUILT_IN: Self = Self(21);
    /// From 15 on, extensions can have their own.
    const FIRST_CUSTOM: Self = Self(128);

    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self(id)
    }

    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.0
    }

    #[must_use]
    pub const fn is_custom(self) -> bool {
        self.0 >= Self::FIRST_CUSTOM.0
    }

    /// Some version from 13 to 18 could have written it.
    pub(super) const fn exists(self) -> bool {
        self.0 <= Self::LAST_BUILT_IN.0 || self.is_custom()
    }
}

impl fmt::Debug for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The fixed part of a record (`XLogRecord`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub total_length: u32,
    pub xid: TransactionId,
    /// Start of the record before.
    pub previous: Lsn,
    pub info: u8,
    pub resource_manager: ResourceManager,
    pub crc: u32,
}

impl RecordHeader {
    /// Reads a header; none where there are not enough bytes.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes.first_chunk::<RECORD_HEADER_SIZE>()?);
        let total_length = fields.u32()?;
        let xid = TransactionId::new(fields.u32()?);
        let previous = fields.lsn()?;
        let info = fields.u8()?;
        let resource_manager = ResourceManager(fields.u8()?);
        fields.u16()?;
        Some(Self { total_length, xid, previous, info, resource_manager, crc: fields.u32()? })
    }

    /// `xl_info` without the bits that belong to the record format itself.
    #[must_use]
    pub const fn operation(&self) -> u8 {
        self.info & 0xF0
    }
}

/// The checksum that a record of these bytes must carry; none where they are fewer than a header.
#[inline]
pub(super) fn record_crc(bytes: &[u8]) -> Option<u32> {
    let body = bytes.get(RECORD_HEADER_SIZE..)?;
    let header = bytes.get(..CRC_OFFSET)?;
    Some(crc32c::crc32c_append(crc32c::crc32c(body), header))
}

/// A record as it stands in the WAL, without the page headers within.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub(super) start_lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) header: RecordHeader,
    pub(super) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Where the record begins: what a recovery target names.
    #[must_use]
    pub const fn start_lsn(&self) -> Lsn {
        self.start_lsn
    }

    /// What `XLogInsert` returned: the first byte behind the record and its padding. At the end of a page that is the
    /// page boundary, without the next header; behind a switch it is not the end of the segment.
    #[must_use]
    pub const fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    #[must_use]
    pub const fn header(&self) -> &RecordHeader {
        &self.header
    }

    #[must_use]
    pub const fn xid(&self) -> TransactionId {
        self.header.xid
    }

    #[must_use]
    pub const fn resource_manager(&self) -> ResourceManager {
        self.header.resource_manager
    }

    /// All `xl_tot_len` bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Reads what stands behind the header, as `major` wrote it.
    ///
    /// # Errors
    /// Headers of fragments and lengths that contradict each other.
    pub fn body(&self, major: MajorVersion) -> Result<RecordBody<'a>, RecordError> {
        let fragments = self.bytes.get(RECORD_HEADER_SIZE..).ok_or(RecordFault::Truncated);
        fragments.and_then(|fragments| RecordBody::parse(fragments, major)).map_err(|fault| self.error(fault))
    }

    /// Shows every block to `visit`, by rising id, and returns the main data: all that most readers want of a body, in one go.
    ///
    /// # Errors
    /// As [`Self::body`]; then `visit` may have seen some of the blocks.
    #[inline]
    pub fn visit_blocks(&self, major: MajorVersion, visit: impl FnMut(BlockTag)) -> Result<&'a [u8], RecordError> {
        let Some(fragments) = self.bytes.get(RECORD_HEADER_SIZE..) else {
            return Err(self.error(RecordFault::Truncated));
        };
        match RecordBody::parse_visiting(fragments, major, visit) {
            Ok(body) => Ok(body.main_data()),
            Err(fault) => Err(self.error(fault)),
        }
    }

    pub(crate) const fn error(&self, fault: RecordFault) -> RecordError {
        RecordError { lsn: self.start_lsn, resource_manager: self.header.resource_manager, fault }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("start_lsn", &self.start_lsn)
            .field("end_lsn", &self.end_lsn)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// A record with the right checksum that does not hold what its kind must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL record at {lsn} of resource manager {resource_manager:?}: {fault}")]
pub struct RecordError {
    pub lsn: Lsn,
    pub resource_manager: ResourceManager,
    pub fault: RecordFault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    #[error("it ends within a header")]
    Truncated,
    #[error("unknown fragment {id}")]
    UnknownFragment { id: u8 },
    #[error("block {id} is out of order")]
    BlockOrder { id: u8 },
    #[error("block {id} has contradicting flags {flags:#04x}")]
    BlockFlags { id: u8, flags: u8 },
    #[error("the page image of block {id} has impossible sizes")]
    Image { id: u8 },
    #[error("block {id} refers to the relation of the block before, and there is none")]
    NoRelation { id: u8 },
    #[error("{fragments} bytes of fragments are announced, {found} are there")]
    Length { fragments: usize, found: usize },
    #[error("its main data is too short")]
    MainDataTooShort,
    #[error("{excess} bytes of its main data are not accounted for")]
    MainDataTooLong { excess: usize },
    #[error("time {microseconds} is out of range")]
    Time { microseconds: i64 },
    #[error("timeline 0")]
    Timeline,
    #[error("fork {number} does not exist")]
    Fork { number: u32 },
    #[error("it changes rows and refers to no block")]
    NoBlock,
    #[error("it is not the one that follows {expected}")]
    Order { expected: Lsn },
}
