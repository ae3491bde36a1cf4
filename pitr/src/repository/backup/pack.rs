//! Packs: zstd frames one behind the other, with the hashes of their blocks at the end.
//!
//! ```text
//! skippable frame: sealed PackHeader
//! zstd frame …                                      the frames that extents refer to
//! skippable frame: table | footer                   the last bytes of the object
//!
//! table   for each frame: offset u64, stored_bytes u32, plain_bytes u32, blocks u32,
//!                         then for each block: bytes u16, hash [u8; 16]
//! footer  table_bytes u64, frames u32, table_hash [u8; 16] (first half of BLAKE3), magic "PITRPACK"
//! ```
//! All numbers are little-endian. A block is at most a page of 8192 bytes: a page of a relation, or a piece of another file;
//! the blocks of a frame in order are its plain content. `zstd -d` of a pack is the plain content of all its frames.

use serde::{Deserialize, Serialize};

use super::PackId;
use crate::postgres::PAGE_SIZE;
use crate::repository::document::Document;
use crate::repository::envelope::{self, EnvelopeError};
use crate::repository::hash::{BlockHash, ContentHash, FrameHash};

/// Plain bytes of a frame, at most: 32 pages. Larger frames compress hardly better and cost more to read for one page.
pub const FRAME_BYTES: usize = 32 * PAGE_SIZE;
/// A pack is closed once it holds this many stored bytes.
pub const PACK_BYTES: usize = 16 << 20;
/// `footer` as above.
pub const FOOTER_BYTES: usize = 8 + 4 + 16 + 8;
const MAGIC: &[u8; 8] = b"PITRPACK";

/// Header of `packs/<backup>/<number>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackHeader {
    pub id: PackId,
}

impl Document for PackHeader {
    const KIND: &'static str = "pack";
}

/// One frame, as the table of its pack has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedFrame {
    pub offset: u64,
    pub stored_bytes: u32,
    pub plain_bytes: u32,
    pub blocks: Vec<PackedBlock>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackedBlock {
    pub bytes: u16,
    pub hash: BlockHash,
}

impl PackedFrame {
    #[must_use]
    pub fn hash(&self) -> FrameHash {
        let hashes: Vec<BlockHash> = self.blocks.iter().map(|b| b.hash).collect();
        FrameHash::of(&hashes)
    }
}

/// Why bytes are not the end of a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("the pack has no footer")]
    NoFooter,
    #[error("the table of the pack is damaged: {0}")]
    Table(&'static str),
    #[error("the header of the pack cannot be used")]
    Header(#[from] EnvelopeError),
}

/// The bytes a pack begins with.
#[must_use]
pub fn header(id: &PackId) -> Vec<u8> {
    envelope::header(&PackHeader { id: id.clone() })
}

/// The bytes a pack ends with.
#[must_use]
pub fn trailer(frames: &[PackedFrame]) -> Vec<u8> {
    let mut table = Vec::new();
    for frame in frames {
        table.extend_from_slice(&frame.offset.to_le_bytes());
        table.extend_from_slice(&frame.stored_bytes.to_le_bytes());
        table.extend_from_slice(&frame.plain_bytes.to_le_bytes());
        table.extend_from_slice(&count(frame.blocks.len()).to_le_bytes());
        for block in &frame.blocks {
            table.extend_from_slice(&block.bytes.to_le_bytes());
            table.extend_from_slice(block.hash.as_bytes());
        }
    }
    let hash = ContentHash::of(&table);
    let table_bytes = table.len() as u64;
    table.extend_from_slice(&table_bytes.to_le_bytes());
    table.extend_from_slice(&count(frames.len()).to_le_bytes());
    table.extend(hash.as_bytes().iter().take(16));
    table.extend_from_slice(MAGIC);
    envelope::skippable_frame(&table)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What the last bytes of a pack say of its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    table_bytes: u64,
    frames: u32,
    table_hash: [u8; 16],
}

impl Footer {
    /// Reads the last [`FOOTER_BYTES`] of a pack.
    ///
    /// # Errors
    /// The bytes are not a footer.
    pub fn parse(end_of_pack: &[u8]) -> Result<Self, PackError> {
        let start = end_of_pack.len().checked_sub(FOOTER_BYTES).ok_or(PackError::NoFooter)?;
        let mut reader = Reader(end_of_pack.get(start..).ok_or(PackError::NoFooter)?);
        let footer = (|| {
            let footer = Self { table_bytes: reader.u64()?, frames: reader.u32()?, table_hash: reader.array()? };
            (reader.array::<8>()? == *MAGIC).then_some(footer)
        })();
        footer.ok_or(PackError::NoFooter)
    }

    /// How many bytes before the footer the table takes.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        self.table_bytes
    }

    /// Reads the table, which stands right before the footer.
    ///
    /// # Errors
    /// The table is not the one the footer names.
    pub fn table(&self, bytes: &[u8]) -> Result<Vec<PackedFrame>, PackError> {
        if bytes.len() as u64 != self.table_bytes {
            return Err(PackError::Table("not the stated length"));
        }
        if !ContentHash::of(bytes).as_bytes().starts_with(&self.table_hash) {
            return Err(PackError::Table("not the stated hash"));
        }
        let mut reader = Reader(bytes);
        let mut frames = Vec::new();
        for _ in 0..self.frames {
            frames.push(reader.frame().ok_or(PackError::Table("it ends within a frame"))?);
        }
        if reader.0.is_empty() { Ok(frames) } else { Err(PackError::Table("it goes on behind its frames")) }
    }
}

