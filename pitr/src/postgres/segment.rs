//! WAL segments: sizes, numbers and file names (`src/include/access/xlog_internal.h`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::timeline::is_upper_hex;
use super::{Lsn, TimelineId};

/// Bytes in one WAL segment: a power of two from 1 MiB to 1 GiB, chosen by `initdb --wal-segsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WalSegmentSize(u32);

/// The number is not a size a WAL segment can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL segment size {0}, expected a power of two from 1 MiB to 1 GiB")]
pub struct InvalidSegmentSize(u32);

impl WalSegmentSize {
    /// What `initdb` chooses by itself: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// # Errors
    /// Not a power of two from 1 MiB to 1 GiB.
    pub const fn new(bytes: u32) -> Result<Self, InvalidSegmentSize> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Ok(Self(bytes))
        } else {
            Err(InvalidSegmentSize(bytes))
        }
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0 as u64
    }

    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Segments that share the middle part of a file name (`XLogSegmentsPerXLogId`).
    #[must_use]
    pub const fn segments_per_log(self) -> u64 {
        0x1_0000_0000 / self.as_u64()
    }

    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.as_u64() / self.as_u64())
    }

    /// The segment that holds the byte before `lsn`: where what ends at `lsn` ends (`XLByteToPrevSeg`).
    #[must_use]
    pub const fn segment_before(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.as_u64().saturating_sub(1) / self.as_u64())
    }

    #[must_use]
    pub const fn offset_of(self, lsn: Lsn) -> u32 {
        (lsn.as_u64() % self.as_u64()) as u32
    }

    #[must_use]
    pub const fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn::new(segment.0.saturating_mul(self.as_u64()))
    }

    #[must_use]
    pub const fn end_of(self, segment: SegmentNumber) -> Lsn {
        self.start_of(SegmentNumber(segment.0.saturating_add(1)))
    }
}

impl TryFrom<u32> for WalSegmentSize {
    type Error = InvalidSegmentSize;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl From<WalSegmentSize> for u32 {
    fn from(size: WalSegmentSize) -> Self {
        size.0
    }
}

/// Position of a segment in the WAL: its first byte divided by the segment size (`XLogSegNo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The file name on `tli`, and the number of its log (the middle part), which needs the segment size.
    #[must_use]
    pub const fn name(self, tli: TimelineId, size: WalSegmentSize) -> SegmentName {
        let per_log = size.segments_per_log();
        SegmentName { tli, log: (self.0 / per_log) as u32, segment: (self.0 % per_log) as u32 }
    }
}

/// A WAL file name: timeline, log and segment, eight upper-case hexadecimal digits each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    tli: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    #[must_use]
    pub const fn tli(self) -> TimelineId {
        self.tli
    }

    /// The middle part of the name.
    #[must_use]
    pub const fn log(self) -> u32 {
        self.log
    }

    /// The segment's number, or none where the name cannot exist with this segment size.
    #[must_use]
    pub const fn number(self, size: WalSegmentSize) -> Option<SegmentNumber> {
        let per_log = size.segments_per_log();
        if (self.segment as u64) < per_log {
            Some(SegmentNumber(self.log as u64 * per_log + self.segment as u64))
        } else {
            None
        }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.tli.as_u32(), self.log, self.segment)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the name of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL segment name \"{0}\", expected 24 upper-case hexadecimal digits")]
pub struct ParseSegmentNameError(String);

impl FromStr for SegmentName {
    type Err = ParseSegmentNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseSegmentNameError(text.to_owned());
        if text.len() != 24 || !text.bytes().all(is_upper_hex) {
            return Err(invalid());
        }
        let part = |range| text.get(range).and_then(|t| u32::from_str_radix(t, 16).ok()).ok_or_else(invalid);
        Ok(Self { tli: TimelineId::new(part(0..8)?).ok_or_else(invalid)?, log: part(8..16)?, segment: part(16..24)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn names_follow_the_segment_size() {
        let table = [
            (1 << 20, 0x1_0010_0000_u64, "000000010000000100000001"),
            (16 << 20, 0x1_0100_0000, "000000010000000100000001"),
            (16 << 20, 0xFFFF_FFFF, "0000000100000000000000FF"),
            (64 << 20, 0xFFFF_FFFF, "00000001000000000000003F"),
            (1 << 30, 0xFFFF_FFFF, "000000010000000000000003"),
        ];
        for (bytes, lsn, expected) in table {
            let size = WalSegmentSize::new(bytes).unwrap();
            let segment = size.segment_of(Lsn::new(lsn));
            assert_eq!(segment.name(TimelineId::FIRST, size).to_string(), expected);
            assert_eq!(name(expected).number(size), Some(segment));
        }
    }

    #[test]
    fn name_beyond_the_log_does_not_exist() {
        let size = WalSegmentSize::new(64 << 20).unwrap();
        assert_eq!(name("000000010000000000000040").number(size), None);
    }

    #[test]
    fn refuses_names_of_other_files() {
        for text in [
            "",
            "00000001000000000000000",
            "0000000100000000000000010",
            "00000000000000000000000A",
            "00000001000000000000000a",
            "000000010000000000000001.partial",
            "+00000010000000000000001",
        ] {
            assert!(text.parse::<SegmentName>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn end_at_a_boundary_belongs_to_the_segment_before() {
        let size = WalSegmentSize::DEFAULT;
        let boundary = Lsn::new(0x0300_0000);
        assert_eq!(size.segment_of(boundary).as_u64(), 3);
        assert_eq!(size.segment_before(boundary).as_u64(), 2);
        assert_eq!(size.start_of(SegmentNumber::new(3)), boundary);
        assert_eq!(size.end_of(SegmentNumber::new(2)), boundary);
    }

    #[test]
    fn refuses_sizes_no_server_has() {
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 1 << 31] {
            assert!(WalSegmentSize::new(bytes).is_err(), "{bytes} was accepted");
        }
    }
}
