//! Turns WAL bytes into records.
//!
//! [`WalDecoder`] does no I/O: it is fed contiguous bytes in pieces of any size, over pages and segments, and asked for
//! records. What it says depends on the bytes only, not on how they were cut. Every byte is taken for untrusted: nothing
//! is allocated from a length that a record claims, a record in several pages grows with what arrives.
//!
//! Three outcomes are kept apart. `Ok(None)`: the bytes so far end here, feed more. [`DecodeErrorKind::EndOfWal`]: zeros
//! stand where a record or a page must begin, as at the end of what a server wrote. Every other error is damage, or WAL
//! of another place. Errors stay: after one, no further record comes from this decoder.

use super::decode_error::{DecodeError, DecodeErrorKind, EndOfWal};
use super::page::{PageHeader, PageRules, SHORT_HEADER_SIZE, WAL_PAGE_SIZE, header_size};
use super::record::{RECORD_HEADER_SIZE, Record, RecordHeader, ResourceManager, record_crc};
use crate::postgres::fields::Fields;
use crate::postgres::{Lsn, MajorVersion, SystemIdentifier, TimelineId, WalSegmentSize};

/// No server replays a longer record: it could not allocate it (`MaxAllocSize`).
const MAX_RECORD_LENGTH: u32 = 0x3FFF_FFFF;
/// A buffer for records in several pages that grew beyond this is given back.
const KEPT_CAPACITY: usize = 1 << 20;

/// `XLOG_SWITCH` and `XLOG_OVERWRITE_CONTRECORD` (`pg_control.h`), which change how the bytes behind are read.
pub(super) const SWITCH: u8 = 0x40;
pub(super) const OVERWRITE_CONTRECORD: u8 = 0xD0;

/// Where a record begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBounds {
    pub start: Lsn,
    pub end: Lsn,
}

/// Decodes one stretch of WAL, front to back.
#[derive(Debug)]
pub struct WalDecoder {
    rules: PageRules,
    state: State,
    /// Bytes fed from `buffer_start` on; those before `cursor` are done with. `cursor` may lie up to seven bytes behind
    /// the end, where the padding of the last record has not come yet.
    buffer: Vec<u8>,
    buffer_start: Lsn,
    cursor: usize,
    /// The record that crosses a page header, without the headers.
    spanning: Vec<u8>,
    previous: Option<Lsn>,
    last: Option<RecordBounds>,
    overwritten: Option<Lsn>,
    failed: Option<DecodeError>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing was read; the first page may begin within a record.
    Start,
    /// A record or a page begins here.
    Boundary,
    /// Within a record that began before the decoder did.
    Skipping { remaining: usize },
    /// Within a record that did not end on its first page.
    Spanning { start: Lsn, total: usize },
    /// Behind a switch: nothing up to the end of the segment.
    Switched,
}

enum Step {
    Again,
    NeedMore,
    Found(Located),
}

struct Located {
    bounds: RecordBounds,
    header: RecordHeader,
    /// Where in the buffer; none when the record spans pages.
    offset: Option<usize>,
}

impl WalDecoder {
    /// Starts at `start_lsn`: the start of a page, where the rest of a record that began before is skipped, or of a
    /// record. Pages may be on `tli` or on older timelines, as they are where its files begin with its parent's WAL.
    #[must_use]
    pub const fn new(start_lsn: Lsn, tli: TimelineId, segment_size: WalSegmentSize) -> Self {
        Self {
            rules: PageRules::new(tli, segment_size),
            state: State::Start,
            buffer: Vec::new(),
            buffer_start: start_lsn,
            cursor: 0,
            spanning: Vec::new(),
            previous: None,
            last: None,
            overwritten: None,
            failed: None,
        }
    }

    /// Refuses WAL of any other cluster.
    #[must_use]
    pub const fn with_system_identifier(mut self, system_identifier: SystemIdentifier) -> Self {
        self.rules.expect_system_identifier(system_identifier);
        self
    }

    /// Refuses WAL of any other version.
    #[must_use]
    pub const fn with_major(mut self, major: MajorVersion) -> Self {
        self.rules.expect_major(major);
        self
    }

    /// Demands that the first record names the one at `previous` as the one before it.
    #[must_use]
    pub const fn with_previous(mut self, previous: Lsn) -> Self {
        self.previous = Some(previous);
        self
    }

