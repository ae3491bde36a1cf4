//! What a backup says of its files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use pitr::codec;
use pitr::repository::backup::file_map::FileMapPacks;
use pitr::repository::backup::{
    BackupId, BackupManifest, ContentsHeader, ContentsLine, Extent, FileEntry, FileMapHeader, PackId, StoredPath,
};
use pitr::repository::hash::ContentHash;
use pitr::repository::{LineageObject, LineageStore};
use pitr::storage::ObjectMeta;
use serde::de::DeserializeOwned;

use super::shelf::{Place, Shelf};

const MAX_OBJECT_BYTES: u64 = 512 << 20;

/// A run of a file's bytes, and where in the file it begins.
#[derive(Debug, Clone)]
struct Run {
    begin: u64,
    bytes: u64,
    /// The frame and where in it; none for zeros.
    place: Option<(Place, u32)>,
}

/// One file of a backup.
#[derive(Debug, Clone)]
pub struct StoredFile {
    pub size: u64,
    pub mode: u32,
    runs: Vec<Run>,
}

/// A backup without the content of its files.
#[derive(Debug, Clone)]
pub struct StoredBackup {
    pub manifest: BackupManifest,
    /// With their modes.
    pub directories: BTreeMap<StoredPath, u32>,
    pub links: BTreeMap<StoredPath, String>,
    pub files: BTreeMap<StoredPath, StoredFile>,
}

impl StoredBackup {
    pub(super) async fn load(lineage: &LineageStore, id: &BackupId) -> Result<Self> {
        let manifest: BackupManifest = lineage.get(&lineage.layout().manifest(id)).await?;
        let listed = lineage.list(&lineage.layout().backup(id)).await?;
        let generation = |meta: &ObjectMeta| match lineage.layout().classify(&meta.key) {
            Some(LineageObject::Contents { generation, .. }) => Some(generation),
            _ => None,
        };
        let newest = listed.iter().filter_map(generation).max().context("the backup has no contents")?;
        let key = lineage.layout().contents_of(id, newest);
        let (header, frames) = lineage.get_enveloped::<ContentsHeader>(&key, MAX_OBJECT_BYTES).await?;
        let lines = unpack(&frames, header.bytes, header.blake3)?;
        ensure!(header.manifest_hash() == manifest.contents, "the contents are not those of the manifest");
        let mut backup =
            Self { manifest, directories: BTreeMap::new(), links: BTreeMap::new(), files: BTreeMap::new() };
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line)? {
                ContentsLine::Directory { path, mode } => drop(backup.directories.insert(path, mode)),
                ContentsLine::Link { path, target } => drop(backup.links.insert(path, target)),
                ContentsLine::Map { hash, .. } => backup.load_map(lineage, &hash).await?,
                ContentsLine::External { .. } | ContentsLine::Pack { .. } => {}
            }
        }
        ensure!(backup.files.len() as u64 == backup.manifest.files, "the maps hold {} files", backup.files.len());
        Ok(backup)
    }

    async fn load_map(&mut self, lineage: &LineageStore, hash: &ContentHash) -> Result<()> {
        let key = lineage.layout().map(hash);
        let (header, frames) = lineage.get_enveloped::<FileMapHeader>(&key, MAX_OBJECT_BYTES).await?;
        ensure!(header.blake3 == *hash, "{key} is another map");
        let lines = unpack(&frames, header.bytes, header.blake3)?;
        let mut lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let packs: FileMapPacks = parse(lines.next().context("an empty map")?)?;
        for line in lines {
            let entry: FileEntry = parse(line)?;
            let path = entry.path.clone();
            let file = StoredFile::of(entry, &packs.packs).with_context(|| format!("{path} in {key}"))?;
            ensure!(self.files.insert(path.clone(), file).is_none(), "{path} stands in two maps");
        }
        Ok(())
    }

    pub(super) fn packs(&self) -> BTreeSet<PackId> {
        let runs = self.files.values().flat_map(|file| &file.runs);
        runs.filter_map(|run| run.place.as_ref()).map(|(place, _)| place.pack.clone()).collect()
    }

    /// Bytes that stand in packs of other backups.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        let runs = self.files.values().flat_map(|file| &file.runs);
        let of_others = |run: &&Run| run.place.as_ref().is_some_and(|(place, _)| place.pack.backup != self.manifest.id);
        runs.filter(of_others).map(|run| run.bytes).sum()
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    serde_json::from_slice(line).with_context(|| String::from_utf8_lossy(line).into_owned())
}

fn unpack(frames: &[u8], bytes: u64, hash: ContentHash) -> Result<Vec<u8>> {
    let plain = codec::decompress(frames, MAX_OBJECT_BYTES)?;
    ensure!(plain.len() as u64 == bytes && ContentHash::of(&plain) == hash, "not what the header states");
    Ok(plain)
}

impl StoredFile {
    fn of(entry: FileEntry, packs: &[PackId]) -> Result<Self> {
        let mut begin = 0;
        let mut runs = Vec::with_capacity(entry.extents.len());
        for extent in &entry.extents {
            let place = match extent {
                Extent::Zeros { .. } => None,
                Extent::Frame(frame) => {
                    let pack = packs.get(usize::try_from(frame.pack)?).context("no such pack")?.clone();
                    let place =
                        Place { pack, offset: frame.offset, stored_bytes: frame.stored_bytes, hash: frame.hash };
                    Some((place, frame.at))
                }
            };
            runs.push(Run { begin, bytes: extent.bytes(), place });
            begin += extent.bytes();
        }
        ensure!(begin == entry.size, "its extents hold {begin} bytes, not {}", entry.size);
        Ok(Self { size: entry.size, mode: entry.mode, runs })
    }

    /// How many runs of frames it is made of.
    #[must_use]
    pub fn fragments(&self) -> usize {
        self.runs.iter().filter(|run| run.place.is_some()).count()
    }

    fn runs_from(&self, offset: u64) -> impl Iterator<Item = &Run> {
        let first = self.runs.partition_point(|run| run.begin + run.bytes <= offset);
        self.runs.iter().skip(first)
    }

    /// Up to where the file is stored as zeros from `offset` on.
    pub(super) fn zeros_until(&self, offset: u64) -> u64 {
        let mut end = offset;
        for run in self.runs_from(offset).take_while(|run| run.place.is_none()) {
            end = run.begin + run.bytes;
        }
        end
    }

    /// Bytes from `offset` on, fewer than asked for at the end of the file only.
    ///
    /// # Errors
    /// A frame is damaged.
    pub fn read(&self, shelf: &mut Shelf, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let end = self.size.min(offset + bytes as u64);
        let mut content = Vec::with_capacity(bytes);
        for run in self.runs_from(offset) {
            let (from, to) = (offset.max(run.begin), end.min(run.begin + run.bytes));
            if from >= to {
                break;
            }
            let (skip, length) = (usize::try_from(from - run.begin)?, usize::try_from(to - from)?);
            match &run.place {
                None => content.resize(content.len() + length, 0),
                Some((place, at)) => {
                    let frame = shelf.frame(place).with_context(|| format!("{place:?}"))?;
                    let start = usize::try_from(*at)? + skip;
                    content.extend_from_slice(frame.get(start..start + length).context("the frame is too short")?);
                }
            }
        }
        ensure!(content.len() as u64 == end.saturating_sub(offset), "the file ends early");
        Ok(content)
    }
}
