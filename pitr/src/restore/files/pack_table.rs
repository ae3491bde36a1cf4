//! The table at the end of a pack, for frames whose blocks the extents do not tell.

use std::collections::HashMap;

use crate::repository::LineageStore;
use crate::repository::backup::PackId;
use crate::repository::backup::pack::{FOOTER_BYTES, Footer, PackedBlock};
use crate::restore::{Error, Result};
use crate::storage::{ByteRange, ErrorKind, ObjectKey};

/// A pack of 16 MiB of the smallest frames has a table of this size at most, many times over.
const MAX_TABLE_BYTES: u64 = 64 << 20;
/// That of a pack of pages that compress as pages do, and its footer.
const LIKELY_TABLE_BYTES: u64 = 320 << 10;

/// The blocks of each frame of one pack, by the frame's offset.
#[derive(Debug, Default)]
pub(crate) struct PackTable {
    frames: HashMap<u64, Vec<PackedBlock>>,
    read_bytes: u64,
}

impl PackTable {
    /// # Errors
    /// The repository fails, or the pack is missing or damaged.
    pub(crate) async fn load(lineage: &LineageStore, pack: &PackId) -> Result<Self> {
        let key = lineage.layout().pack(pack);
        match lineage.store().head(&key).await {
            Ok(meta) => Self::load_sized(lineage, pack, meta.size_bytes).await,
            Err(error) if error.is_not_found() => {
                Err(Error::Damaged { object: key.to_string(), reason: "is missing".to_owned() })
            }
            Err(error) => Err(Error::Repository(error.into())),
        }
    }

    /// With one request, if the table is not much larger than most are.
    ///
    /// # Errors
    /// The repository fails, or the pack is missing, damaged or of another size.
    pub(crate) async fn load_sized(lineage: &LineageStore, pack: &PackId, size: u64) -> Result<Self> {
        let key = lineage.layout().pack(pack);
        let damaged = |reason: String| Error::Damaged { object: key.to_string(), reason };
        let footer_start = size.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| damaged("has no footer".to_owned()))?;
        let end_start = size.saturating_sub(LIKELY_TABLE_BYTES);
        let end = read_range(lineage, &key, end_start, size).await?;
        let footer = Footer::parse(&end).map_err(|error| damaged(error.to_string()))?;
        let table_start = footer_start
            .checked_sub(footer.table_bytes())
            .filter(|_| footer.table_bytes() <= MAX_TABLE_BYTES)
            .ok_or_else(|| damaged("states a table that it cannot hold".to_owned()))?;
        let within = |position: u64| usize::try_from(position.saturating_sub(end_start)).unwrap_or(usize::MAX);
        let mut read_bytes = end.len() as u64;
        let table = match end.get(within(table_start)..within(footer_start)).filter(|_| table_start >= end_start) {
            Some(table) => bytes::Bytes::copy_from_slice(table),
            None => {
                read_bytes += footer_start - table_start;
                read_range(lineage, &key, table_start, footer_start).await?
            }
        };
        let frames = footer.table(&table).map_err(|error| damaged(error.to_string()))?;
        let frames = frames.into_iter().map(|frame| (frame.offset, frame.blocks)).collect();
        Ok(Self { frames, read_bytes })
    }

    /// All frames by offset, in no order.
    pub(crate) fn into_frames(self) -> impl Iterator<Item = (u64, Vec<PackedBlock>)> {
        self.frames.into_iter()
    }

    /// What was read from the repository for it.
    pub(super) const fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    pub(crate) fn blocks(&self, offset: u64) -> Option<&[PackedBlock]> {
        self.frames.get(&offset).map(Vec::as_slice)
    }
}

/// Bytes `start` to `end` of a pack. What the map says is there and is not, is damage.
///
/// # Errors
/// The repository fails, or the pack is missing or too short.
pub(crate) async fn read_range(lineage: &LineageStore, key: &ObjectKey, start: u64, end: u64) -> Result<bytes::Bytes> {
    let Some(range) = ByteRange::new(start, end) else { return Ok(bytes::Bytes::new()) };
    let damaged = |reason: String| Error::Damaged { object: key.to_string(), reason };
    let read = async { lineage.store().get(key, Some(range)).await?.bytes(range.size_bytes()).await }.await;
    let error = match read {
        Ok(bytes) => return Ok(bytes),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::NotFound => Err(damaged("is missing".to_owned())),
        ErrorKind::Corrupt => Err(damaged(error.reason().to_owned())),
        // Stores refuse a range beyond the end; so a short pack looks like a wrong request until its size is known.
        ErrorKind::Invalid => match lineage.store().head(key).await {
            Ok(meta) if meta.size_bytes < end => {
                Err(damaged(format!("has {} bytes, a frame should end at byte {end}", meta.size_bytes)))
            }
            _ => Err(Error::Repository(error.into())),
        },
        _ => Err(Error::Repository(error.into())),
    }
}