    /// Known from the first page header on, or from [`Self::with_major`].
    #[must_use]
    pub const fn major(&self) -> Option<MajorVersion> {
        self.rules.major()
    }

    /// Known from the first segment header on, or from [`Self::with_system_identifier`].
    #[must_use]
    pub const fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.rules.system_identifier()
    }

    /// The first byte that is not decoded yet.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.buffer_start.advance(self.cursor as u64)
    }

    /// Where the next byte to be fed belongs.
    #[must_use]
    pub const fn fed(&self) -> Lsn {
        self.buffer_start.advance(self.buffer.len() as u64)
    }

    /// The last record that was handed out.
    #[must_use]
    pub const fn last_record(&self) -> Option<RecordBounds> {
        self.last
    }

    /// Start of a record of which a first part was taken, and the rest is still to come.
    #[must_use]
    pub const fn incomplete_record(&self) -> Option<Lsn> {
        match self.state {
            State::Spanning { start, .. } => Some(start),
            _ => None,
        }
    }

    /// Takes the bytes that follow those fed before. They are kept until they are decoded, so ask for records in between.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        let done = self.cursor.min(self.buffer.len());
        self.buffer.drain(..done);
        self.buffer_start = self.buffer_start.advance(done as u64);
        self.cursor -= done;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next record; none when it is not complete yet.
    ///
    /// # Errors
    /// The WAL ends, or what stands here is not WAL of this place; the same again from then on.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        loop {
            let step = match self.state {
                State::Start => self.start(),
                State::Boundary => self.at_boundary(),
                State::Skipping { remaining } => self.skip(remaining),
                State::Spanning { start, total } => self.span(start, total),
                State::Switched => self.skip_switched(),
            };
            match step {
                Ok(Step::Again) => {}
                Ok(Step::NeedMore) => return Ok(None),
                Ok(Step::Found(located)) => return Ok(Some(self.record(&located))),
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    #[cold]
    fn fail(&mut self, error: DecodeError) -> DecodeError {
        self.failed = Some(error);
        error
    }

    fn record(&self, located: &Located) -> Record<'_> {
        let bytes = match located.offset {
            None => self.spanning.as_slice(),
            Some(offset) => self.buffer.get(offset..offset + located.header.total_length as usize).unwrap_or_default(),
        };
        Record { start_lsn: located.bounds.start, end_lsn: located.bounds.end, header: located.header, bytes }
    }

    fn available(&self) -> &[u8] {
        self.buffer.get(self.cursor..).unwrap_or_default()
    }

    fn left_on_page(&self) -> usize {
        WAL_PAGE_SIZE - self.offset_on_page()
    }

    fn offset_on_page(&self) -> usize {
        (self.position().as_u64() % WAL_PAGE_SIZE as u64) as usize
    }

    fn start(&mut self) -> Result<Step, DecodeError> {
        let position = self.position();
        let offset = self.offset_on_page();
        if offset > 0 {
            let page = Lsn::new(position.as_u64() - offset as u64);
            if position.align_record() != position || offset < header_size(page, self.rules.segment_size()) {
                return Err(DecodeError { lsn: position, kind: DecodeErrorKind::Start });
            }
            self.state = State::Boundary;
            return Ok(Step::Again);
        }
        let Some(header) = self.page_header()? else { return Ok(Step::NeedMore) };
        self.state = if !header.continues_record() {
            State::Boundary
        } else if header.remaining_length == 0 || header.remaining_length > MAX_RECORD_LENGTH {
            let kind = DecodeErrorKind::RecordLength { found: header.remaining_length };
            return Err(DecodeError { lsn: position, kind });
        } else {
            State::Skipping { remaining: header.remaining_length as usize }
        };
        Ok(Step::Again)
    }

    /// Takes the header of the page that begins here, once it is complete.
    fn page_header(&mut self) -> Result<Option<PageHeader>, DecodeError> {
        let lsn = self.position();
        let size = header_size(lsn, self.rules.segment_size());
        let Some(bytes) = self.buffer.get(self.cursor..self.cursor + size) else { return Ok(None) };
        if is_zero(bytes) {
            return Err(DecodeError { lsn, kind: EndOfWal::ZeroPage.into() });
        }
        let header = self.rules.read(lsn, bytes).map_err(|fault| DecodeError { lsn, kind: fault.into() })?;
        self.cursor += size;
        Ok(Some(header))
    }

    fn at_boundary(&mut self) -> Result<Step, DecodeError> {
        let start = self.position();
        let left = self.left_on_page();
        if left == WAL_PAGE_SIZE {
            let Some(header) = self.page_header()? else { return Ok(Step::NeedMore) };
            refuse_continuation(start, &header)?;
            return Ok(Step::Again);
        }
        let available = self.available();
        if available.len() < left.min(RECORD_HEADER_SIZE) {
            return Ok(Step::NeedMore);
        }
        // Records begin at multiples of eight, so the length itself is never split.
        let Some(total_length) = Fields::new(available).u32() else { return Ok(Step::NeedMore) };
        let total = check_length(start, total_length)?;
        if total > left {
            self.begin_spanning(start, total);
            return Ok(Step::Again);
        }
        let Some(header) = RecordHeader::parse(available) else { return Ok(Step::NeedMore) };
        self.check_header(start, &header)?;
        let Some(bytes) = available.get(..total) else { return Ok(Step::NeedMore) };
        check_crc(start, &header, bytes)?;
        let offset = self.cursor;
        self.cursor += total;
        self.complete(start, header, Some(offset))
    }

    fn begin_spanning(&mut self, start: Lsn, total: usize) {
        if self.spanning.capacity() > KEPT_CAPACITY {
            self.spanning = Vec::new();
        }
        self.spanning.clear();
        self.state = State::Spanning { start, total };
    }

    fn span(&mut self, start: Lsn, total: usize) -> Result<Step, DecodeError> {
        let before = self.spanning.len();
        let remaining = total - before;
        let left = self.left_on_page();
        if left == WAL_PAGE_SIZE {
            return self.continue_on_page(Some(start), remaining);
        }
        let wanted = remaining.min(left);
        let taken = self.available().len().min(wanted);
        if taken == 0 {
            return Ok(Step::NeedMore);
        }
        let end = self.cursor + taken;
        self.spanning.extend_from_slice(self.buffer.get(self.cursor..end).unwrap_or_default());
        self.cursor = end;
        // As soon as the header is there: a length out of thin air would have gigabytes collected.
        if before < RECORD_HEADER_SIZE
            && let Some(header) = RecordHeader::parse(&self.spanning)
        {
            self.check_header(start, &header)?;
        }
        match RecordHeader::parse(&self.spanning) {
            Some(header) if self.spanning.len() == total => {
                check_crc(start, &header, &self.spanning)?;
                self.complete(start, header, None)
            }
            _ => Ok(Step::Again),
        }
    }

    fn skip(&mut self, remaining: usize) -> Result<Step, DecodeError> {
        let left = self.left_on_page();
        if left == WAL_PAGE_SIZE {
            return self.continue_on_page(None, remaining);
        }
        let wanted = remaining.min(left);
        let taken = self.available().len().min(wanted);
        if taken == 0 {
            return Ok(Step::NeedMore);
        }
        self.cursor += taken;
        if taken == remaining {
            self.align();
            self.state = State::Boundary;
        } else {
            self.state = State::Skipping { remaining: remaining - taken };
        }
        Ok(Step::Again)
    }

    /// Takes the header of a page that must begin with the `remaining` bytes of a record.
    ///
    /// After a crash the server does not finish such a record: the page then says that it overwrites it, and begins with
    /// a record that names it.
    fn continue_on_page(&mut self, record: Option<Lsn>, remaining: usize) -> Result<Step, DecodeError> {
        let lsn = self.position();
        let Some(header) = self.page_header()? else { return Ok(Step::NeedMore) };
        if header.overwrites_record() {
            refuse_continuation(lsn, &header)?;
            self.overwritten = record;
            self.state = State::Boundary;
            return Ok(Step::Again);
        }
        let found = if header.continues_record() { header.remaining_length } else { 0 };
        if usize::try_from(found) != Ok(remaining) {
            return Err(DecodeError { lsn, kind: DecodeErrorKind::Continuation { found, expected: remaining } });
        }
        Ok(Step::Again)
    }

    /// Behind a switch the server leaves pages of zeros, or such that have a header and nothing else.
    fn skip_switched(&mut self) -> Result<Step, DecodeError> {
        let position = self.position();
        if self.rules.segment_size().offset_of(position) == 0 {
            self.state = State::Boundary;
            return Ok(Step::Again);
        }
        let left = self.left_on_page();
        let available = self.available();
        if left == WAL_PAGE_SIZE {
            let Some(header) = available.get(..SHORT_HEADER_SIZE) else { return Ok(Step::NeedMore) };
            if is_zero(header) {
                self.cursor += SHORT_HEADER_SIZE;
            } else if let Some(header) = self.page_header()? {
                refuse_continuation(position, &header)?;
            }
            return Ok(Step::Again);
        }
        let taken = available.len().min(left);
        if taken == 0 {
            return Ok(Step::NeedMore);
        }
        let rest = available.get(..taken).unwrap_or_default();
        if !is_zero(rest) {
            let offset = rest.iter().position(|byte| *byte != 0).unwrap_or_default();
            let lsn = position.advance(offset as u64);
            return Err(DecodeError { lsn, kind: DecodeErrorKind::DataAfterSwitch });
        }
        self.cursor += taken;
        Ok(Step::Again)
    }

    #[inline]
    fn check_header(&self, start: Lsn, header: &RecordHeader) -> Result<(), DecodeError> {
        let found = header.previous;
        let kind = match self.previous {
            _ if !header.resource_manager.exists() => {
                DecodeErrorKind::ResourceManager { found: header.resource_manager }
            }
            Some(expected) if found != expected => DecodeErrorKind::Previous { found, expected },
            None if found >= start => DecodeErrorKind::PreviousNotBefore { found },
            _ => return Ok(()),
        };
        Err(DecodeError { lsn: start, kind })
    }

    /// Moves behind a record whose bytes are all taken and right.
    #[inline]
    fn complete(&mut self, start: Lsn, header: RecordHeader, offset: Option<usize>) -> Result<Step, DecodeError> {
        self.align();
        let bounds = RecordBounds { start, end: self.position() };
        let located = Located { bounds, header, offset };
        if let Some(overwritten) = self.overwritten.take() {
            self.check_overwrite(overwritten, &located)?;
        }
        let switches = header.resource_manager == ResourceManager::XLOG && header.operation() == SWITCH;
        self.state = if switches { State::Switched } else { State::Boundary };
        self.previous = Some(start);
        self.last = Some(bounds);
        Ok(Step::Found(located))
    }

    #[cold]
    fn check_overwrite(&self, overwritten: Lsn, located: &Located) -> Result<(), DecodeError> {
        let header = &located.header;
        let of_kind = header.resource_manager == ResourceManager::XLOG && header.operation() == OVERWRITE_CONTRECORD;
        let body = self.major().and_then(|major| self.record(located).body(major).ok());
        let named = body.and_then(|body| Fields::new(body.main_data()).lsn());
        if of_kind && named == Some(overwritten) {
            return Ok(());
        }
        Err(DecodeError { lsn: located.bounds.start, kind: DecodeErrorKind::Overwrite { overwritten } })
    }

    /// Moves to where the next record can begin.
    #[inline]
    fn align(&mut self) {
        let position = self.position();
        let padding = position.align_record().as_u64() - position.as_u64();
        self.cursor += padding as usize;
    }
}

#[inline]
fn check_length(start: Lsn, total_length: u32) -> Result<usize, DecodeError> {
    let kind = match total_length {
        0 => EndOfWal::ZeroLength.into(),
        found if (found as usize) < RECORD_HEADER_SIZE || found > MAX_RECORD_LENGTH => {
            DecodeErrorKind::RecordLength { found }
        }
        total => return Ok(total as usize),
    };
    Err(DecodeError { lsn: start, kind })
}

#[inline]
fn check_crc(start: Lsn, header: &RecordHeader, bytes: &[u8]) -> Result<(), DecodeError> {
    let stored = header.crc;
    match record_crc(bytes) {
        Some(computed) if computed == stored => Ok(()),
        computed => {
            let kind = DecodeErrorKind::Checksum { stored, computed: computed.unwrap_or_default() };
            Err(DecodeError { lsn: start, kind })
        }
    }
}

const fn refuse_continuation(lsn: Lsn, header: &PageHeader) -> Result<(), DecodeError> {
    if header.continues_record() {
        return Err(DecodeError { lsn, kind: DecodeErrorKind::UnexpectedContinuation });
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

#[cfg(test)]
mod tests;
