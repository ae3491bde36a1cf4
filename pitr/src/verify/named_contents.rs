//! What the contents of a backup name.

use std::sync::Arc;

use super::damage::fault_of_restore;
use crate::repository::backup::{BackupManifest, ContentsHeader, ContentsLine, PackId};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageStore, Result};
use crate::restore::enveloped_lines::{self, LineSink, json};

/// A pack, with the length that the backup says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPack {
    pub(super) id: PackId,
    pub(super) bytes: u64,
}

/// A map, with what the backup says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamedMap {
    pub(super) hash: ContentHash,
    pub(super) files: u64,
    pub(super) plain_bytes: u64,
    pub(super) stored_bytes: u64,
}

/// Everything of a backup that stands in other objects.
#[derive(Debug, Default)]
pub(super) struct NamedContents {
    pub(super) packs: Vec<NamedPack>,
    pub(super) maps: Vec<NamedMap>,
}

impl LineSink for NamedContents {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match json(line)? {
            ContentsLine::Pack { id, bytes, .. } => self.packs.push(NamedPack { id, bytes }),
            ContentsLine::Map { hash, files, plain_bytes, stored_bytes, .. } => {
                self.maps.push(NamedMap { hash, files, plain_bytes, stored_bytes });
            }
            ContentsLine::External { path, base64, .. } => {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD
                    .decode(&base64)
                    .map_err(|_| format!("holds \"{path}\" in a form that is not base64"))?;
            }
            ContentsLine::Directory { .. } | ContentsLine::Link { .. } => {}
        }
        Ok(())
    }
}

impl NamedContents {
    /// The contents that `manifest` names, or what is wrong with them.
    ///
    /// # Errors
    /// The store fails.
    pub(super) async fn load(
        lineage: &LineageStore,
        manifest: &BackupManifest,
    ) -> Result<std::result::Result<Self, String>> {
        let key = lineage.layout().contents(&manifest.id);
        let read = enveloped_lines::read(&Arc::clone(lineage.store()), &key, Self::default()).await;
        let (header, contents): (ContentsHeader, Self) = match read {
            Ok(read) => read,
            Err(error) => return fault_of_restore(error).map(Err),
        };
        if header.id != manifest.id || header.blake3 != manifest.contents {
            return Ok(Err("is not the one that the manifest names".to_owned()));
        }
        if contents.maps.iter().map(|map| map.files).sum::<u64>() != manifest.files {
            return Ok(Err("names another number of files than the manifest".to_owned()));
        }
        Ok(Ok(contents))
    }
}
