//! Writes WAL as a server does, for tests that need a certain sequence of records.

use chrono::{DateTime, Utc};

use super::page::{LONG_HEADER_SIZE, WAL_PAGE_SIZE, header_size};
use super::record::{RECORD_HEADER_SIZE, ResourceManager, record_crc};
use crate::postgres::time::to_postgres_microseconds;
use crate::postgres::{Lsn, MajorVersion, SegmentNumber, SystemIdentifier, TimelineId, TransactionId, WalSegmentSize};

use super::decoder::RecordBounds;

/// System identifier of the WAL that is written here, unless it is said to be another.
pub const SYSTEM_IDENTIFIER: SystemIdentifier = SystemIdentifier::new(7_450_000_000_000_000_001);

const FIRST_IS_CONTRECORD: u16 = 0x1;
const LONG_HEADER: u16 = 0x2;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x8;

/// Grows WAL from the start of a segment on.
#[derive(Clone, Debug)]
pub struct WalWriter {
    pub major: MajorVersion,
    pub tli: TimelineId,
    pub system_identifier: SystemIdentifier,
    size: WalSegmentSize,
    start: Lsn,
    bytes: Vec<u8>,
    previous: Lsn,
    next_page_flags: u16,
}

impl WalWriter {
    #[must_use]
    pub fn new(major: MajorVersion, tli: TimelineId, segment: SegmentNumber, size: WalSegmentSize) -> Self {
        let start = size.start_of(segment);
        Self {
            major,
            tli,
            system_identifier: SYSTEM_IDENTIFIER,
            size,
            start,
            bytes: Vec::new(),
            previous: Lsn::INVALID,
            next_page_flags: 0,
        }
    }

    /// Where the first byte belongs.
    #[must_use]
    pub const fn start(&self) -> Lsn {
        self.start
    }

    /// Where the next byte will be.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }

    /// Everything written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written, filled up with zeros to whole segments.
    #[must_use]
    pub fn segments(&self) -> Vec<(SegmentNumber, Vec<u8>)> {
        let first = self.size.segment_of(self.start).as_u64();
        let segments = self.bytes.chunks(self.size.as_usize()).zip(first..);
        segments
            .map(|(bytes, number)| {
                let mut segment = bytes.to_vec();
                segment.resize(self.size.as_usize(), 0);
                (SegmentNumber::new(number), segment)
            })
            .collect()
    }

    /// Writes a record without blocks.
    pub fn append(&mut self, manager: ResourceManager, info: u8, xid: TransactionId, main_data: &[u8]) -> RecordBounds {
        let mut fragments = Vec::new();
        match u8::try_from(main_data.len()) {
            Ok(0) => {}
            Ok(length) => fragments.extend([255, length]),
            Err(_) => {
                fragments.push(254);
                fragments.extend(u32::try_from(main_data.len()).expect("a test record fits").to_le_bytes());
            }
        }
        fragments.extend(main_data);
        self.append_fragments(manager, info, xid, &fragments)
    }

    /// Writes a record with what stands behind its header given.
    pub fn append_fragments(
        &mut self,
        manager: ResourceManager,
        info: u8,
        xid: TransactionId,
        fragments: &[u8],
    ) -> RecordBounds {
        self.pad_page();
        let start = self.position();
        let record = self.record(manager, info, xid, fragments);
        self.write(&record);
        self.previous = start;
        let padding = self.position().align_record().as_u64() - self.position().as_u64();
        self.bytes.resize(self.bytes.len() + padding as usize, 0);
        RecordBounds { start, end: self.position() }
    }

    /// The bytes of the record that would come next.
    #[must_use]
    pub fn record(&self, manager: ResourceManager, info: u8, xid: TransactionId, fragments: &[u8]) -> Vec<u8> {
        let total = u32::try_from(RECORD_HEADER_SIZE + fragments.len()).expect("a test record fits");
        let mut record = Vec::new();
        record.extend(total.to_le_bytes());
        record.extend(xid.as_u32().to_le_bytes());
        record.extend(self.previous.as_u64().to_le_bytes());
        record.extend([info, manager.as_u8(), 0, 0]);
        record.extend([0; 4]);
        record.extend(fragments);
        let crc = record_crc(&record).expect("it has a header").to_le_bytes();
        record[20..24].copy_from_slice(&crc);
        record
    }

