//! The hashes of the parent's blocks, from the tables of packs: some tables in memory at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use pitr::lookup::{PackBlocks, read_frame};
use pitr::repository::LineageStore;
use pitr::repository::backup::PackId;
use pitr::repository::backup::file_map::FrameExtent;
use pitr::repository::hash::BlockHash;
use pitr::restore;
use tokio::runtime::Handle;

use super::packs::Packs;
use super::parent_file::ParentFile;

/// What tables may take.
const CACHE_BYTES: usize = 12 << 20;

/// Blocking: for the threads that copy.
#[derive(Debug)]
pub struct ParentHashes {
    lineage: LineageStore,
    packs: Arc<Packs>,
    sizes: BTreeMap<PackId, u64>,
    handle: Handle,
    /// The one used last is the first.
    tables: Mutex<VecDeque<(u32, Arc<PackBlocks>)>>,
}

/// The table that was used last, so that a run of blocks asks once.
#[derive(Debug, Default)]
pub struct LastTable(Option<(u32, Arc<PackBlocks>)>);

impl ParentHashes {
    /// Must be called within the runtime. `sizes` are those of the packs.
    #[must_use]
    pub fn new(lineage: LineageStore, packs: Arc<Packs>, sizes: BTreeMap<PackId, u64>) -> Self {
        Self { lineage, packs, sizes, handle: Handle::current(), tables: Mutex::default() }
    }

    /// The hash of the block of a file from `from` to `to`, where the parent has one there.
    ///
    /// # Errors
    /// The table of its pack cannot be read.
    pub fn of_block(
        &self,
        file: &ParentFile,
        from: u64,
        to: u64,
        last: &mut LastTable,
    ) -> restore::Result<Option<BlockHash>> {
        match file.block(from, to) {
            Some(frame) => self.of_frame(&frame, last),
            None => Ok(None),
        }
    }

    /// # Errors
    /// The table of the pack cannot be read.
    pub fn of_frame(&self, frame: &FrameExtent, last: &mut LastTable) -> restore::Result<Option<BlockHash>> {
        let table = match &last.0 {
            Some((pack, table)) if *pack == frame.pack => Arc::clone(table),
            _ => self.table(frame.pack)?,
        };
        let bytes = usize::try_from(frame.bytes).unwrap_or(usize::MAX);
        let hash = table.hash(frame.offset, frame.at, bytes);
        last.0 = Some((frame.pack, table));
        Ok(hash)
    }

    /// The plain bytes of a frame's part.
    ///
    /// # Errors
    /// The frame cannot be read.
    pub fn content(&self, frame: &FrameExtent) -> restore::Result<Vec<u8>> {
        let id = self.packs.id(frame.pack);
        let end = frame.offset.saturating_add(frame.stored_bytes.into());
        let read = read_frame(&self.lineage, &id, frame.offset, end);
        let plain = self.handle.block_on(read)?;
        let (from, bytes) = (frame.at as usize, usize::try_from(frame.bytes).unwrap_or(usize::MAX));
        let part = plain.get(from..from.saturating_add(bytes)).map(<[u8]>::to_vec);
        part.ok_or_else(|| restore::Error::Damaged {
            object: self.lineage.layout().pack(&id).to_string(),
            reason: format!("has a frame at byte {} that is too short", frame.offset),
        })
    }

    fn table(&self, pack: u32) -> restore::Result<Arc<PackBlocks>> {
        if let Some(table) = self.cached(pack) {
            return Ok(table);
        }
        let id = self.packs.id(pack);
        let size = self.sizes.get(&id).copied();
        let table = Arc::new(self.handle.block_on(PackBlocks::load(&self.lineage, &id, size))?);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.push_front((pack, Arc::clone(&table)));
        let mut bytes = 0;
        tables.retain(|(_, table)| {
            let first = bytes == 0;
            bytes += table.memory_bytes();
            first || bytes <= CACHE_BYTES
        });
        Ok(table)
    }

    fn cached(&self, pack: u32) -> Option<Arc<PackBlocks>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let index = tables.iter().position(|(cached, _)| *cached == pack)?;
        let found = tables.remove(index)?;
        let table = Arc::clone(&found.1);
        tables.push_front(found);
        Some(table)
    }
}
