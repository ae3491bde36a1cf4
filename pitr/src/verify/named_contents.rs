//! What the contents of a backup name.

use super::damage::fault_of_restore;
use crate::repository::backup::{BackupManifest, ContentsLine, PackId};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageStore, Result};
use crate::restore::Error;
use crate::restore::contents::{self, Newest};
use crate::restore::enveloped_lines::{LineSink, json};
use crate::storage::ObjectKey;

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
    /// Of the contents themselves, once they are read.
    pub(super) key: Option<ObjectKey>,
}

/// What is wrong with the contents of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContentsFault {
    pub(super) key: ObjectKey,
    pub(super) reason: String,
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
    ) -> Result<std::result::Result<Self, ContentsFault>> {
        let Newest { key, lines, .. } = match contents::newest(lineage, manifest, Self::default).await {
            Ok(read) => read,
            Err(error) => {
                let told = if let Error::Damaged { object, .. } = &error {
                    ObjectKey::new(object.as_str()).ok()
                } else {
                    None
                };
                let key = told.unwrap_or_else(|| lineage.layout().contents(&manifest.id));
                return Ok(Err(ContentsFault { key, reason: fault_of_restore(error)? }));
            }
        };
        if lines.maps.iter().map(|map| map.files).sum::<u64>() != manifest.files {
            let reason = "names another number of files than the manifest".to_owned();
            return Ok(Err(ContentsFault { key, reason }));
        }
        Ok(Ok(Self { key: Some(key), ..lines }))
    }
}
