//! A file map in memory, proven whole and free of contradictions.

use std::sync::Arc;

use crate::repository::LineageStore;
use crate::repository::backup::file_map::FileMapPacks;
use crate::repository::backup::pack::FRAME_BYTES;
use crate::repository::backup::{Extent, FileEntry, FileMapHeader, PackId, StoredPath};
use crate::repository::hash::ContentHash;
use crate::restore::contents::MapRef;
use crate::restore::enveloped_lines::{self, LineSink, LinesHeader, json};
use crate::restore::{Error, Result};

/// More than zstd can make of a frame of ours.
const MAX_STORED_FRAME_BYTES: u32 = FRAME_BYTES as u32 + (64 << 10);

/// The files of one map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileMap {
    pub(crate) packs: Vec<PackId>,
    pub(crate) files: Vec<FileEntry>,
}

#[derive(Default)]
struct MapLines {
    packs: Option<Vec<PackId>>,
    files: Vec<FileEntry>,
}

impl LinesHeader for FileMapHeader {
    fn lines_bytes(&self) -> u64 {
        self.bytes
    }

    fn lines_hash(&self) -> ContentHash {
        self.blake3
    }
}

impl LineSink for MapLines {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        let Some(packs) = &self.packs else {
            self.packs = Some(json::<FileMapPacks>(line)?.packs);
            return Ok(());
        };
        let file: FileEntry = json(line)?;
        check_file(&file, packs.len())?;
        self.files.push(file);
        Ok(())
    }
}

/// Nothing after this trusts an extent unchecked: lengths are bounded and add up.
fn check_file(file: &FileEntry, packs: usize) -> std::result::Result<(), String> {
    let size = extents_size(&file.path, &file.extents, packs)?;
    if size == file.size { Ok(()) } else { Err(format!("has extents of \"{}\" that are not its size", file.path)) }
}

/// The length of extents that name no pack from `packs` on, and nothing that no frame can hold.
pub(crate) fn extents_size(path: &StoredPath, extents: &[Extent], packs: usize) -> std::result::Result<u64, String> {
    let mut size = 0_u64;
    for extent in extents {
        size = size.checked_add(extent.bytes()).ok_or("has a file without bounds")?;
        if let Extent::Frame(frame) = extent {
            let within = u64::from(frame.at) + frame.bytes <= FRAME_BYTES as u64
                && frame.bytes > 0
                && frame.stored_bytes > 0
                && frame.stored_bytes <= MAX_STORED_FRAME_BYTES
                && frame.offset.checked_add(u64::from(frame.stored_bytes)).is_some()
                && usize::try_from(frame.pack).is_ok_and(|pack| pack < packs);
            if !within {
                return Err(format!("has an extent of \"{path}\" that no frame can hold"));
            }
        }
    }
    Ok(size)
}

impl FileMap {
    /// # Errors
    /// The repository fails, or the map is missing or damaged.
    pub(crate) async fn load(lineage: &LineageStore, map: &MapRef) -> Result<Self> {
        let key = lineage.layout().map(&map.hash);
        let (header, lines): (FileMapHeader, MapLines) =
            enveloped_lines::read(&Arc::clone(lineage.store()), &key, MapLines::default()).await?;
        let damaged = |reason: &str| Error::Damaged { object: key.to_string(), reason: reason.to_owned() };
        if header.blake3 != map.hash {
            return Err(damaged("is another map than its name says"));
        }
        let files = lines.files;
        if files.len() as u64 != map.files {
            return Err(damaged("holds another number of files than the backup says"));
        }
        Ok(Self { packs: lines.packs.unwrap_or_default(), files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::backup::file_map::FrameExtent;
    use crate::repository::hash::FrameHash;

    #[test]
    fn refuses_extents_that_cannot_be() {
        let good = FrameExtent { bytes: 8192, pack: 0, offset: 100, stored_bytes: 50, at: 0, hash: FrameHash::of(&[]) };
        let file = |size, extents| FileEntry {
            path: "base/1".to_owned().try_into().unwrap(),
            size,
            mode: 0o600,
            mtime: 0,
            extents,
        };
        assert!(check_file(&file(8192 + 5, vec![Extent::Frame(good), Extent::Zeros { bytes: 5 }]), 1).is_ok());
        assert!(check_file(&file(8192, vec![Extent::Frame(good), Extent::Zeros { bytes: 5 }]), 1).is_err());
        assert!(check_file(&file(4, vec![Extent::Zeros { bytes: u64::MAX }, Extent::Zeros { bytes: 5 }]), 1).is_err());
        for bad in [
            FrameExtent { pack: 1, ..good },
            FrameExtent { at: FRAME_BYTES as u32 - 8191, ..good },
            FrameExtent { at: u32::MAX, ..good },
            FrameExtent { stored_bytes: u32::MAX, ..good },
            FrameExtent { stored_bytes: 0, ..good },
            FrameExtent { offset: u64::MAX, ..good },
        ] {
            assert!(check_file(&file(8192, vec![Extent::Frame(bad)]), 1).is_err(), "{bad:?}");
        }
        assert!(check_file(&file(0, vec![Extent::Frame(FrameExtent { bytes: 0, ..good })]), 1).is_err());
    }
}
