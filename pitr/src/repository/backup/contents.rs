//! The contents of a backup: everything but the files themselves, in one enveloped object of JSON lines.

use serde::{Deserialize, Serialize};

use super::{PackId, StoredPath};
use crate::repository::document::Document;
use crate::repository::hash::ContentHash;

/// Header of `backups/<id>/contents.zst`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContentsHeader {
    pub id: super::BackupId,
    /// Size and hash of the JSON lines.
    pub bytes: u64,
    pub blake3: ContentHash,
}

impl Document for ContentsHeader {
    const KIND: &'static str = "backup-contents";
}

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
    /// A pack that holds at least one byte of this backup.
    Pack { id: PackId, bytes: u64, live_bytes: u64 },
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
