//! zstd over whole buffers.
//!
//! What we compress is always in memory at once (a segment, a run of pages, a shard of a page map), so the one-shot functions
//! of zstd serve: they need no window beside the output, and a context is worth keeping because making one costs more than
//! compressing a small frame.
//!
//! Every frame written here carries the size of its content and a checksum of it. What is read may also come from another
//! writer: several frames in a row, skippable frames, and frames without a size are understood, as `zstd -d` does.

use std::fmt;
use std::io::Cursor;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

/// No frame can grow further than this: a block is at most 128 KiB of content and at least 3 bytes of header, of which an
/// RLE block adds one.
const MAX_BLOCK_BYTES: u64 = 128 * 1024;
const MIN_STORED_BLOCK_BYTES: u64 = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("content has more than {limit} bytes, which is the most that is expected here")]
    TooLarge { limit: u64 },
    #[error("damaged zstd data: {0}")]
    Damaged(String),
    #[error("no zstd data")]
    Empty,
    #[error("zstd could not compress: {0}")]
    Compress(String),
}

pub type Result<T> = std::result::Result<T, Error>;

fn explain(code: usize) -> String {
    zstd_safe::get_error_name(code).to_ascii_lowercase()
}

/// The size that no frame with so many bytes in it exceeds.
#[must_use]
pub fn frame_bound(bytes: usize) -> usize {
    zstd_safe::compress_bound(bytes)
}

/// A compression context with its level; one for each worker.
pub struct Compressor {
    context: CCtx<'static>,
    level: i32,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Compressor {
    /// # Errors
    /// A level that zstd does not have.
    pub fn new(level: i32) -> Result<Self> {
        if !zstd::compression_level_range().contains(&level) {
            return Err(Error::Compress(format!("there is no compression level {level}")));
        }
        let mut context = CCtx::create();
        for parameter in
            [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(true), CParameter::ContentSizeFlag(true)]
        {
            context.set_parameter(parameter).map_err(|code| Error::Compress(explain(code)))?;
        }
        Ok(Self { context, level })
    }

    #[must_use]
    pub const fn level(&self) -> i32 {
        self.level
    }

    /// One frame with `bytes` in it.
    ///
    /// # Errors
    /// zstd's own, which a buffer in memory does not provoke.
    pub fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.append(bytes, &mut frame)?;
        Ok(frame)
    }

    /// One frame with `bytes` in it, behind what `target` holds already. Returns the size of the frame.
    ///
    /// # Errors
    /// As [`Compressor::compress`]; `target` is then as it was.
    pub fn append(&mut self, bytes: &[u8], target: &mut Vec<u8>) -> Result<usize> {
        let start = target.len();
        target.reserve(zstd_safe::compress_bound(bytes.len()));
        let mut cursor = Cursor::new(&mut *target);
        cursor.set_position(start as u64);
        match self.context.compress2(&mut cursor, bytes) {
            Ok(size) => Ok(size),
            Err(code) => {
                target.truncate(start);
                Err(Error::Compress(explain(code)))
            }
        }
    }
}

