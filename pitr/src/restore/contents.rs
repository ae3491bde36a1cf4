//! The contents of a backup as a restore needs them: directories, links, files from outside, and which maps there are.

use std::sync::Arc;

use super::enveloped_lines::{self, LineSink, LinesHeader, json};
use super::{Error, Result};
use crate::repository::LineageStore;
use crate::repository::backup::{BackupManifest, ContentsHeader, ContentsLine, ExternalRole, StoredPath};
use crate::repository::hash::ContentHash;

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
        let key = lineage.layout().contents(&manifest.id);
        let (header, contents): (ContentsHeader, Self) =
            enveloped_lines::read(&Arc::clone(lineage.store()), &key, Self::default()).await?;
        let damaged = |reason: &str| Error::Damaged { object: key.to_string(), reason: reason.to_owned() };
        if header.blake3 != manifest.contents {
            return Err(damaged("is not the one that the manifest names"));
        }
        let files: u64 = contents.maps.iter().map(|map| map.files).sum();
        if files != manifest.files {
            return Err(damaged("names another number of files than the manifest"));
        }
        Ok(contents)
    }
}
