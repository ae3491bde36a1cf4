//! WAL in the repository: whole segments, tails of the open segment, history files, and what else a server archives. Each
//! is an enveloped object whose zstd frames are PostgreSQL's own bytes.

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::hash::ContentHash;
use crate::postgres::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};

/// Header of `<SEGMENT>.zst`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentHeader {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    /// The file name, 24 hexadecimal digits.
    pub segment: String,
    pub start_lsn: Lsn,
    pub wal_segment_size: WalSegmentSize,
    /// Major version by the magic of the first page.
    pub postgres_major: u16,
    /// Size of the plain content: the segment size.
    pub bytes: u64,
    /// Hash of the plain content.
    pub blake3: ContentHash,
}

impl Document for SegmentHeader {
    const KIND: &'static str = "wal-segment";
}

/// Header of `<SEGMENT>.tail/<from>-<to>.zst`: the bytes from `from_lsn` to `to_lsn` of a segment that is still open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TailHeader {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub segment: String,
    pub wal_segment_size: WalSegmentSize,
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
    pub bytes: u64,
    pub blake3: ContentHash,
}

impl Document for TailHeader {
    const KIND: &'static str = "wal-tail";
}

/// Header of `<TLI>.history.zst`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HistoryHeader {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub bytes: u64,
    pub blake3: ContentHash,
}

impl Document for HistoryHeader {
    const KIND: &'static str = "wal-history";
}

/// Header of `<SEGMENT>.<offset>.backup.zst` and `<SEGMENT>.partial.zst`: kept for people, never read by a recovery.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchivedFileHeader {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    /// The file name.
    pub file: String,
    pub bytes: u64,
    pub blake3: ContentHash,
}

impl Document for ArchivedFileHeader {
    const KIND: &'static str = "wal-file";
}
