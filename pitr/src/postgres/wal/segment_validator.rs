//! Accepts or refuses a WAL segment by the headers of all its pages.
//!
//! A server can hand out files that are no segments: recycled ones, pre-allocated ones, those of another cluster. What
//! gives them away is checked on every page while the bytes pass by. Records are not looked at.
//!
//! After `XLOG_SWITCH` the rest of a segment is zero. Only a decoder can tell whether a switch stands there; this type says
//! from which page on there is nothing ([`SegmentFacts::zero_from`]), and that nothing follows.

use super::page::{LONG_HEADER_SIZE, PageFault, PageRules, WAL_PAGE_SIZE, header_size};
use crate::postgres::{Lsn, MajorVersion, SegmentNumber, SystemIdentifier, TimelineId, WalSegmentSize};

/// What is known of a segment whose pages are as they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    pub major: MajorVersion,
    pub page_magic: u16,
    pub system_identifier: SystemIdentifier,
    /// Older than the file's where the segment starts as a copy of the parent timeline's.
    pub first_page_tli: TimelineId,
    /// Start of the first page from which on all bytes are zero: right only after `XLOG_SWITCH`, else the segment is
    /// not complete.
    pub zero_from: Option<Lsn>,
}

/// Why a segment is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL segment at {lsn}: {kind}")]
pub struct SegmentError {
    pub lsn: Lsn,
    pub kind: SegmentErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentErrorKind {
    #[error(transparent)]
    Page(#[from] PageFault),
    #[error("the segment has {found} bytes, expected {expected}")]
    Length { found: u64, expected: u64 },
    #[error("the segment is empty: its first page is zero")]
    Empty,
    #[error("there is data after a page of zeros")]
    DataAfterZeros,
}

impl SegmentError {
    /// The page is of an earlier use of this file: the server has not written so far yet, so the segment is not complete.
    #[must_use]
    pub fn is_recycled(&self) -> bool {
        matches!(self.kind, SegmentErrorKind::Page(PageFault::Address { found }) if found < self.lsn)
    }
}

/// Checks one segment, fed front to back in pieces of any size.
#[derive(Clone, Debug)]
pub struct SegmentValidator {
    rules: PageRules,
    start: Lsn,
    length: u64,
    header: [u8; LONG_HEADER_SIZE],
    first: Option<(u16, TimelineId)>,
    zero_from: Option<Lsn>,
    failed: Option<SegmentError>,
}

impl SegmentValidator {
    #[must_use]
    pub fn new(tli: TimelineId, segment: SegmentNumber, size: WalSegmentSize) -> Self {
        Self {
            rules: PageRules::new(tli, size),
            start: size.start_of(segment),
            length: 0,
            header: [0; LONG_HEADER_SIZE],
            first: None,
            zero_from: None,
            failed: None,
        }
    }

    /// Refuses segments of any other cluster.
    #[must_use]
    pub const fn with_system_identifier(mut self, system_identifier: SystemIdentifier) -> Self {
        self.rules.expect_system_identifier(system_identifier);
        self
    }

    /// Refuses segments of any other version.
    #[must_use]
    pub const fn with_major(mut self, major: MajorVersion) -> Self {
        self.rules.expect_major(major);
        self
    }

    /// End of what was fed so far.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.start.advance(self.length)
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The first page that is not what it should be; the same again from then on.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SegmentError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !bytes.is_empty() {
            match self.step(bytes) {
                Ok(taken) => {
                    self.length = self.length.saturating_add(taken as u64);
                    bytes = bytes.get(taken..).unwrap_or_default();
                }
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Checks what `bytes` brings up to the end of the header or of the page, and says how many bytes that was.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, SegmentError> {
        let expected = self.rules.segment_size().as_u64();
        if self.length >= expected {
            let found = self.length.saturating_add(bytes.len() as u64);
            return Err(SegmentError { lsn: self.position(), kind: SegmentErrorKind::Length { found, expected } });
        }
        let in_page = (self.length % WAL_PAGE_SIZE as u64) as usize;
        let page = self.start.advance(self.length - in_page as u64);
        let header_size = header_size(page, self.rules.segment_size());
        if in_page >= header_size {
            let taken = bytes.len().min(WAL_PAGE_SIZE - in_page);
            self.check_zeros(bytes.get(..taken).unwrap_or_default())?;
            return Ok(taken);
        }
        let taken = bytes.len().min(header_size - in_page);
        let target = self.header.iter_mut().skip(in_page);
        target.zip(bytes.iter().take(taken)).for_each(|(kept, byte)| *kept = *byte);
        if in_page + taken == header_size {
            self.check_header(page, header_size)?;
        }
        Ok(taken)
    }

    fn check_header(&mut self, page: Lsn, header_size: usize) -> Result<(), SegmentError> {
        let error = |kind| SegmentError { lsn: page, kind };
        let bytes = self.header.get(..header_size).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            if page == self.start {
                return Err(error(SegmentErrorKind::Empty));
            }
            self.zero_from.get_or_insert(page);
            return Ok(());
        }
        if self.zero_from.is_some() {
            return Err(error(SegmentErrorKind::DataAfterZeros));
        }
        let header = self.rules.read(page, bytes).map_err(|fault| error(fault.into()))?;
        if self.first.is_none() {
            self.first = TimelineId::new(header.tli).map(|tli| (header.magic, tli));
        }
        Ok(())
    }

    fn check_zeros(&self, content: &[u8]) -> Result<(), SegmentError> {
        if self.zero_from.is_some()
            && let Some(offset) = content.iter().position(|byte| *byte != 0)
        {
            let lsn = self.position().advance(offset as u64);
            return Err(SegmentError { lsn, kind: SegmentErrorKind::DataAfterZeros });
        }
        Ok(())
    }

    /// Ends the segment.
    ///
    /// # Errors
    /// It was refused before, or has not all its bytes.
    pub fn finish(self) -> Result<SegmentFacts, SegmentError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let expected = self.rules.segment_size().as_u64();
        let length =
            SegmentError { lsn: self.position(), kind: SegmentErrorKind::Length { found: self.length, expected } };
        if self.length != expected {
            return Err(length);
        }
        self.facts().ok_or(length)
    }

    /// What is known so far; none before the first header is complete.
    #[must_use]
    pub fn facts(&self) -> Option<SegmentFacts> {
        let (page_magic, first_page_tli) = self.first?;
        Some(SegmentFacts {
            major: self.rules.major()?,
            page_magic,
            system_identifier: self.rules.system_identifier()?,
            first_page_tli,
            zero_from: self.zero_from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::{SYSTEM, header_bytes};
    use super::*;

    const SIZE: usize = 1 << 20;
    const START: u64 = 5 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    fn segment(pages: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for page in 0..pages {
            let lsn = Lsn::new(START + (page * WAL_PAGE_SIZE) as u64);
            bytes.extend(header_bytes(MajorVersion::V16, 2, lsn, 0, size()));
            bytes.resize((page + 1) * WAL_PAGE_SIZE, 0xAB);
        }
        bytes.resize(SIZE, 0);
        bytes
    }

    fn validator() -> SegmentValidator {
        SegmentValidator::new(TimelineId::new(3).unwrap(), SegmentNumber::new(5), size()).with_system_identifier(SYSTEM)
    }

    fn validate(bytes: &[u8], chunk: usize) -> Result<SegmentFacts, SegmentError> {
        let mut validator = validator();
        for piece in bytes.chunks(chunk) {
            validator.feed(piece)?;
        }
        validator.finish()
    }

    #[test]
    fn accepts_a_segment_however_it_is_cut() {
        let facts = SegmentFacts {
            major: MajorVersion::V16,
            page_magic: 0xD113,
            system_identifier: SYSTEM,
            first_page_tli: TimelineId::new(2).unwrap(),
            zero_from: None,
        };
        for chunk in [1, 7, 23, 24, 41, 8192, 8193, 131_072, SIZE] {
            assert_eq!(validate(&segment(128), chunk), Ok(facts), "in pieces of {chunk}");
        }
    }

    #[test]
    fn says_from_where_on_there_is_nothing() {
        for chunk in [13, 8192, SIZE] {
            let zero_from = validate(&segment(10), chunk).unwrap().zero_from;
            assert_eq!(zero_from, Some(Lsn::new(START + 10 * 8192)), "in pieces of {chunk}");
        }
    }

    #[test]
    fn refuses_data_after_zeros() {
        for offset in [10 * 8192 + 24, 10 * 8192 + 8191, 11 * 8192 + 1, SIZE - 1] {
            let mut bytes = segment(10);
            bytes[offset] = 1;
            for chunk in [1000, SIZE] {
                let error = validate(&bytes, chunk).unwrap_err();
                assert_eq!(error.kind, SegmentErrorKind::DataAfterZeros, "at {offset}");
            }
        }
    }

    #[test]
    fn a_recycled_page_is_told_from_damage() {
        let mut bytes = segment(128);
        let old = header_bytes(MajorVersion::V16, 2, Lsn::new(START - (2 << 20) + 9 * 8192), 0, size());
        bytes[9 * 8192..9 * 8192 + old.len()].copy_from_slice(&old);
        let error = validate(&bytes, 4096).unwrap_err();
        assert_eq!(error.lsn, Lsn::new(START + 9 * 8192));
        assert!(error.is_recycled());
        bytes[9 * 8192] ^= 1;
        assert!(!validate(&bytes, 4096).unwrap_err().is_recycled());
    }

    #[test]
    fn refuses_other_lengths_and_empty_segments() {
        let bytes = segment(128);
        for length in [0, 1, 40, SIZE - 1, SIZE + 1] {
            let mut bytes = bytes.clone();
            bytes.resize(length, 0);
            let error = validate(&bytes, 8192).unwrap_err();
            assert!(matches!(error.kind, SegmentErrorKind::Length { .. }), "{length}: {error}");
        }
        assert_eq!(validate(&vec![0; SIZE], 8192).unwrap_err().kind, SegmentErrorKind::Empty);
    }

    #[test]
    fn every_page_counts() {
        for page in 0..128 {
            let mut bytes = segment(128);
            bytes[page * 8192 + 8] ^= 0x10;
            let error = validate(&bytes, 10_000).unwrap_err();
            assert_eq!(error.lsn, Lsn::new(START + page as u64 * 8192));
            assert!(matches!(error.kind, SegmentErrorKind::Page(PageFault::Address { .. })));
        }
    }

    #[test]
    fn an_error_stays() {
        let mut validator = validator();
        let error = validator.feed(&[1; 40]).unwrap_err();
        assert_eq!(validator.feed(&segment(128)), Err(error));
        assert_eq!(validator.finish(), Err(error));
    }
}
