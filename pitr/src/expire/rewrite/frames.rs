//! Frames go from old packs into new ones, as they are. Each is proven first: a copy of something else would be named by the
//! right hash, and the right bytes would be deleted.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::live::{NeededFrame, PackFrames};
use super::{Attempt, Failure};
use crate::expire::Expiry;
use crate::repository::LineageStore;
use crate::repository::backup::pack::{self, PACK_BYTES, PackedBlock, PackedFrame};
use crate::repository::backup::{BackupId, PackId};
use crate::restore::files::{FrameDecoder, FrameFault, FrameRead, PackTable, read_range};
use crate::storage::{ErrorKind, Payload, PutMode};

/// Bytes between needed frames that are read and thrown away rather than paying for another request.
const MAX_GAP_BYTES: u64 = 128 << 10;
const MAX_READ_BYTES: u64 = 4 << 20;
/// Reads of one pack at once.
const PARALLEL: usize = 4;
/// Bounds the table of a pack.
const PACK_MAX_FRAMES: usize = 2048;
/// Numbers from here on are those of rewritten packs; no backup writes so many.
const REWRITTEN: u32 = 1 << 31;
/// Names that are tried before something must be wrong.
const NAMES: usize = 16;

/// Where a frame stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index into the new packs.
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u32,
    /// Counts all moved frames.
    pub(crate) number: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewPack {
    pub(crate) id: PackId,
    pub(crate) bytes: u64,
    pub(crate) frame_bytes: u64,
}

/// What was copied, and where it is.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    places: BTreeMap<PackId, BTreeMap<u64, Place>>,
    pub(crate) packs: Vec<NewPack>,
}

impl Moved {
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn copied_bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.frame_bytes).sum()
    }

    /// Those that are not needed any more.
    pub(crate) fn old_packs(&self) -> impl Iterator<Item = &PackId> {
        self.places.keys()
    }

    pub(crate) fn has_moved(&self, pack: &PackId) -> bool {
        self.places.contains_key(pack)
    }

    pub(crate) fn place(&self, pack: &PackId, offset: u64) -> Option<Place> {
        self.places.get(pack)?.get(&offset).copied()
    }

    /// Copies what is needed of each pack. One in which something is damaged stays as it is.
    pub(super) async fn copy(
        expiry: &Expiry<'_>,
        lineage: &LineageStore,
        owner: &BackupId,
        packs: BTreeMap<PackId, PackFrames>,
    ) -> Attempt<Self> {
        let mut copy = Copy { owner, moved: Self::default(), open: None, frames: 0 };
        for (id, frames) in packs {
            expiry.may_go_on()?;
            let read = match read_frames(lineage, &id, &frames).await {
                Ok(read) => read,
                Err(Failure::Unusable(reason)) => {
                    tracing::warn!(pack = %id, reason, "a mostly dead pack is left as it is");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut places = BTreeMap::new();
            for frame in read {
                let offset = frame.offset;
                places.insert(offset, copy.add(expiry, lineage, frame).await?);
            }
            copy.moved.places.insert(id, places);
        }
        copy.close(expiry, lineage).await?;
        for pack in &copy.moved.packs {
            Expiry::is_stored(lineage, &pack.id, pack.bytes).await?;
        }
        Ok(copy.moved)
    }
}

/// A frame as it is stored, and proven.
struct ReadFrame {
    offset: u64,
    stored: Bytes,
    plain_bytes: u32,
    blocks: Vec<PackedBlock>,
}

async fn read_frames(lineage: &LineageStore, id: &PackId, frames: &PackFrames) -> Attempt<Vec<ReadFrame>> {
    let key = lineage.layout().pack(id);
    let table = PackTable::load(lineage, id).await?;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (offset, frame) in frames {
        let end = offset + u64::from(frame.stored_bytes);
        match ranges.last_mut() {
            Some((start, last)) if *offset <= *last + MAX_GAP_BYTES && end - *start <= MAX_READ_BYTES => {
                *last = end.max(*last);
            }
            _ => ranges.push((*offset, end)),
        }
    }
    let reads: Vec<_> = ranges
        .into_iter()
        .map(async |(start, end)| {
            let bytes = read_range(lineage, &key, start, end).await?;
            Ok::<_, Failure>((start, bytes))
        })
        .collect();
    let read: Vec<(u64, Bytes)> = stream::iter(reads).buffered(PARALLEL).try_collect().await?;
    let frames = frames.clone();
    let proven = tokio::task::spawn_blocking(move || prove(&frames, &read, &table));
    let proven = proven.await.map_err(|error| Failure::Unusable(error.to_string()))?;
    proven.map_err(|reason| Failure::Unusable(format!("object \"{key}\" {reason}")))
}

fn prove(frames: &PackFrames, read: &[(u64, Bytes)], table: &PackTable) -> Result<Vec<ReadFrame>, String> {
    let mut decoder = FrameDecoder::new();
    let prove_one = |(offset, frame): (&u64, &NeededFrame)| {
        let nth = read.partition_point(|(start, _)| start <= offset).checked_sub(1);
        let stored = nth.and_then(|nth| read.get(nth)).and_then(|(start, bytes)| {
            let from = usize::try_from(offset - start).ok()?;
            let to = from.checked_add(frame.stored_bytes as usize)?;
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        });
        let stored = stored.ok_or_else(|| format!("has a frame at byte {offset} that is not read"))?;
        let blocks = table.blocks(*offset).ok_or_else(|| format!("has no frame at byte {offset}"))?;
        let wanted =
            FrameRead { offset: *offset, stored_bytes: frame.stored_bytes, hash: frame.hash, runs: Vec::new() };
        let plain = decoder.decode(&wanted, &stored, Some(blocks)).map_err(|fault| match fault {
            FrameFault::Damaged(what) => format!("has a frame at byte {offset} that {what}"),
            FrameFault::OtherBlocks => format!("has another frame at byte {offset}"),
        })?;
        let plain_bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        Ok(ReadFrame { offset: *offset, stored, plain_bytes, blocks: blocks.to_vec() })
    };
    frames.iter().map(prove_one).collect()
}

/// A pack as it fills.
#[derive(Default)]
struct OpenPack {
    frames: Vec<ReadFrame>,
    bytes: usize,
}

struct Copy<'a> {
    owner: &'a BackupId,
    moved: Moved,
    open: Option<OpenPack>,
    frames: u32,
}

