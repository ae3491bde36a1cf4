//! Frames: from stored bytes to plain bytes that are proven to be those the extents name.

use std::fmt;

use zstd::zstd_safe::{self, DCtx};

use super::read_plan::{FileRun, FrameRead};
use crate::postgres::PAGE_SIZE;
use crate::repository::backup::pack::{FRAME_BYTES, PackedBlock};
use crate::repository::hash::{BlockHash, FrameHash};

/// What a worker keeps between frames.
pub(crate) struct FrameDecoder {
    context: DCtx<'static>,
    plain: Vec<u8>,
    blocks: Vec<BlockHash>,
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameDecoder").finish_non_exhaustive()
    }
}

/// Why a frame is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// Not what the extents name, whatever its blocks are.
    Damaged(String),
    /// Not what the extents name if its blocks are where they should be by the extents; the pack's table knows better.
    OtherBlocks,
}

impl FrameDecoder {
    pub(crate) fn new() -> Self {
        Self { context: DCtx::create(), plain: Vec::with_capacity(FRAME_BYTES), blocks: Vec::new() }
    }

    /// The plain content of `frame`, whose stored bytes are `stored`.
    ///
    /// The hash of a frame is one over the hashes of its blocks, and where blocks begin depends on the files that were put
    /// into it. The extents tell that of every frame whose files are all in one map, so the table of the pack (`table`) is
    /// only needed for the others.
    ///
    /// # Errors
    /// The content is damaged, or is not what `frame` names.
    pub(crate) fn decode(
        &mut self,
        frame: &FrameRead,
        stored: &[u8],
        table: Option<&[PackedBlock]>,
    ) -> Result<&[u8], FrameFault> {
        self.decompress(stored)?;
        self.blocks.clear();
        match table {
            Some(table) => self.hash_table_blocks(table)?,
            None => self.hash_expected_blocks(&frame.runs),
        }
        if FrameHash::of(&self.blocks) != frame.hash {
            return Err(match table {
                Some(_) => FrameFault::Damaged("holds other bytes than the file map names".to_owned()),
                None => FrameFault::OtherBlocks,
            });
        }
        let needed = frame.runs.iter().map(|run| u64::from(run.at) + u64::from(run.bytes)).max().unwrap_or(0);
        if self.plain.len() as u64 >= needed {
            Ok(&self.plain)
        } else {
            Err(FrameFault::Damaged("is shorter than the file map says".to_owned()))
        }
    }