/// The frames of a whole pack in memory.
///
/// # Errors
/// The header, footer or table is damaged.
pub fn frames(pack: &[u8]) -> Result<(PackHeader, Vec<PackedFrame>), PackError> {
    let (header, _) = envelope::open::<PackHeader>(pack)?;
    let footer = Footer::parse(pack)?;
    let table_end = pack.len().saturating_sub(FOOTER_BYTES);
    let table_bytes = usize::try_from(footer.table_bytes).map_err(|_| PackError::NoFooter)?;
    let table_start = table_end.checked_sub(table_bytes).ok_or(PackError::NoFooter)?;
    let table = pack.get(table_start..table_end).ok_or(PackError::NoFooter)?;
    Ok((header, footer.table(table)?))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn frame(&mut self) -> Option<PackedFrame> {
        let (offset, stored_bytes, plain_bytes) = (self.u64()?, self.u32()?, self.u32()?);
        let blocks = self.u32()?;
        let mut list = Vec::new();
        for _ in 0..blocks {
            let bytes = u16::from_le_bytes(self.array()?);
            list.push(PackedBlock { bytes, hash: BlockHash::from_bytes(self.array()?) });
        }
        Some(PackedFrame { offset, stored_bytes, plain_bytes, blocks: list })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<PackedFrame>) {
        let id: PackId = "20261122T063100Z/00000000".parse().unwrap();
        let mut pack = header(&id);
        let mut frames = Vec::new();
        for plain in [vec![1_u8; 8192 * 2], vec![2_u8; 100]] {
            let stored = zstd::bulk::compress(&plain, 1).unwrap();
            frames.push(PackedFrame {
                offset: pack.len() as u64,
                stored_bytes: stored.len() as u32,
                plain_bytes: plain.len() as u32,
                blocks: plain
                    .chunks(PAGE_SIZE)
                    .map(|b| PackedBlock { bytes: b.len() as u16, hash: BlockHash::of(b) })
                    .collect(),
            });
            pack.extend_from_slice(&stored);
        }
        pack.extend_from_slice(&trailer(&frames));
        (pack, frames)
    }

    #[test]
    fn table_is_read_back_and_zstd_reads_the_content() {
        let (pack, expected) = sample();
        let (header, read) = frames(&pack).unwrap();
        assert_eq!(header.id.to_string(), "20261122T063100Z/00000000");
        assert_eq!(read, expected);
        assert_eq!(zstd::decode_all(&pack[..]).unwrap().len(), 8192 * 2 + 100);
    }

    #[test]
    fn damage_to_the_end_is_found() {
        let (pack, expected) = sample();
        let trailer_bytes = trailer(&expected).len();
        for position in pack.len() - trailer_bytes + 8..pack.len() {
            let mut damaged = pack.clone();
            damaged[position] ^= 1;
            assert!(frames(&damaged).is_err(), "byte {position}");
        }
        for length in 0..pack.len() {
            assert!(frames(&pack[..length]).is_err(), "{length} bytes were accepted");
        }
    }
}
