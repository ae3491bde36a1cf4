//! The contents of a backup as a restore needs them: directories, links, files from outside, and which maps there are.

use std::sync::Arc;

use super::enveloped_lines::{self, LineSink, LinesHeader, json};
use super::{Error, Result};
use crate::repository::backup::{
    BackupId, BackupManifest, ContentsHeader, ContentsLine, ExternalRole, FIRST_GENERATION, StoredPath,
};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageObject, LineageStore};
use crate::storage::ObjectKey;

/// A file map as the contents name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRef {
    pub hash: ContentHash,
    pub files: u64,
    pub plain_bytes: u64,
}

/// A file that stood outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalFile {
    pub role: ExternalRole,
    pub path: String,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// Everything of a backup but its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Parents before children.
    pub directories: Vec<(StoredPath, u32)>,
    pub links: Vec<(StoredPath, String)>,
    pub externals: Vec<ExternalFile>,
    pub maps: Vec<MapRef>,
}

impl LinesHeader for ContentsHeader {
    fn lines_bytes(&self) -> u64 {
        self.bytes
    }

    fn lines_hash(&self) -> ContentHash {
        self.blake3
    }
}

impl LineSink for Contents {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match json(line)? {
            ContentsLine::Directory { path, mode } => self.directories.push((path, mode)),
            ContentsLine::Link { path, target } => self.links.push((path, target)),
            ContentsLine::External { role, path, mode, base64 } => {
                use base64::Engine as _;
                let content = base64::engine::general_purpose::STANDARD
                    .decode(&base64)
                    .map_err(|_| format!("holds \"{path}\" in a form that is not base64"))?;
                self.externals.push(ExternalFile { role, path, mode, content });
            }
            // The maps name the packs they need.
            ContentsLine::Pack { .. } => {}
            ContentsLine::Map { hash, files, plain_bytes, .. } => self.maps.push(MapRef { hash, files, plain_bytes }),
        }
        Ok(())
    }
}

impl Contents {
    /// Loads the contents that `manifest` names.
    ///
    /// # Errors
    /// The repository fails, or they are missing, damaged or those of another backup.
    pub async fn load(lineage: &LineageStore, manifest: &BackupManifest) -> Result<Self> {
        let Newest { key, lines, .. } = newest(lineage, manifest, Self::default).await?;
        let files: u64 = lines.maps.iter().map(|map| map.files).sum();
        if files != manifest.files {
            let reason = "names another number of files than the manifest".to_owned();
            return Err(Error::Damaged { object: key.to_string(), reason });
        }
        Ok(lines)
    }
}

/// The newest generation of a backup's contents.
#[derive(Debug)]
pub(crate) struct Newest<S> {
    pub(crate) key: ObjectKey,
    pub(crate) header: ContentsHeader,
    pub(crate) lines: S,
}

/// Reads the newest contents of the backup of `manifest`.
///
/// # Errors
/// The repository fails, or they are missing, damaged or those of another backup.
pub(crate) async fn newest<S: LineSink>(
    lineage: &LineageStore,
    manifest: &BackupManifest,
    sink: impl Fn() -> S,
) -> Result<Newest<S>> {
    let mut generation = newest_generation(lineage, &manifest.id).await?;
    loop {
        let key = lineage.layout().contents_of(&manifest.id, generation);
        let (header, lines) = match read_generation(lineage, &key, sink()).await {
            Ok(read) => read,
            Err(error @ Error::Damaged { .. }) => {
                // Perhaps another one took its place since it was listed.
                let newer = newest_generation(lineage, &manifest.id).await?;
                if newer <= generation {
                    return Err(error);
                }
                generation = newer;
                continue;
            }
            Err(error) => return Err(error),
        };
        let is_named = header.id == manifest.id && header.manifest_hash() == manifest.contents;
        if !is_named || header.generation() != generation {
            let reason = "is not the one that the manifest names".to_owned();
            return Err(Error::Damaged { object: key.to_string(), reason });
        }
        return Ok(Newest { key, header, lines });
    }
}

/// Reads one generation of contents.
///
/// # Errors
/// The repository fails, or they are missing or damaged.
pub(crate) async fn read_generation<S: LineSink>(
    lineage: &LineageStore,
    key: &ObjectKey,
    sink: S,
) -> Result<(ContentsHeader, S)> {
    enveloped_lines::read(&Arc::clone(lineage.store()), key, sink).await
}

/// That of the newest contents of a backup; the first where there are none.
async fn newest_generation(lineage: &LineageStore, id: &BackupId) -> Result<u32> {
    let layout = lineage.layout();
    let listed = lineage.list(&layout.backup(id)).await?;
    let generations = listed.iter().filter_map(|meta| match layout.classify(&meta.key) {
        Some(LineageObject::Contents { generation, .. }) => Some(generation),
        _ => None,
    });
    Ok(generations.max().unwrap_or(FIRST_GENERATION))
}