/// A decompression context; one for each worker.
#[derive(Default)]
pub struct Decompressor {
    context: DCtx<'static>,
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl Decompressor {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The content of all frames of `bytes`, at most `limit` bytes of it.
    ///
    /// # Errors
    /// See [`decompress`].
    pub fn decompress(&mut self, bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
        let bound = content_bound(bytes, limit)?;
        let capacity = usize::try_from(bound).map_err(|_| Error::TooLarge { limit })?;
        let mut content = Vec::with_capacity(capacity);
        if capacity == 0 {
            // zstd refuses a target of no bytes for frames without content, whose checksums still count.
            content.reserve(1);
        }
        match self.context.decompress(&mut content, bytes) {
            Ok(_) if content.len() as u64 > limit => Err(Error::TooLarge { limit }),
            Ok(_) => Ok(content),
            Err(code) if is_target_too_small(code) && bound == limit => Err(Error::TooLarge { limit }),
            Err(code) => Err(Error::Damaged(explain(code))),
        }
    }
}

/// The content of all frames of `bytes`, at most `limit` bytes of it. Memory is taken for what the frames say they hold, but
/// never more than `limit`, nor more than so many bytes could hold at all. Use a [`Decompressor`] where this happens often.
///
/// # Errors
/// [`Error::TooLarge`] beyond `limit`; [`Error::Damaged`] when a frame is cut off, is no frame, fails its checksum or holds
/// other than it declares; [`Error::Empty`] when there is nothing at all, which no writer leaves behind.
pub fn decompress(bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
    Decompressor::new().decompress(bytes, limit)
}

fn is_target_too_small(code: usize) -> bool {
    // ZSTD_error_dstSize_tooSmall; the crate hands out the negated enum value.
    const DST_SIZE_TOO_SMALL: usize = 70;
    code.wrapping_neg() == DST_SIZE_TOO_SMALL
}

/// How many bytes the frames can hold: what they declare, bounded by what is possible and what is allowed.
fn content_bound(bytes: &[u8], limit: u64) -> Result<u64> {
    if bytes.is_empty() {
        return Err(Error::Empty);
    }
    let possible = (bytes.len() as u64 / MIN_STORED_BLOCK_BYTES + 1).saturating_mul(MAX_BLOCK_BYTES);
    let mut declared: Option<u64> = Some(0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let frame_size = zstd_safe::find_frame_compressed_size(rest).map_err(|code| Error::Damaged(explain(code)))?;
        let content_size = zstd_safe::get_frame_content_size(rest)
            .map_err(|_| Error::Damaged("unreadable frame header".to_owned()))?;
        declared = match (declared, content_size) {
            (Some(sum), Some(size)) => Some(sum.saturating_add(size)),
            _ => None,
        };
        rest =
            rest.get(frame_size.max(1)..).ok_or_else(|| Error::Damaged("frame is longer than the data".to_owned()))?;
    }
    match declared {
        Some(size) if size > possible => Err(Error::Damaged("a frame declares more than it can hold".to_owned())),
        Some(size) if size > limit => Err(Error::TooLarge { limit }),
        Some(size) => Ok(size),
        None => Ok(limit.min(possible)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn frame(bytes: &[u8]) -> Vec<u8> {
        Compressor::new(1).unwrap().compress(bytes).unwrap()
    }

    /// As a pipe through another compressor leaves it: no size in the header.
    fn frame_without_size(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(bytes).unwrap();
        let frame = encoder.finish().unwrap();
        assert!(matches!(zstd_safe::get_frame_content_size(&frame), Ok(None)));
        frame
    }

    fn skippable(content: &[u8]) -> Vec<u8> {
        let mut frame = 0x184D_2A50_u32.to_le_bytes().to_vec();
        frame.extend((content.len() as u32).to_le_bytes());
        frame.extend(content);
        frame
    }

    #[test]
    fn frame_declares_size_and_carries_checksum() {
        let frame = frame(&[7; 100_000]);
        assert!(matches!(zstd_safe::get_frame_content_size(&frame), Ok(Some(100_000))));
        // Frame_Header_Descriptor, bit 2: Content_Checksum_flag.
        assert_eq!(frame[4] & 0b100, 0b100);
    }

    #[test]
    fn appends_behind_what_is_there() {
        let mut compressor = Compressor::new(3).unwrap();
        let mut pack = b"head".to_vec();
        let first = compressor.append(b"first", &mut pack).unwrap();
        let second = compressor.append(b"second", &mut pack).unwrap();
        assert_eq!(pack.len(), 4 + first + second);
        assert_eq!(decompress(&pack[4..4 + first], 100).unwrap(), b"first");
        assert_eq!(decompress(&pack[4 + first..], 100).unwrap(), b"second");
        assert_eq!(&pack[..4], b"head");
    }

    #[test]
    fn reads_frames_in_a_row_and_skips_skippable_ones() {
        let mut data = skippable(b"metadata");
        data.extend(frame(b"one "));
        data.extend(skippable(b""));
        data.extend(frame_without_size(b"two "));
        data.extend(frame(b""));
        data.extend(frame(b"three"));
        data.extend(skippable(b"end"));
        assert_eq!(decompress(&data, 1000).unwrap(), b"one two three");
        assert_eq!(decompress(&data, 13).unwrap(), b"one two three");
        assert_eq!(decompress(&data, 12), Err(Error::TooLarge { limit: 12 }));
    }

    #[test]
    fn empty_content_is_content() {
        assert_eq!(decompress(&frame(b""), 0).unwrap(), b"");
        assert_eq!(decompress(&frame_without_size(b""), 0).unwrap(), b"");
        assert_eq!(decompress(&frame_without_size(b"x"), 0), Err(Error::TooLarge { limit: 0 }));
        assert_eq!(decompress(b"", 10), Err(Error::Empty));
    }

    #[test]
    fn limit_holds_with_and_without_a_declared_size() {
        let content = vec![0; 10_000_000];
        for data in [frame(&content), frame_without_size(&content)] {
            assert_eq!(decompress(&data, 10_000_000).unwrap().len(), 10_000_000);
            assert_eq!(decompress(&data, 9_999_999), Err(Error::TooLarge { limit: 9_999_999 }));
        }
    }

    #[test]
    fn takes_no_memory_for_a_lie_in_the_header() {
        // A header that declares 2^62 bytes before one raw block of one byte.
        let mut data = vec![0x28, 0xB5, 0x2F, 0xFD, 0b1110_0000];
        data.extend((1_u64 << 62).to_le_bytes());
        data.extend([0b0000_1001, 0, 0, b'x']);
        assert!(matches!(decompress(&data, u64::MAX), Err(Error::Damaged(_))));
        assert_eq!(content_bound(&frame_without_size(b"small"), u64::MAX).unwrap() % MAX_BLOCK_BYTES, 0);
        assert!(content_bound(&frame_without_size(b"small"), u64::MAX).unwrap() < 1 << 20);
    }

    #[test]
    fn refuses_an_unknown_level() {
        assert!(Compressor::new(23).is_err());
        assert!(Compressor::new(-5).is_ok());
    }

    proptest! {
        #[test]
        fn round_trip(content in proptest::collection::vec(any::<u8>(), 0..5000), level in -3..6) {
            let data = Compressor::new(level).unwrap().compress(&content).unwrap();
            prop_assert_eq!(decompress(&data, content.len() as u64).unwrap(), content);
        }

        #[test]
        fn damage_is_noticed(content in proptest::collection::vec(any::<u8>(), 1..5000), at: usize, bit in 0..8) {
            let mut data = frame(&content);
            let at = at % data.len();
            data[at] ^= 1_u8 << bit;
            // A flip may turn bits that mean nothing; it never yields other content.
            if let Ok(read) = decompress(&data, 10_000) {
                prop_assert_eq!(read, content);
            }
        }

        #[test]
        fn a_cut_is_noticed(content in proptest::collection::vec(any::<u8>(), 1..5000), at: usize) {
            let data = frame(&content);
            prop_assert!(decompress(&data[..at % data.len()], 10_000).is_err());
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decompress(&noise, 1 << 20);
        }
    }
}
