//! WAL summaries in the repository: enveloped objects whose zstd frame is a summary's stored form.
//!
//! The header alone says when transactions ended, so a moment is found by reading a few kilobytes of each.

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::envelope::{self, EnvelopeError};
use super::hash::ContentHash;
use super::layout::SummaryKey;
use crate::codec::{self, Compressor, Decompressor};
use crate::postgres::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use crate::wal_summary::{
    ContentError, DECODER_VERSION, MAX_CONTENT_BYTES, TransactionTimes, WalSummary, from_bytes, to_bytes,
};

/// The header of a summary is never larger: so many bytes from the front of an object hold it.
pub const HEADER_READ_BYTES: u64 = 4096;
const ZSTD_LEVEL: i32 = 3;

/// Header of `summaries/<TLI>/<from>-<to>.zst`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SummaryHeader {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
    pub postgres_major: u16,
    pub wal_segment_size: WalSegmentSize,
    /// [`DECODER_VERSION`] of who made it. A summary of another version counts as missing.
    pub decoder: u32,
    /// Size of the plain content.
    pub bytes: u64,
    /// Hash of the plain content.
    pub blake3: ContentHash,
    #[serde(flatten)]
    pub times: TransactionTimes,
}

impl Document for SummaryHeader {
    const KIND: &'static str = "wal-summary";
}

impl SummaryHeader {
    /// This version understands the content.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        self.decoder == DECODER_VERSION
    }

    /// The key that the object must have.
    #[must_use]
    pub const fn key(&self) -> SummaryKey {
        SummaryKey { tli: self.timeline, from: self.from_lsn, to: self.to_lsn }
    }
}

/// Why bytes are not a WAL summary.
#[derive(Debug, thiserror::Error)]
pub enum SummaryObjectError {
    #[error("the WAL summary has no readable header")]
    Envelope(#[from] EnvelopeError),
    #[error("the WAL summary was made by version {found} of the decoder, this is version {DECODER_VERSION}")]
    OtherDecoder { found: u32 },
    #[error("the content of the WAL summary cannot be unpacked")]
    Codec(#[from] codec::Error),
    #[error("the content of the WAL summary is not what its header says: {0}")]
    Mismatch(&'static str),
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// The object of a summary.
///
/// # Errors
/// It is larger than any reader takes.
pub fn encode(summary: &WalSummary, system_identifier: SystemIdentifier) -> Result<Vec<u8>, SummaryObjectError> {
    let content = to_bytes(summary)?;
    let header = SummaryHeader {
        system_identifier,
        timeline: summary.timeline,
        from_lsn: summary.from,
        to_lsn: summary.to,
        postgres_major: summary.major.as_u16(),
        wal_segment_size: summary.segment_size,
        decoder: DECODER_VERSION,
        bytes: content.len() as u64,
        blake3: ContentHash::of(&content),
        times: summary.times,
    };
    let mut object = envelope::header(&header);
    Compressor::new(ZSTD_LEVEL)?.append(&content, &mut object)?;
    Ok(object)
}

/// Reads the header from the first [`HEADER_READ_BYTES`] bytes of an object, or from all of it.
///
/// # Errors
/// It is not that of a WAL summary.
pub fn decode_header(front: &[u8]) -> Result<SummaryHeader, SummaryObjectError> {
    Ok(envelope::open(front)?.0)
}

/// Reads what [`encode`] made.
///
/// # Errors
/// It is something else, damaged, or of another decoder.
pub fn decode(object: &[u8]) -> Result<(SummaryHeader, WalSummary), SummaryObjectError> {
    let (header, frames): (SummaryHeader, _) = envelope::open(object)?;
    if !header.is_current() {
        return Err(SummaryObjectError::OtherDecoder { found: header.decoder });
    }
    if header.bytes > MAX_CONTENT_BYTES {
        return Err(ContentError::TooLarge { bytes: header.bytes }.into());
    }
    let content = Decompressor::new().decompress(frames, header.bytes)?;
    if content.len() as u64 != header.bytes || ContentHash::of(&content) != header.blake3 {
        return Err(SummaryObjectError::Mismatch("size or hash"));
    }
    let summary = from_bytes(&content)?;
    let same = summary.timeline == header.timeline
        && (summary.from, summary.to) == (header.from_lsn, header.to_lsn)
        && summary.major.as_u16() == header.postgres_major
        && summary.segment_size == header.wal_segment_size
        && summary.times == header.times;
    if same { Ok((header, summary)) } else { Err(SummaryObjectError::Mismatch("range, server or times")) }
}
