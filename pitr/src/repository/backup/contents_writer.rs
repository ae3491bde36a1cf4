//! Writes the contents of a backup, line by line: what is in memory is compressed already.

use std::fmt;

use bytes::Bytes;

use super::{BackupId, ContentsHeader, ContentsLine, Rewritten};
use crate::codec::{self, Compressor};
use crate::repository::envelope;
use crate::repository::hash::ContentHash;

/// Plain bytes of one zstd frame.
const FRAME_BYTES: usize = 1 << 20;

pub struct ContentsWriter {
    compressor: Compressor,
    hasher: blake3::Hasher,
    plain_bytes: u64,
    pending: Vec<u8>,
    frames: Vec<Bytes>,
}

/// The object, and the hash that the manifest names.
#[derive(Debug)]
pub struct FinishedContents {
    pub hash: ContentHash,
    pub object: Vec<Bytes>,
}

impl fmt::Debug for ContentsWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentsWriter").field("plain_bytes", &self.plain_bytes).finish_non_exhaustive()
    }
}

impl ContentsWriter {
    /// # Errors
    /// A compression level that zstd does not have.
    pub fn new(compression_level: i32) -> codec::Result<Self> {
        Ok(Self {
            compressor: Compressor::new(compression_level)?,
            hasher: blake3::Hasher::new(),
            plain_bytes: 0,
            pending: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// # Errors
    /// zstd fails.
    #[expect(clippy::expect_used, reason = "lines are plain enums of text and numbers")]
    pub fn add(&mut self, line: &ContentsLine) -> codec::Result<()> {
        serde_json::to_writer(&mut self.pending, line).expect("lines always have a JSON form");
        self.pending.push(b'\n');
        if self.pending.len() >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> codec::Result<()> {
        self.hasher.update(&self.pending);
        self.plain_bytes += self.pending.len() as u64;
        self.frames.push(self.compressor.compress(&self.pending)?.into());
        self.pending.clear();
        Ok(())
    }

    /// The first generation.
    ///
    /// # Errors
    /// zstd fails.
    pub fn finish(self, id: &BackupId) -> codec::Result<FinishedContents> {
        self.finish_generation(id, None)
    }

    /// # Errors
    /// zstd fails.
    pub fn finish_generation(mut self, id: &BackupId, rewritten: Option<Rewritten>) -> codec::Result<FinishedContents> {
        if !self.pending.is_empty() || self.frames.is_empty() {
            self.flush()?;
        }
        let hash = ContentHash::from_hasher(&self.hasher);
        let header = ContentsHeader { id: id.clone(), bytes: self.plain_bytes, blake3: hash, rewritten };
        let mut object = vec![Bytes::from(envelope::header(&header))];
        object.append(&mut self.frames);
        Ok(FinishedContents { hash, object })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_frames_are_one_text() {
        let mut writer = ContentsWriter::new(1).unwrap();
        let line = |n: u32| ContentsLine::Directory { path: format!("base/{n}").try_into().unwrap(), mode: 0o700 };
        for n in 1..=60_000 {
            writer.add(&line(n)).unwrap();
        }
        let id: BackupId = "20261122T063100Z".parse().unwrap();
        let contents = writer.finish(&id).unwrap();
        assert!(contents.object.len() > 3);
        let object = contents.object.concat();
        let (header, frames) = envelope::open::<ContentsHeader>(&object).unwrap();
        let text = codec::decompress(frames, 1 << 30).unwrap();
        assert_eq!((header.id, header.bytes, header.blake3), (id, text.len() as u64, contents.hash));
        assert_eq!(ContentHash::of(&text), contents.hash);
        let last = text.strip_suffix(b"\n").unwrap().rsplit(|byte| *byte == b'\n').next().unwrap();
        assert_eq!(serde_json::from_slice::<ContentsLine>(last).unwrap(), line(60_000));
    }
}
