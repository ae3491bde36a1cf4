//! Whether files on disk hold already what a frame would bring: by the hashes of their blocks, and by nothing else.

use super::file_writer::FileWriter;
use super::read_plan::{FileRun, FrameRead};
use crate::fs::Result;
use crate::postgres::PAGE_SIZE;
use crate::repository::backup::pack::{FRAME_BYTES, PackedBlock};
use crate::repository::hash::{BlockHash, FrameHash};

/// What is known of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// All of its users have it.
    Same,
    /// These lack it.
    Differs(Vec<FileRun>),
    /// Its users are not all of the frame, whose hash is over all: the pack's table knows the hash of each block.
    NeedsTable,
}

/// What a worker keeps between frames.
#[derive(Debug, Default)]
pub(super) struct FrameComparer {
    buffer: Vec<u8>,
    hashes: Vec<BlockHash>,
    /// Bytes read from files.
    pub(super) read_bytes: u64,
}

impl FrameComparer {
    /// Compares by the frame's own hash, which takes no request.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn by_frame(&mut self, writer: &FileWriter, frame: &FrameRead) -> Result<Compared> {
        // A frame that has to be read for one of its users serves all of them.
        if frame.runs.iter().any(|run| !writer.is_there(run)) {
            return Ok(Compared::Differs(frame.runs.clone()));
        }
        let Some(end) = tiled(&frame.runs) else { return Ok(Compared::NeedsTable) };
        self.hashes.clear();
        let read_before = self.read_bytes;
        for run in &frame.runs {
            if !self.read(writer, run)? {
                return Ok(Compared::Differs(frame.runs.clone()));
            }
            self.hashes.extend(self.buffer.chunks(PAGE_SIZE).map(BlockHash::of));
        }
        if FrameHash::of(&self.hashes) == frame.hash {
            return Ok(Compared::Same);
        }
        if end == FRAME_BYTES as u64 {
            return Ok(Compared::Differs(frame.runs.clone()));
        }
        // Comes back with the table, and counts then.
        self.read_bytes = read_before;
        Ok(Compared::NeedsTable)
    }

    /// Compares each user's blocks by those that the pack's table has for the frame.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn by_blocks(
        &mut self,
        writer: &FileWriter,
        frame: &FrameRead,
        blocks: Option<&[PackedBlock]>,
    ) -> Result<Compared> {
        // A table that is not of this frame proves nothing; what is read instead will be.
        let hash_of = |blocks: &[PackedBlock]| FrameHash::of(&blocks.iter().map(|b| b.hash).collect::<Vec<_>>());
        let Some(blocks) = blocks.filter(|blocks| hash_of(blocks) == frame.hash) else {
            return Ok(Compared::Differs(frame.runs.clone()));
        };
        let mut lacking = Vec::new();
        for run in &frame.runs {
            if !(writer.is_there(run) && self.read(writer, run)? && holds_blocks(&self.buffer, run.at, blocks)) {
                lacking.push(*run);
            }
        }
        Ok(if lacking.is_empty() { Compared::Same } else { Compared::Differs(lacking) })
    }

    /// False where the file has become shorter.
    fn read(&mut self, writer: &FileWriter, run: &FileRun) -> Result<bool> {
        self.buffer.resize(run.bytes as usize, 0);
        let whole = writer.read(run, &mut self.buffer)?;
        self.read_bytes += u64::from(run.bytes);
        Ok(whole)
    }
}

/// Where runs end that are all of a frame from its start, without a gap and without two over the same bytes.
fn tiled(runs: &[FileRun]) -> Option<u64> {
    runs.iter().try_fold(0, |end, run| (u64::from(run.at) == end).then(|| end + u64::from(run.bytes)))
}

/// Whether `bytes`, from position `at` of the frame on, are its blocks there. A run that begins or ends within a block
/// cannot be told.
fn holds_blocks(bytes: &[u8], at: u32, blocks: &[PackedBlock]) -> bool {
    let (mut position, mut rest) = (0_u64, bytes);
    for block in blocks {
        if rest.is_empty() {
            break;
        }
        let from = position;
        position += u64::from(block.bytes);
        if from < u64::from(at) {
            continue;
        }
        if rest.len() == bytes.len() && from != u64::from(at) {
            return false;
        }
        match rest.split_at_checked(usize::from(block.bytes)) {
            Some((found, after)) if BlockHash::of(found) == block.hash => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(at: u32, bytes: u32) -> FileRun {
        FileRun { at, bytes, file: 0, file_offset: 0 }
    }

    #[test]
    fn only_runs_without_gap_or_overlap_are_a_whole_frame() {
        assert_eq!(tiled(&[run(0, 8192), run(8192, 10)]), Some(8202));
        for runs in [vec![run(8192, 8192)], vec![run(0, 10), run(0, 10)], vec![run(0, 10), run(11, 5)]] {
            assert_eq!(tiled(&runs), None, "{runs:?}");
        }
    }

    #[test]
    fn blocks_are_compared_where_they_begin() {
        let pieces: [&[u8]; 4] = [&[1; 8192], &[2; 8192], &[3; 100], &[4; 7]];
        let blocks: Vec<PackedBlock> =
            pieces.iter().map(|p| PackedBlock { bytes: p.len() as u16, hash: BlockHash::of(p) }).collect();
        let whole = pieces.concat();
        assert!(holds_blocks(&whole, 0, &blocks));
        assert!(holds_blocks(&whole[8192..16384], 8192, &blocks));
        assert!(holds_blocks(&whole[16384..], 16384, &blocks));
        assert!(holds_blocks(&[4; 7], 16484, &blocks));
        // Equal bytes that begin or end within a block, go on behind the frame, or are others.
        assert!(!holds_blocks(&whole[8193..16384], 8193, &blocks));
        assert!(!holds_blocks(&whole[8192..16383], 8192, &blocks));
        assert!(!holds_blocks(&[&whole[..], &[0]].concat(), 0, &blocks));
        assert!(!holds_blocks(&[9; 8192], 8192, &blocks));
        assert!(!holds_blocks(&[1; 8192], 999_999, &blocks));
    }
}