    /// A commit without anything but its time.
    pub fn commit(&mut self, xid: TransactionId, time: DateTime<Utc>) -> RecordBounds {
        self.append(ResourceManager::TRANSACTION, 0x00, xid, &to_postgres_microseconds(time).to_le_bytes())
    }

    /// An abort without anything but its time.
    pub fn abort(&mut self, xid: TransactionId, time: DateTime<Utc>) -> RecordBounds {
        self.append(ResourceManager::TRANSACTION, 0x20, xid, &to_postgres_microseconds(time).to_le_bytes())
    }

    pub fn restore_point(&mut self, name: &str, time: DateTime<Utc>) -> RecordBounds {
        let mut data = to_postgres_microseconds(time).to_le_bytes().to_vec();
        data.extend(name.as_bytes());
        data.resize(8 + 64, 0);
        self.append(ResourceManager::XLOG, 0x70, TransactionId::INVALID, &data)
    }

    pub fn backup_end(&mut self, start: Lsn) -> RecordBounds {
        self.append(ResourceManager::XLOG, 0x50, TransactionId::INVALID, &start.as_u64().to_le_bytes())
    }

    /// A record that means nothing, with `length` bytes of main data.
    pub fn filler(&mut self, length: usize) -> RecordBounds {
        self.append(ResourceManager::new(21), 0, TransactionId::INVALID, &vec![0xA5; length])
    }

    /// Ends the segment.
    pub fn switch(&mut self) -> RecordBounds {
        let bounds = self.append(ResourceManager::XLOG, 0x40, TransactionId::INVALID, &[]);
        while self.size.offset_of(self.position()) != 0 {
            self.bytes.push(0);
        }
        bounds
    }

    /// Writes a first part of a record, up to the end of the page; then makes the server crash: the rest is replaced by
    /// the record that says so.
    ///
    /// # Panics
    /// The record would not reach the next page.
    pub fn overwritten(&mut self, length: usize, time: DateTime<Utc>) -> RecordBounds {
        self.pad_page();
        let start = self.position();
        let record = self.record(ResourceManager::new(21), 0, TransactionId::INVALID, &vec![0xA5; length]);
        let left = WAL_PAGE_SIZE - self.bytes.len() % WAL_PAGE_SIZE;
        assert!(record.len() > left, "the record ends on its first page");
        self.bytes.extend(&record[..left]);
        self.next_page_flags = FIRST_IS_OVERWRITE_CONTRECORD;
        let mut data = start.as_u64().to_le_bytes().to_vec();
        data.extend(to_postgres_microseconds(time).to_le_bytes());
        self.append(ResourceManager::XLOG, 0xD0, TransactionId::INVALID, &data)
    }

    fn write(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            let left = WAL_PAGE_SIZE - self.bytes.len() % WAL_PAGE_SIZE;
            if left == WAL_PAGE_SIZE {
                self.header(record.len());
                continue;
            }
            let (now, rest) = record.split_at(left.min(record.len()));
            self.bytes.extend(now);
            record = rest;
        }
    }

    /// Begins a page where the last one is full.
    fn pad_page(&mut self) {
        if self.bytes.len().is_multiple_of(WAL_PAGE_SIZE) {
            self.header(0);
        }
    }

    fn header(&mut self, remaining: usize) {
        let lsn = self.position();
        let long = header_size(lsn, self.size) == LONG_HEADER_SIZE;
        let mut flags = std::mem::take(&mut self.next_page_flags);
        flags |= if remaining > 0 { FIRST_IS_CONTRECORD } else { 0 };
        flags |= if long { LONG_HEADER } else { 0 };
        self.bytes.extend(self.major.wal_page_magic().to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.tli.as_u32().to_le_bytes());
        self.bytes.extend(lsn.as_u64().to_le_bytes());
        self.bytes.extend(u32::try_from(remaining).expect("a test record fits").to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(self.system_identifier.as_u64().to_le_bytes());
            self.bytes.extend(u32::from(self.size).to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }
}
