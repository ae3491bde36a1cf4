//! What a backup that is being made has stored so far, for the one that takes it up should it be interrupted.
//!
//! Objects `backups/<id>/progress-<number>.zst`, each of which names pieces of files that no earlier one names, and packs that
//! were durable when it was put. A backup with a manifest needs none of them.

use serde::{Deserialize, Serialize};

use super::{BackupId, Extent, PackId, StoredPath};
use crate::postgres::{Lsn, TimelineId};
use crate::repository::document::Document;
use crate::repository::hash::ContentHash;

/// Header of `backups/<id>/progress-<number>.zst`. But for the last five fields it is the same in all of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgressHeader {
    pub id: BackupId,
    pub timeline: TimelineId,
    /// Redo pointer of the starting checkpoint.
    pub start_lsn: Lsn,
    pub catalog_version: u32,
    pub control_version: u32,
    pub data_checksums: bool,
    pub number: u32,
    /// The pieces were read before the server had written WAL up to here, and up to here it was sealed when this was put.
    pub end_lsn: Lsn,
    /// Bytes of files in this object's pieces and in those of all with lower numbers.
    pub file_bytes: u64,
    /// Size and hash of the JSON lines.
    pub bytes: u64,
    pub blake3: ContentHash,
}

impl Document for ProgressHeader {
    const KIND: &'static str = "backup-progress";
}

/// One line: packs first, then pieces by path and position, then corrupt pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProgressLine {
    /// A pack, of this backup or another, and its size. Extents number these lines from 0.
    Pack { id: PackId, bytes: u64 },
    /// The bytes of a file from `from` on.
    Piece {
        path: StoredPath,
        from: u64,
        #[serde(rename = "x")]
        extents: Vec<Extent>,
    },
    /// A page in one of the pieces, perhaps of an earlier object, whose checksum did not match.
    Corrupt { path: StoredPath, block: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_by_their_type() {
        let pack = ProgressLine::Pack { id: "20261122T063100Z/00000003".parse().unwrap(), bytes: 7 };
        assert_eq!(
            serde_json::to_string(&pack).unwrap(),
            r#"{"type":"pack","id":"20261122T063100Z/00000003","bytes":7}"#
        );
        let path: StoredPath = "base/5/1259".to_owned().try_into().unwrap();
        let piece = ProgressLine::Piece { path, from: 8192, extents: vec![Extent::Zeros { bytes: 5 }] };
        let text = serde_json::to_string(&piece).unwrap();
        assert_eq!(text, r#"{"type":"piece","path":"base/5/1259","from":8192,"x":[[5]]}"#);
        assert_eq!(serde_json::from_str::<ProgressLine>(&text).unwrap(), piece);
    }
}