impl Copy<'_> {
    async fn add(&mut self, expiry: &Expiry<'_>, lineage: &LineageStore, frame: ReadFrame) -> Attempt<Place> {
        if self.open.as_ref().is_some_and(|open| open.bytes >= PACK_BYTES || open.frames.len() >= PACK_MAX_FRAMES) {
            self.close(expiry, lineage).await?;
        }
        let open = self.open.get_or_insert_default();
        let place = Place {
            pack: u32::try_from(self.moved.packs.len()).unwrap_or(u32::MAX),
            offset: (header_bytes(self.owner) + open.bytes) as u64,
            stored_bytes: u32::try_from(frame.stored.len()).unwrap_or(u32::MAX),
            number: self.frames,
        };
        self.frames += 1;
        open.bytes += frame.stored.len();
        open.frames.push(frame);
        Ok(place)
    }

    async fn close(&mut self, expiry: &Expiry<'_>, lineage: &LineageStore) -> Attempt<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        expiry.may_write(lineage).await?;
        for _ in 0..NAMES {
            let number = REWRITTEN | (rand::random::<u32>() >> 1);
            let id = PackId { backup: self.owner.clone(), number };
            let chunks = assemble(&id, &open.frames);
            let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            let key = lineage.layout().pack(&id);
            match lineage.store().put(&key, Payload::Chunks(chunks), PutMode::CreateNew).await {
                Ok(_) => {
                    self.moved.packs.push(NewPack { id, bytes, frame_bytes: open.bytes as u64 });
                    return Ok(());
                }
                // An attempt before this one may have left it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::Unusable("no pack has a name that is free".to_owned()))
    }
}

/// The same for every number: a number has eight digits.
fn header_bytes(owner: &BackupId) -> usize {
    pack::header(&PackId { backup: owner.clone(), number: REWRITTEN }).len()
}

fn assemble(id: &PackId, frames: &[ReadFrame]) -> Vec<Bytes> {
    let header = pack::header(id);
    let mut offset = header.len() as u64;
    let mut packed = Vec::new();
    for frame in frames {
        let stored_bytes = u32::try_from(frame.stored.len()).unwrap_or(u32::MAX);
        packed.push(PackedFrame { offset, stored_bytes, plain_bytes: frame.plain_bytes, blocks: frame.blocks.clone() });
        offset += u64::from(stored_bytes);
    }
    let mut chunks = vec![Bytes::from(header)];
    chunks.extend(frames.iter().map(|frame| frame.stored.clone()));
    chunks.push(pack::trailer(&packed).into());
    chunks
}
