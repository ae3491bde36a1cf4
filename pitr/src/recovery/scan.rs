//! Looks for a target in decoded WAL.
//!
//! [`WalScan`] does no I/O: it is fed the WAL of one path of timelines from the start of a backup on, in order, and collects
//! what a plan needs to know: the record at which recovery is to stop, the transactions around it, and what replay does
//! outside the data directory. What it finds does not depend on how the bytes were cut.
//!
//! WAL of which a summary says enough need not be fed: the scan [skips](WalScan::skip) it, and finds the same. What of it
//! remains open, it says itself ([`WalScan::unsettled`]).

mod goal;
mod seeker;

use crate::postgres::wal::{DecodeError, RecordBounds, RecordError, WalDecoder};
use crate::postgres::{Lsn, MajorVersion, SystemIdentifier, TimelineId, WalSegmentSize};

pub use goal::Goal;
pub use seeker::{Findings, TablespaceChange, Unsettled};

use seeker::Seeker;
pub(in crate::recovery) use seeker::minimum_settings;

use super::skip::SummaryDigest;
use crate::repository::catalog::LsnRange;

/// Why the scan cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanFault {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl ScanFault {
    /// Zeros stand where WAL could go on: the end, where nothing is durable behind it.
    #[must_use]
    pub const fn is_end_of_wal(&self) -> bool {
        matches!(self, Self::Decode(error) if error.is_end_of_wal())
    }
}

/// Whether more WAL is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// Every record was seen that starts before the position that was given.
    Reached,
    Done,
}

/// Where a scan begins, and what it reads.
#[derive(Clone, Copy, Debug)]
pub struct ScanStart {
    /// Where the backup's replay begins: the start of a record.
    pub start_lsn: Lsn,
    /// The end of the record that makes the backup consistent.
    pub stop_lsn: Lsn,
    /// The newest timeline on the path.
    pub timeline: TimelineId,
    pub segment_size: WalSegmentSize,
    pub system_identifier: SystemIdentifier,
    pub major: MajorVersion,
}

/// A search in WAL that is fed front to back.
#[derive(Debug)]
pub struct WalScan {
    start: ScanStart,
    decoder: WalDecoder,
    /// Up to here everything was seen or skipped; records that start before are not looked at.
    settled: Lsn,
    /// What comes next cannot be decoded without a beginning.
    skipped: bool,
    seeker: Seeker,
}

impl WalScan {
    #[must_use]
    pub fn new(start: &ScanStart, goal: Goal) -> Self {
        let seeker = Seeker::new(goal, start.stop_lsn, start.segment_size);
        Self {
            start: *start,
            decoder: decoder(start, start.start_lsn),
            settled: start.start_lsn,
            skipped: false,
            seeker,
        }
    }

    /// Another scan for the same, over what this one left open.
    #[must_use]
    pub fn over(&self, range: LsnRange) -> Self {
        let mut scan = Self::new(&self.start, self.seeker.goal());
        scan.settled = range.from;
        scan.skipped = range.from > self.start.start_lsn;
        scan
    }

    /// Makes ready to decode records that start at the settled position or later, and tells from where on bytes are wanted.
    pub fn resume(&mut self) -> Lsn {
        if std::mem::take(&mut self.skipped) {
            let size = self.start.segment_size;
            self.decoder = decoder(&self.start, size.start_of(size.segment_of(self.settled)));
        }
        self.fed()
    }

    /// Takes the bytes that follow those before; the first ones are those at the start of the backup.
    ///
    /// # Errors
    /// The WAL ends here, or it is damaged. What was found before stands.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, ScanFault> {
        self.feed_until(bytes, Lsn::MAX)
    }

    /// As [`Self::feed`], and stops before the first record that starts at `until` or behind it.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn feed_until(&mut self, bytes: &[u8], until: Lsn) -> Result<Progress, ScanFault> {
        if self.seeker.is_done() {
            return Ok(Progress::Done);
        }
        self.decoder.feed(bytes);
        loop {
            if self.decoder.position() >= until && self.decoder.incomplete_record().is_none() {
                self.settled = self.settled.max(until);
                return Ok(Progress::Reached);
            }
            let Some(record) = self.decoder.next_record()? else { return Ok(Progress::More) };
            if record.start_lsn() < self.settled {
                continue;
            }
            self.seeker.observe(&record, self.start.major)?;
            if self.seeker.is_done() {
                return Ok(Progress::Done);
            }
        }
    }

    /// Takes what a summary says of the records that start in `part`, the next one, instead of those.
    pub fn skip(&mut self, digest: &SummaryDigest, part: LsnRange) {
        self.seeker.skip(digest, part);
        self.settled = part.to;
        self.skipped = true;
    }

    /// What cannot be told without decoding more.
    #[must_use]
    pub fn unsettled(&self) -> Option<Unsettled> {
        self.seeker.unsettled()
    }

    /// Takes what a scan [over](Self::over) the range of [`Unsettled::Range`] found. False where that is not what a summary
    /// promised.
    #[must_use]
    pub fn settle(&mut self, range: LsnRange, found: &Findings) -> bool {
        self.seeker.settle(range, found)
    }

    /// Whether the target is found, whatever comes behind it.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.seeker.is_decided()
    }

    /// The last record that was whole.
    #[must_use]
    pub fn last_record(&self) -> Option<RecordBounds> {
        self.decoder.last_record()
    }

    /// The first byte that was not decoded.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Where the next byte to be fed belongs.
    #[must_use]
    pub const fn fed(&self) -> Lsn {
        self.decoder.fed()
    }

    #[must_use]
    pub fn finish(self) -> Findings {
        self.seeker.finish()
    }
}

fn decoder(start: &ScanStart, from: Lsn) -> WalDecoder {
    WalDecoder::new(from, start.timeline, start.segment_size)
        .with_system_identifier(start.system_identifier)
        .with_major(start.major)
}

#[cfg(test)]
mod tests;
