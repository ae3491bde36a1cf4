//! Packs of one lineage, kept from one comparison to the next: they never change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pitr::codec::Decompressor;
use pitr::repository::backup::pack::{self, FRAME_BYTES, PackedFrame};
use pitr::repository::backup::{BackupId, PackId};
use pitr::repository::hash::{BlockHash, FrameHash};
use pitr::repository::{LineageStore, Repository};
use pitr::storage::ObjectStore;

use super::StoredBackup;

/// More than any pack of a test.
const MAX_PACK_BYTES: u64 = 256 << 20;

#[derive(Debug)]
struct Pack {
    object: Bytes,
    frames: BTreeMap<u64, PackedFrame>,
}

/// Where a run of bytes stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: PackId,
    pub(super) offset: u64,
    pub(super) stored_bytes: u32,
    pub(super) hash: FrameHash,
}

/// The packs of a lineage that were needed so far.
#[derive(Debug)]
pub struct Shelf {
    lineage: LineageStore,
    packs: HashMap<PackId, Pack>,
    decompressor: Decompressor,
    /// The frames that were used last: neighbouring runs stand in the same one.
    recent: Vec<(Place, Arc<Vec<u8>>)>,
}

impl Shelf {
    /// For the newest lineage of the cluster `main` in this store.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(store: Arc<dyn ObjectStore>) -> Result<Self> {
        let lineages = Repository::open(store).await?.lineages(&"main".parse()?).await?;
        let lineage = lineages.into_iter().next_back().context("no lineage")?;
        Ok(Self { lineage, packs: HashMap::new(), decompressor: Decompressor::new(), recent: Vec::new() })
    }

    #[must_use]
    pub const fn lineage(&self) -> &LineageStore {
        &self.lineage
    }

    /// What was read is read again: somebody has changed what never changes.
    pub fn forget(&mut self) {
        self.packs.clear();
        self.recent.clear();
    }

    /// A backup with all packs that it needs.
    ///
    /// # Errors
    /// Something of it is missing or damaged.
    pub async fn backup(&mut self, id: &BackupId) -> Result<StoredBackup> {
        let backup = StoredBackup::load(&self.lineage, id).await.with_context(|| format!("load the backup {id}"))?;
        for pack in backup.packs() {
            if !self.packs.contains_key(&pack) {
                let key = self.lineage.layout().pack(&pack);
                let object = self.lineage.store().get(&key, None).await?.bytes(MAX_PACK_BYTES).await?;
                let (header, frames) = pack::frames(&object).with_context(|| format!("read {key}"))?;
                ensure!(header.id == pack, "{key} says that it is {}", header.id);
                let frames = frames.into_iter().map(|frame| (frame.offset, frame)).collect();
                self.packs.insert(pack, Pack { object, frames });
            }
        }
        Ok(backup)
    }

    /// The plain content of a frame that its hash proves.
    pub(super) fn frame(&mut self, place: &Place) -> Result<Arc<Vec<u8>>> {
        if let Some((_, plain)) = self.recent.iter().find(|(known, _)| known == place) {
            return Ok(Arc::clone(plain));
        }
        let pack = self.packs.get(&place.pack).with_context(|| format!("no pack {}", place.pack))?;
        let frame = pack.frames.get(&place.offset).context("no frame begins there")?;
        ensure!(frame.stored_bytes == place.stored_bytes, "the frame takes {} bytes in its pack", frame.stored_bytes);
        let (begin, length) = (usize::try_from(place.offset)?, usize::try_from(place.stored_bytes)?);
        let stored = pack.object.get(begin..begin + length).context("the pack is shorter")?;
        let plain = self.decompressor.decompress(stored, FRAME_BYTES as u64)?;
        let mut rest = plain.as_slice();
        let mut hashes = Vec::with_capacity(frame.blocks.len());
        for block in &frame.blocks {
            let (bytes, after) = rest.split_at_checked(block.bytes.into()).context("the frame is shorter")?;
            ensure!(BlockHash::of(bytes) == block.hash, "a block is not what the table of its pack says");
            hashes.push(block.hash);
            rest = after;
        }
        ensure!(rest.is_empty(), "the frame is longer than its table");
        ensure!(FrameHash::of(&hashes) == place.hash, "the frame is not the one that the map names");
        let plain = Arc::new(plain);
        if self.recent.len() >= 16 {
            self.recent.remove(0);
        }
        self.recent.push((place.clone(), Arc::clone(&plain)));
        Ok(plain)
    }
}
