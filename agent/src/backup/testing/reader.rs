//! Reads backups by what `docs/format.md` says, sharing no code with the writer but the parsers of the format.

use std::collections::{BTreeMap, HashMap};

use pitr::repository::LineageStore;
use pitr::repository::backup::file_map::{FileMapPacks, FrameExtent};
use pitr::repository::backup::pack::{self, PackedFrame};
use pitr::repository::backup::{
    BackupId, BackupManifest, ContentsHeader, ContentsLine, Extent, FileEntry, FileMapHeader, PackId,
};
use pitr::repository::hash::{BlockHash, ContentHash};

const LIMIT: u64 = 1 << 30;

#[derive(Clone, PartialEq, Eq)]
pub struct ReadFile {
    pub content: Vec<u8>,
    pub mode: u32,
    pub mtime: i64,
}

impl std::fmt::Debug for ReadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.content.len(), self.mode)
    }
}

/// A pack with its table.
struct Pack {
    bytes: Vec<u8>,
    frames: HashMap<u64, PackedFrame>,
}

pub struct Reader {
    lineage: LineageStore,
    packs: HashMap<PackId, Pack>,
    /// Every pack and frame that was needed, with its stored bytes.
    pub live: BTreeMap<(PackId, u64), u64>,
}

impl Reader {
    pub fn new(lineage: &LineageStore) -> Self {
        Self { lineage: lineage.clone(), packs: HashMap::new(), live: BTreeMap::new() }
    }

    /// The manifest and lines of a backup.
    pub async fn backup(&self, id: &BackupId) -> (BackupManifest, Vec<ContentsLine>) {
        let layout = self.lineage.layout();
        let manifest: BackupManifest = self.lineage.get(&layout.manifest(id)).await.unwrap();
        let (header, frames) = self.lineage.get_enveloped::<ContentsHeader>(&layout.contents(id), LIMIT).await.unwrap();
        let lines = pitr::codec::decompress(&frames, LIMIT).unwrap();
        assert_eq!((header.bytes, header.blake3), (lines.len() as u64, ContentHash::of(&lines)));
        assert_eq!(manifest.contents, header.blake3);
        let lines = lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
        (manifest, lines.map(|line| serde_json::from_slice(line).unwrap()).collect())
    }

    /// The files of a map.
    pub async fn map(&mut self, hash: &ContentHash) -> BTreeMap<String, ReadFile> {
        let key = self.lineage.layout().map(hash);
        let (header, frames) = self.lineage.get_enveloped::<FileMapHeader>(&key, LIMIT).await.unwrap();
        let lines = pitr::codec::decompress(&frames, LIMIT).unwrap();
        assert_eq!((header.bytes, header.blake3), (lines.len() as u64, ContentHash::of(&lines)));
        assert_eq!(header.blake3, *hash);
        let mut lines = lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
        let packs: FileMapPacks = serde_json::from_slice(lines.next().unwrap()).unwrap();
        let mut files = BTreeMap::new();
        let mut last = None;
        for line in lines {
            let entry: FileEntry = serde_json::from_slice(line).unwrap();
            assert!(last.as_ref().is_none_or(|last| *last < entry.path), "{} is out of order", entry.path);
            last = Some(entry.path.clone());
            let content = self.content(&entry, &packs.packs).await;
            assert_eq!(content.len() as u64, entry.size, "{}", entry.path);
            let file = ReadFile { content, mode: entry.mode, mtime: entry.mtime };
            assert!(files.insert(entry.path.to_string(), file).is_none());
        }
        assert_eq!(files.len() as u64, header.files);
        files
    }

    async fn content(&mut self, entry: &FileEntry, packs: &[PackId]) -> Vec<u8> {
        let mut content = Vec::new();
        for extent in &entry.extents {
            match extent {
                Extent::Zeros { bytes } => content.resize(content.len() + *bytes as usize, 0),
                Extent::Frame(frame) => {
                    let plain = self.frame(&packs[frame.pack as usize], frame).await;
                    let at = frame.at as usize;
                    content.extend_from_slice(&plain[at..at + frame.bytes as usize]);
                }
            }
        }
        content
    }

    async fn frame(&mut self, id: &PackId, extent: &FrameExtent) -> Vec<u8> {
        if !self.packs.contains_key(id) {
            let key = self.lineage.layout().pack(id);
            let bytes = self.lineage.store().get(&key, None).await.unwrap().bytes(LIMIT).await.unwrap().to_vec();
            let (header, frames) = pack::frames(&bytes).unwrap();
            assert_eq!(header.id, *id);
            let frames = frames.into_iter().map(|frame| (frame.offset, frame)).collect();
            self.packs.insert(id.clone(), Pack { bytes, frames });
        }
        self.live.insert((id.clone(), extent.offset), u64::from(extent.stored_bytes));
        let pack = &self.packs[id];
        let frame = &pack.frames[&extent.offset];
        assert_eq!((frame.stored_bytes, frame.hash()), (extent.stored_bytes, extent.hash));
        let start = extent.offset as usize;
        let plain = pitr::codec::decompress(&pack.bytes[start..start + extent.stored_bytes as usize], LIMIT).unwrap();
        assert_eq!(plain.len(), frame.plain_bytes as usize);
        let mut at = 0;
        for block in &frame.blocks {
            let end = at + usize::from(block.bytes);
            assert_eq!(BlockHash::of(&plain[at..end]), block.hash);
            at = end;
        }
        assert_eq!(at, plain.len());
        plain
    }
}
