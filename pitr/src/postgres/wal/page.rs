//! Headers of WAL pages (`src/include/access/xlog_internal.h`), and the rules that every one of them obeys.
//!
//! A page is trusted only after its header was held against its place and the pages before: recycled and pre-allocated
//! segments hold well-formed pages of other places, which nothing but the address in the header gives away
//! (`XLogReaderValidatePageHeader`).

use crate::postgres::fields::Fields;
use crate::postgres::{Lsn, MajorVersion, PAGE_SIZE, SystemIdentifier, TimelineId, WalSegmentSize};

/// `XLOG_BLCKSZ`.
pub const WAL_PAGE_SIZE: usize = PAGE_SIZE;
/// `SizeOfXLogShortPHD`.
pub const SHORT_HEADER_SIZE: usize = 24;
/// `SizeOfXLogLongPHD`, at the start of every segment.
pub const LONG_HEADER_SIZE: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x1;
const LONG_HEADER: u16 = 0x2;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x8;
const ALL_FLAGS: u16 = 0xF;

/// Size of the header of the page at `lsn`.
#[must_use]
pub const fn header_size(lsn: Lsn, segment_size: WalSegmentSize) -> usize {
    if segment_size.offset_of(lsn) == 0 { LONG_HEADER_SIZE } else { SHORT_HEADER_SIZE }
}

/// What only the first page of a segment says (`XLogLongPageHeaderData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    pub system_identifier: SystemIdentifier,
    pub segment_size: u32,
    pub page_size: u32,
}

/// The header of one WAL page, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    pub magic: u16,
    /// `xlp_info`.
    pub flags: u16,
    pub tli: u32,
    /// Where the page says that it begins.
    pub address: Lsn,
    /// Bytes of a record that began on an earlier page, from here on.
    pub remaining_length: u32,
    pub long: Option<LongHeader>,
}

impl PageHeader {
    /// Reads a header; none where `bytes` is shorter than the header says it is.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u16()?;
        let flags = fields.u16()?;
        let tli = fields.u32()?;
        let address = fields.lsn()?;
        let remaining_length = fields.u32()?;
        fields.u32()?;
        let long = if flags & LONG_HEADER == 0 {
            None
        } else {
            Some(LongHeader {
                system_identifier: SystemIdentifier::new(fields.u64()?),
                segment_size: fields.u32()?,
                page_size: fields.u32()?,
            })
        };
        Some(Self { magic, flags, tli, address, remaining_length, long })
    }

    /// The page starts with the rest of a record that began before it.
    #[must_use]
    pub const fn continues_record(&self) -> bool {
        self.flags & FIRST_IS_CONTRECORD != 0
    }

    /// The record that began before this page was never finished; its rest is replaced by what stands here.
    #[must_use]
    pub const fn overwrites_record(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }
}

/// What is wrong with the header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    #[error("page magic {found:04X} belongs to no supported version of PostgreSQL")]
    UnknownMagic { found: u16 },
    #[error("page magic {found:04X} is not that of PostgreSQL {expected}")]
    OtherVersion { found: u16, expected: MajorVersion },
    #[error("page address is {found}")]
    Address { found: Lsn },
    #[error("page header has flags {found:04X}")]
    Flags { found: u16 },
    #[error("page belongs to system {found}, expected {expected}")]
    SystemIdentifier { found: SystemIdentifier, expected: SystemIdentifier },
    #[error("page is of a segment of {found} bytes, expected {expected}")]
    SegmentSize { found: u32, expected: u32 },
    #[error("WAL page size is {found}, expected {WAL_PAGE_SIZE}")]
    PageSize { found: u32 },
    #[error("page is on timeline {found}, which does not come between {lowest} and {highest}")]
    Timeline { found: u32, lowest: u32, highest: TimelineId },
}

/// What the pages of one stretch of WAL have in common, learned from them where the caller does not know it.
#[derive(Clone, Debug)]
pub(super) struct PageRules {
    segment_size: WalSegmentSize,
    highest_tli: TimelineId,
    lowest_tli: u32,
    major: Option<MajorVersion>,
    system_identifier: Option<SystemIdentifier>,
}

impl PageRules {
    pub const fn new(highest_tli: TimelineId, segment_size: WalSegmentSize) -> Self {
        Self { segment_size, highest_tli, lowest_tli: 1, major: None, system_identifier: None }
    }

