//! From finished packs and maps to objects in the repository: a bounded number of them at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pitr::repository::LineageStore;
use pitr::storage::{ErrorKind, ObjectKey, Payload, PutMode};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::CopyError;
use super::ledger::Ledger;
use super::maps::FinishedMap;
use super::pack_writer::FinishedPack;

/// Maps and packs on their way at the same time, at most; packs are bounded by their buffers besides.
const UPLOADS: usize = 8;

/// Leave to hold one pack in memory, from its first byte until it is stored.
pub struct PackPermit {
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for PackPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PackPermit")
    }
}

enum Upload {
    Pack { pack: FinishedPack, permit: PackPermit },
    Map(FinishedMap),
}

/// What has been stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Size of each pack, by number.
    pub pack_bytes: BTreeMap<u32, u64>,
    /// Bytes that the repository did not have before.
    pub new_bytes: u64,
}

/// For the threads that copy: hands over what is finished. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UploadQueue {
    sender: mpsc::Sender<Upload>,
    buffers: Arc<Semaphore>,
    handle: Handle,
    cancel: CancellationToken,
}

impl UploadQueue {
    /// Waits until one more pack may be held in memory. Blocking.
    ///
    /// # Errors
    /// The copy is to stop.
    pub fn acquire_pack(&self) -> Result<PackPermit, CopyError> {
        let buffers = Arc::clone(&self.buffers);
        self.handle.block_on(async {
            tokio::select! {
                permit = buffers.acquire_owned() => match permit {
                    Ok(permit) => Ok(PackPermit { _permit: permit }),
                    Err(_) => Err(CopyError::Cancelled),
                },
                () = self.cancel.cancelled() => Err(CopyError::Cancelled),
            }
        })
    }

    /// Blocking.
    ///
    /// # Errors
    /// The copy is to stop.
    pub fn pack(&self, pack: FinishedPack, permit: PackPermit) -> Result<(), CopyError> {
        self.send(Upload::Pack { pack, permit })
    }

    /// Blocking.
    ///
    /// # Errors
    /// The copy is to stop.
    pub fn map(&self, map: FinishedMap) -> Result<(), CopyError> {
        self.send(Upload::Map(map))
    }

    fn send(&self, upload: Upload) -> Result<(), CopyError> {
        self.sender.blocking_send(upload).map_err(|_| CopyError::Cancelled)
    }
}

/// The receiving end of an [`UploadQueue`].
#[derive(Debug)]
pub struct Uploader {
    lineage: LineageStore,
    receiver: mpsc::Receiver<Upload>,
    cancel: CancellationToken,
    stored_bytes: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
}

/// A queue of which at most `pack_buffers` packs are in memory, and its uploader, which counts in `stored_bytes` and tells
/// `ledger` of packs.
#[must_use]
pub fn queue(
    lineage: LineageStore,
    pack_buffers: usize,
    stored_bytes: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
    cancel: CancellationToken,
) -> (UploadQueue, Uploader) {
    let (sender, receiver) = mpsc::channel(1);
    let buffers = Arc::new(Semaphore::new(pack_buffers));
    let queue = UploadQueue { sender, buffers, handle: Handle::current(), cancel: cancel.clone() };
    (queue, Uploader { lineage, receiver, cancel, stored_bytes, ledger })
}

/// One object that was put.
struct Put {
    /// None for a map.
    pack: Option<u32>,
    bytes: u64,
    new: bool,
}

impl Uploader {
    /// Stores everything until all queues are dropped.
    ///
    /// # Errors
    /// The first failure of the store; what is on its way then is given up.
    pub async fn run(mut self) -> Result<Stored, CopyError> {
        let mut puts: JoinSet<Result<Put, CopyError>> = JoinSet::new();
        let mut stored = Stored::default();
        let mut open = true;
        while open || !puts.is_empty() {
            tokio::select! {
                upload = self.receiver.recv(), if open && puts.len() < UPLOADS => match upload {
                    Some(upload) => { puts.spawn(put(self.lineage.clone(), upload)); }
                    None => open = false,
                },
                Some(done) = puts.join_next() => {
                    self.note(&mut stored, done.map_err(|error| CopyError::Broken(error.to_string()))??);
                }
                () = self.cancel.cancelled() => return Err(CopyError::Cancelled),
            }
        }
        Ok(stored)
    }

    fn note(&self, stored: &mut Stored, put: Put) {
        if put.new {
            stored.new_bytes += put.bytes;
            self.stored_bytes.fetch_add(put.bytes, Ordering::Relaxed);
        }
        if let Some(number) = put.pack {
            stored.pack_bytes.insert(number, put.bytes);
            self.ledger.note_stored(number, put.bytes);
        }
    }
}

async fn put(lineage: LineageStore, upload: Upload) -> Result<Put, CopyError> {
    match upload {
        Upload::Pack { pack, permit } => {
            let bytes = pack.size_bytes();
            let (key, number) = (lineage.layout().pack(&pack.id), pack.id.number);
            lineage.store().put(&key, Payload::Chunks(pack.chunks), PutMode::CreateNew).await?;
            drop(permit);
            Ok(Put { pack: Some(number), bytes, new: true })
        }
        Upload::Map(map) => {
            let key = lineage.layout().map(&map.hash);
            let payload = Payload::Chunks(map.object.unwrap_or_default());
            let bytes = payload.size_bytes();
            let new = create_or_share(&lineage, &key, payload).await?;
            Ok(Put { pack: None, bytes, new })
        }
    }
}

/// Puts an object that its name describes wholly. False where it existed.
async fn create_or_share(lineage: &LineageStore, key: &ObjectKey, payload: Payload) -> Result<bool, CopyError> {
    match lineage.store().put(key, payload, PutMode::CreateNew).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.into()),
    }
}