    fn decompress(&mut self, stored: &[u8]) -> Result<(), FrameFault> {
        let damaged = |reason: &str| FrameFault::Damaged(format!("cannot be decompressed: {reason}"));
        if zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
            return Err(damaged("it is not one whole zstd frame"));
        }
        self.plain.clear();
        // The capacity bounds what zstd writes: a frame that declares more fails.
        match self.context.decompress(&mut self.plain, stored) {
            Ok(_) => Ok(()),
            Err(code) => Err(damaged(zstd_safe::get_error_name(code))),
        }
    }

    /// Blocks begin at every page from the beginning of each run, and from the end of the run before it.
    fn hash_expected_blocks(&mut self, runs: &[FileRun]) {
        let mut from = 0;
        for run in runs {
            let at = run.at as usize;
            // Of two runs over the same bytes the first counts.
            if at < from {
                continue;
            }
            let end = at.saturating_add(run.bytes as usize);
            self.hash_pages(from, at);
            self.hash_pages(at, end);
            from = end;
        }
        self.hash_pages(from, self.plain.len());
    }

    fn hash_pages(&mut self, from: usize, to: usize) {
        let Some(bytes) = self.plain.get(from..to.min(self.plain.len())) else { return };
        self.blocks.extend(bytes.chunks(PAGE_SIZE).map(BlockHash::of));
    }

    fn hash_table_blocks(&mut self, table: &[PackedBlock]) -> Result<(), FrameFault> {
        let mut rest = self.plain.as_slice();
        for block in table {
            let (bytes, after) = rest
                .split_at_checked(usize::from(block.bytes))
                .ok_or_else(|| FrameFault::Damaged("is shorter than the table of its pack says".to_owned()))?;
            self.blocks.push(BlockHash::of(bytes));
            rest = after;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(FrameFault::Damaged("is longer than the table of its pack says".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of the pieces, each of which begins a block.
    fn frame(pieces: &[&[u8]], runs: Vec<FileRun>) -> (FrameRead, Vec<u8>, Vec<PackedBlock>) {
        let plain = pieces.concat();
        let blocks: Vec<PackedBlock> = pieces
            .iter()
            .flat_map(|piece| piece.chunks(PAGE_SIZE))
            .map(|block| PackedBlock { bytes: block.len() as u16, hash: BlockHash::of(block) })
            .collect();
        let stored = zstd::bulk::compress(&plain, 1).unwrap();
        let hash = FrameHash::of(&blocks.iter().map(|block| block.hash).collect::<Vec<_>>());
        (FrameRead { offset: 0, stored_bytes: stored.len() as u32, hash, runs }, stored, blocks)
    }

    fn run(at: u32, bytes: u32) -> FileRun {
        FileRun { at, bytes, file: 0, file_offset: 0 }
    }

    #[test]
    fn frame_of_pages_is_proven_from_any_part_of_it() {
        let pages = [[1; PAGE_SIZE], [2; PAGE_SIZE], [3; PAGE_SIZE]].concat();
        for runs in [vec![run(0, 24576)], vec![run(8192, 8192)], vec![run(0, 8192), run(16384, 8192)]] {
            let (frame, stored, _) = frame(&[&pages], runs);
            assert_eq!(FrameDecoder::new().decode(&frame, &stored, None).unwrap(), pages);
        }
    }

    #[test]
    fn shared_frame_is_proven_by_its_users_or_by_the_table() {
        let pieces: [&[u8]; 3] = [&[1; 100], &[2; 9000], &[3; 7]];
        let all = vec![run(0, 100), run(100, 9000), run(9100, 7)];
        let (whole, stored, table) = frame(&pieces, all);
        let mut decoder = FrameDecoder::new();
        assert_eq!(decoder.decode(&whole, &stored, None).unwrap(), pieces.concat());

        let part = FrameRead { runs: vec![run(9100, 7)], ..whole };
        assert_eq!(decoder.decode(&part, &stored, None), Err(FrameFault::OtherBlocks));
        assert_eq!(decoder.decode(&part, &stored, Some(&table)).unwrap(), pieces.concat());
    }

    #[test]
    fn two_users_of_the_same_bytes_do_not_confuse() {
        let (frame, stored, _) = frame(&[&[7; 100]], vec![run(0, 100), run(0, 100)]);
        assert!(FrameDecoder::new().decode(&frame, &stored, None).is_ok());
    }

    #[test]
    fn another_frame_is_never_taken() {
        let (frame_a, _, table_a) = frame(&[&[1; 100]], vec![run(0, 100)]);
        let (_, stored_b, table_b) = frame(&[&[2; 100]], vec![run(0, 100)]);
        let mut decoder = FrameDecoder::new();
        assert_eq!(decoder.decode(&frame_a, &stored_b, None), Err(FrameFault::OtherBlocks));
        for table in [table_a, table_b, Vec::new()] {
            assert!(matches!(decoder.decode(&frame_a, &stored_b, Some(&table)), Err(FrameFault::Damaged(_))));
        }
    }

    #[test]
    fn neither_larger_frames_nor_two_in_a_row_are_taken() {
        let mut decoder = FrameDecoder::new();
        let (large, stored, _) = frame(&[&vec![0; FRAME_BYTES + 1]], vec![run(0, 1)]);
        assert!(matches!(decoder.decode(&large, &stored, None), Err(FrameFault::Damaged(_))));
        let (one, stored, _) = frame(&[&[1; 100]], vec![run(0, 100)]);
        let twice = [stored.clone(), stored].concat();
        assert!(matches!(decoder.decode(&one, &twice, None), Err(FrameFault::Damaged(_))));
    }

    #[test]
    fn a_run_beyond_the_end_is_damage() {
        let (frame, stored, _) = frame(&[&[1; 100]], vec![run(0, 100), run(100, 50)]);
        assert!(FrameDecoder::new().decode(&frame, &stored, None).is_err());
    }
}