    pub const fn expect_major(&mut self, major: MajorVersion) {
        self.major = Some(major);
    }

    pub const fn expect_system_identifier(&mut self, system_identifier: SystemIdentifier) {
        self.system_identifier = Some(system_identifier);
    }

    pub const fn segment_size(&self) -> WalSegmentSize {
        self.segment_size
    }

    /// Given by the caller, or learned from the first page.
    pub const fn major(&self) -> Option<MajorVersion> {
        self.major
    }

    pub const fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.system_identifier
    }

    /// Reads the header of the page at `lsn` from exactly its bytes, and checks it.
    pub fn read(&mut self, lsn: Lsn, bytes: &[u8]) -> Result<PageHeader, PageFault> {
        let found = Fields::at(bytes, 2).and_then(|mut fields| fields.u16()).unwrap_or_default();
        // A short page that claims the long header.
        let header = PageHeader::parse(bytes).ok_or(PageFault::Flags { found })?;
        self.check(lsn, &header)?;
        Ok(header)
    }

    /// Holds the header of the page at `lsn` against the rules and all earlier pages.
    ///
    /// Its timeline may be older than the file's: the first segment of a timeline starts as a copy of its parent's. It is
    /// never older than that of the page before.
    fn check(&mut self, lsn: Lsn, header: &PageHeader) -> Result<(), PageFault> {
        let major =
            MajorVersion::from_wal_page_magic(header.magic).ok_or(PageFault::UnknownMagic { found: header.magic })?;
        if let Some(expected) = self.major.filter(|expected| *expected != major) {
            return Err(PageFault::OtherVersion { found: header.magic, expected });
        }
        if header.address != lsn {
            return Err(PageFault::Address { found: header.address });
        }
        let starts_segment = self.segment_size.offset_of(lsn) == 0;
        if header.flags & !ALL_FLAGS != 0 || header.long.is_some() != starts_segment {
            return Err(PageFault::Flags { found: header.flags });
        }
        let tli = TimelineId::new(header.tli).filter(|tli| *tli <= self.highest_tli);
        if tli.is_none() || header.tli < self.lowest_tli {
            return Err(PageFault::Timeline { found: header.tli, lowest: self.lowest_tli, highest: self.highest_tli });
        }
        if let Some(long) = &header.long {
            self.check_long(long)?;
            self.system_identifier = Some(long.system_identifier);
        }
        self.major = Some(major);
        self.lowest_tli = header.tli;
        Ok(())
    }

    fn check_long(&self, long: &LongHeader) -> Result<(), PageFault> {
        if let Some(expected) = self.system_identifier.filter(|expected| *expected != long.system_identifier) {
            return Err(PageFault::SystemIdentifier { found: long.system_identifier, expected });
        }
        let expected = u32::from(self.segment_size);
        if long.segment_size != expected {
            return Err(PageFault::SegmentSize { found: long.segment_size, expected });
        }
        if usize::try_from(long.page_size) != Ok(WAL_PAGE_SIZE) {
            return Err(PageFault::PageSize { found: long.page_size });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier::new(7_450_000_000_000_000_001);

    /// A header as the server writes it.
    pub(crate) fn header_bytes(
        major: MajorVersion,
        tli: u32,
        lsn: Lsn,
        remaining: u32,
        size: WalSegmentSize,
    ) -> Vec<u8> {
        let long = size.offset_of(lsn) == 0;
        let flags = u16::from(remaining > 0) | if long { LONG_HEADER } else { 0 };
        let mut bytes = Vec::new();
        bytes.extend(major.wal_page_magic().to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(tli.to_le_bytes());
        bytes.extend(lsn.as_u64().to_le_bytes());
        bytes.extend(remaining.to_le_bytes());
        bytes.extend([0; 4]);
        if long {
            bytes.extend(SYSTEM.as_u64().to_le_bytes());
            bytes.extend(u32::from(size).to_le_bytes());
            bytes.extend(8192_u32.to_le_bytes());
        }
        bytes
    }

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    fn rules(tli: u32) -> PageRules {
        PageRules::new(TimelineId::new(tli).unwrap(), size())
    }

    fn check(rules: &mut PageRules, lsn: u64, change: impl FnOnce(&mut PageHeader)) -> Result<(), PageFault> {
        let lsn = Lsn::new(lsn);
        let mut header = PageHeader::parse(&header_bytes(MajorVersion::V15, 2, lsn, 0, size())).unwrap();
        change(&mut header);
        rules.check(lsn, &header)
    }

    #[test]
    fn reads_both_kinds_of_header() {
        let long = PageHeader::parse(&header_bytes(MajorVersion::V18, 3, Lsn::new(1 << 20), 77, size())).unwrap();
        assert_eq!((long.magic, long.tli, long.remaining_length), (0xD118, 3, 77));
        assert!(long.continues_record() && !long.overwrites_record());
        assert_eq!(
            long.long.unwrap(),
            LongHeader { system_identifier: SYSTEM, segment_size: 1 << 20, page_size: 8192 }
        );
        let short = header_bytes(MajorVersion::V13, 1, Lsn::new(8192), 0, size());
        assert_eq!(short.len(), SHORT_HEADER_SIZE);
        assert!(PageHeader::parse(&short).unwrap().long.is_none());
        assert!(PageHeader::parse(&short[..23]).is_none());
        assert!(PageHeader::parse(&header_bytes(MajorVersion::V13, 1, Lsn::new(0), 0, size())[..39]).is_none());
    }

    #[test]
    fn accepts_pages_of_the_timeline_and_of_its_parents() {
        assert_eq!(check(&mut rules(2), 1 << 20, |_| ()), Ok(()));
        assert_eq!(check(&mut rules(3), 1 << 20, |_| ()), Ok(()));
    }

    #[test]
    fn rejects_each_field_that_differs() {
        let start = 1 << 20;
        type Change = fn(&mut PageHeader);
        let table: [(Change, PageFault); 10] = [
            (|h| h.magic = 0xD101, PageFault::UnknownMagic { found: 0xD101 }),
            (|h| h.address = Lsn::new(0), PageFault::Address { found: Lsn::new(0) }),
            (|h| h.flags = 0x12, PageFault::Flags { found: 0x12 }),
            (|h| h.long = None, PageFault::Flags { found: 2 }),
            (|h| h.tli = 0, PageFault::Timeline { found: 0, lowest: 1, highest: TimelineId::new(2).unwrap() }),
            (|h| h.tli = 3, PageFault::Timeline { found: 3, lowest: 1, highest: TimelineId::new(2).unwrap() }),
            (
                |h| h.long.as_mut().unwrap().segment_size = 1 << 24,
                PageFault::SegmentSize { found: 1 << 24, expected: 1 << 20 },
            ),
            (|h| h.long.as_mut().unwrap().page_size = 4096, PageFault::PageSize { found: 4096 }),
            (
                |h| h.long.as_mut().unwrap().system_identifier = SystemIdentifier::new(1),
                PageFault::SystemIdentifier { found: SystemIdentifier::new(1), expected: SYSTEM },
            ),
            (|h| h.magic = 0xD116, PageFault::OtherVersion { found: 0xD116, expected: MajorVersion::V15 }),
        ];
        for (change, fault) in table {
            let mut rules = rules(2);
            rules.expect_major(MajorVersion::V15);
            rules.expect_system_identifier(SYSTEM);
            assert_eq!(check(&mut rules, start, change), Err(fault));
        }
    }

    #[test]
    fn learns_from_the_first_page_what_it_was_not_told() {
        let mut rules = rules(9);
        assert_eq!(check(&mut rules, 1 << 20, |_| ()), Ok(()));
        assert_eq!(rules.major(), Some(MajorVersion::V15));
        assert_eq!(rules.system_identifier(), Some(SYSTEM));
        assert!(matches!(check(&mut rules, 2 << 20, |h| h.magic = 0xD118), Err(PageFault::OtherVersion { .. })));
        let other = |h: &mut PageHeader| h.long.as_mut().unwrap().system_identifier = SystemIdentifier::new(5);
        assert!(matches!(check(&mut rules, 2 << 20, other), Err(PageFault::SystemIdentifier { .. })));
    }

    #[test]
    fn timeline_never_goes_back() {
        let mut rules = rules(9);
        let on = |tli: u32| move |h: &mut PageHeader| h.tli = tli;
        assert_eq!(check(&mut rules, (1 << 20) + 8192, on(4)), Ok(()));
        assert_eq!(check(&mut rules, (1 << 20) + 16384, on(5)), Ok(()));
        assert!(matches!(check(&mut rules, (1 << 20) + 24576, on(4)), Err(PageFault::Timeline { lowest: 5, .. })));
    }
}
