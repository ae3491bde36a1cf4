//! A pack as it fills.

use bytes::Bytes;
use pitr::codec::{self, Compressor};
use pitr::repository::backup::PackId;
use pitr::repository::backup::pack::{self, FRAME_BYTES, PACK_BYTES, PackedBlock, PackedFrame};
use pitr::repository::hash::FrameHash;

/// Bounds the table of a pack whose pages compress to almost nothing: half a gibibyte of pages.
const PACK_MAX_FRAMES: usize = 2048;

/// Where a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlace {
    pub pack: u32,
    pub offset: u64,
    pub stored_bytes: u32,
    pub hash: FrameHash,
}

#[derive(Debug)]
pub struct PackWriter {
    id: PackId,
    content: Vec<u8>,
    frames: Vec<PackedFrame>,
}

/// The object that a pack became.
#[derive(Clone, Debug)]
pub struct FinishedPack {
    pub id: PackId,
    pub chunks: Vec<Bytes>,
    /// What all frames take together.
    pub frame_bytes: u64,
}

impl FinishedPack {
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }
}

impl PackWriter {
    #[must_use]
    pub fn new(id: PackId) -> Self {
        // Once, for all it will hold: the pages of what stays unused are never touched.
        let mut content = Vec::with_capacity(PACK_BYTES + 2 * FRAME_BYTES);
        content.extend_from_slice(&pack::header(&id));
        Self { id, content, frames: Vec::new() }
    }

    /// # Errors
    /// zstd fails.
    pub fn append(
        &mut self,
        compressor: &mut Compressor,
        plain: &[u8],
        blocks: &[PackedBlock],
    ) -> codec::Result<FramePlace> {
        let offset = self.content.len() as u64;
        let stored_bytes = compressor.append(plain, &mut self.content)?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let frame = PackedFrame {
            offset,
            stored_bytes: count(stored_bytes),
            plain_bytes: count(plain.len()),
            blocks: blocks.to_vec(),
        };
        let place = FramePlace { pack: self.id.number, offset, stored_bytes: frame.stored_bytes, hash: frame.hash() };
        self.frames.push(frame);
        Ok(place)
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.content.len() >= PACK_BYTES || self.frames.len() >= PACK_MAX_FRAMES
    }

    #[must_use]
    pub fn finish(self) -> FinishedPack {
        let trailer = pack::trailer(&self.frames);
        let frame_bytes = self.frames.iter().map(|frame| u64::from(frame.stored_bytes)).sum();
        FinishedPack { id: self.id, chunks: vec![self.content.into(), trailer.into()], frame_bytes }
    }
}
