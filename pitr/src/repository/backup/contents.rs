//! The contents of a backup: everything but the files themselves, in one enveloped object of JSON lines.
//!
//! The backup writes the first generation. Where retention has put what is left of mostly dead packs into new ones, it writes
//! the next: the newest one counts, and each of them is complete once it is there.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{PackId, StoredPath};
use crate::repository::document::Document;
use crate::repository::hash::ContentHash;

/// Header of `backups/<id>/contents.zst`, and of `contents.<generation>.zst`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContentsHeader {
    pub id: super::BackupId,
    /// Size and hash of the JSON lines.
    pub bytes: u64,
    pub blake3: ContentHash,
    /// Of a later generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<Rewritten>,
}

/// What the contents say that took the place of a backup's first ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rewritten {
    /// From 2.
    pub generation: u32,
    /// Since then the generation before is not needed any more.
    pub time: DateTime<Utc>,
    /// Hash of the first generation's lines: what the manifest names.
    pub first: ContentHash,
}

impl ContentsHeader {
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.rewritten.as_ref().map_or(FIRST_GENERATION, |rewritten| rewritten.generation)
    }

    /// The hash that the manifest of the backup names.
    #[must_use]
    pub fn manifest_hash(&self) -> ContentHash {
        self.rewritten.as_ref().map_or(self.blake3, |rewritten| rewritten.first)
    }
}

impl Document for ContentsHeader {
    const KIND: &'static str = "backup-contents";
}

/// The generation of the contents that a backup writes.
pub const FIRST_GENERATION: u32 = 1;

/// What a file outside the data directory was to the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalRole {
    ConfigFile,
    HbaFile,
    IdentFile,
    /// Named by an `include` of another.
    Included,
}

/// One line: directories first (parents before children), then links, external files, packs, maps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentsLine {
    /// A directory, which may be empty.
    Directory { path: StoredPath, mode: u32 },
    /// A symbolic link that stays one: neither `pg_wal` nor a tablespace.
    Link { path: StoredPath, target: String },
    /// A file that the server reads from outside the data directory, such as Debian's `postgresql.conf`.
    External { role: ExternalRole, path: String, mode: u32, base64: String },
    /// A pack that holds at least one byte of this backup: the size of its object, how many bytes of it this backup needs,
    /// and how many all its frames take.
    Pack {
        id: PackId,
        bytes: u64,
        live_bytes: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frame_bytes: Option<u64>,
    },
    /// A file map: how many files it holds, the size of all of them, and the size of its object. With the path of its first
    /// file where those of all maps that have one follow each other without overlap.
    Map {
        hash: ContentHash,
        files: u64,
        plain_bytes: u64,
        stored_bytes: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<StoredPath>,
    },
}
