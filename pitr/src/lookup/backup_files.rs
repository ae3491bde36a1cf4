//! Where the blocks of a backup are, for the next one: its packs, its maps by path, and the hashes of its blocks.

use std::collections::{BTreeMap, HashMap};

use crate::codec;
use crate::repository::LineageStore;
use crate::repository::backup::pack::FRAME_BYTES;
use crate::repository::backup::{BackupManifest, ContentsLine, FileEntry, PackId, StoredPath};
use crate::repository::hash::{BlockHash, ContentHash};
use crate::restore::contents::{self, MapRef};
use crate::restore::enveloped_lines::{LineSink, json};
use crate::restore::files::{FileMap, PackTable, read_range};
use crate::restore::{Error, Result};

/// What the contents of a backup say of packs and maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupFiles {
    /// Size of each pack's object.
    pub packs: BTreeMap<PackId, u64>,
    /// How many bytes the frames of each pack take, where that is told.
    pub frame_bytes: BTreeMap<PackId, u64>,
    /// Those that say where they begin, in the order of paths.
    pub maps: Vec<ListedMap>,
}

/// A map that holds the files from one path up to where the next map begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMap {
    pub first: StoredPath,
    pub hash: ContentHash,
    pub files: u64,
    pub plain_bytes: u64,
    pub stored_bytes: u64,
}

impl LineSink for BackupFiles {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match json(line)? {
            ContentsLine::Pack { id, bytes, frame_bytes, .. } => {
                if let Some(frame_bytes) = frame_bytes {
                    self.frame_bytes.insert(id.clone(), frame_bytes);
                }
                self.packs.insert(id, bytes);
            }
            ContentsLine::Map { hash, files, plain_bytes, stored_bytes, first: Some(first) } => {
                self.maps.push(ListedMap { first, hash, files, plain_bytes, stored_bytes });
            }
            _ => {}
        }
        Ok(())
    }
}

impl BackupFiles {
    /// # Errors
    /// The repository fails, or the contents are missing, damaged or those of another backup.
    pub async fn load(lineage: &LineageStore, manifest: &BackupManifest) -> Result<Self> {
        let mut files = contents::newest(lineage, manifest, Self::default).await?.lines;
        files.maps.sort_by(|a, b| a.first.cmp(&b.first));
        Ok(files)
    }
}

/// The files of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFiles {
    pub packs: Vec<PackId>,
    /// In the order of paths.
    pub files: Vec<FileEntry>,
}

impl MapFiles {
    /// # Errors
    /// The repository fails, or the map is missing or damaged.
    pub async fn load(lineage: &LineageStore, map: &ListedMap) -> Result<Self> {
        let wanted = MapRef { hash: map.hash, files: map.files, plain_bytes: map.plain_bytes };
        let FileMap { packs, files } = FileMap::load(lineage, &wanted).await?;
        let sorted =
            files.is_sorted_by(|a, b| a.path < b.path) && files.first().is_none_or(|file| file.path >= map.first);
        if sorted {
            return Ok(Self { packs, files });
        }
        let object = lineage.layout().map(&map.hash).to_string();
        Err(Error::Damaged { object, reason: "has files that are not in order".to_owned() })
    }
}

/// The hashes of all blocks of a pack, by frame and place in the frame's plain content.
#[derive(Debug, Default)]
pub struct PackBlocks {
    frames: HashMap<u64, FrameBlocks>,
    blocks: usize,
}

#[derive(Debug)]
struct FrameBlocks {
    /// Where each block begins, and behind the last one where that ends.
    starts: Vec<u32>,
    hashes: Vec<BlockHash>,
}

impl PackBlocks {
    /// `size` is that of the pack's object, where it is known.
    ///
    /// # Errors
    /// The repository fails, or the pack is missing or damaged.
    pub async fn load(lineage: &LineageStore, pack: &PackId, size: Option<u64>) -> Result<Self> {
        let table = match size {
            Some(size) => PackTable::load_sized(lineage, pack, size).await?,
            None => PackTable::load(lineage, pack).await?,
        };
        let mut blocks = 0;
        let frames = table.into_frames().map(|(offset, packed)| {
            blocks += packed.len();
            let mut starts = vec![0_u32];
            let mut end = 0_u32;
            for block in &packed {
                end = end.saturating_add(u32::from(block.bytes));
                starts.push(end);
            }
            let hashes = packed.iter().map(|block| block.hash).collect();
            (offset, FrameBlocks { starts, hashes })
        });
        let frames = frames.collect();
        Ok(Self { frames, blocks })
    }

    /// Memory that this takes, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.blocks * 20 + self.frames.len() * 96
    }

    /// The hash of the block of `bytes` bytes that begins at byte `at` of the frame at `offset`; none where no block of that
    /// size begins there.
    #[must_use]
    pub fn hash(&self, offset: u64, at: u32, bytes: usize) -> Option<BlockHash> {
        let frame = self.frames.get(&offset)?;
        let index = frame.starts.binary_search(&at).ok()?;
        let end = frame.starts.get(index + 1)?;
        let same_size = usize::try_from(end - at).is_ok_and(|found| found == bytes);
        frame.hashes.get(index).filter(|_| same_size).copied()
    }
}

/// The plain content of the frame that stands between two positions of a pack.
///
/// # Errors
/// The repository fails, or the pack is missing or damaged.
pub async fn read_frame(lineage: &LineageStore, pack: &PackId, start: u64, end: u64) -> Result<Vec<u8>> {
    let key = lineage.layout().pack(pack);
    let stored = read_range(lineage, &key, start, end).await?;
    codec::decompress(&stored, FRAME_BYTES as u64).map_err(|error| Error::Damaged {
        object: key.to_string(),
        reason: format!("has a frame at byte {start}: {error}"),
    })
}
