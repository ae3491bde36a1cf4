//! A bound on what is under way at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{
    ByteRange, Error, ErrorKind, KeyPrefix, LimitOptions, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation,
    Payload, PutMode, Result,
};

/// What one permit of the semaphore of bytes stands for.
const BYTES_PER_PERMIT: u64 = 1024;
/// A file is streamed: so much of it is in memory at once.
const FILE_WINDOW_BYTES: u64 = 1024 * 1024;

/// Bounds the requests under way, and the bytes of payloads in memory among them.
///
/// A get counts until its reader is read to the end or dropped, since its connection is in use until then. Gets are counted
/// apart from the rest, so who holds a reader can still put, but whoever holds as many readers as the limit without reading
/// them waits for ever for another one. Listings do not count: each is one request at a time, and is often held while the
/// objects that it names are asked for.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn ObjectStore>,
    gets: Arc<Semaphore>,
    others: Semaphore,
    bytes: Semaphore,
    bytes_permits: u32,
}

impl Limited {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, options: &LimitOptions) -> Self {
        let bytes_permits = permits(options.bytes).max(1);
        let requests = options.requests.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner,
            gets: Arc::new(Semaphore::new(requests)),
            others: Semaphore::new(requests),
            bytes: Semaphore::new(usize::try_from(bytes_permits).unwrap_or(Semaphore::MAX_PERMITS)),
            bytes_permits,
        }
    }

    async fn request(&self, operation: Operation, key: &str) -> Result<SemaphorePermit<'_>> {
        self.others.acquire().await.map_err(|_| closed(operation, key))
    }
}

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX / 2)
}

fn closed(operation: Operation, key: &str) -> Error {
    Error::new(ErrorKind::Cancelled, operation, key, "the store is closed")
}

#[async_trait]
impl ObjectStore for Limited {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        let held = match &body {
            Payload::Chunks(_) => body.size_bytes(),
            Payload::File { size_bytes, .. } => FILE_WINDOW_BYTES.min(*size_bytes),
        };
        // A payload larger than the limit goes alone. Bytes first, then the request, everywhere in this order.
        let wanted = permits(held).min(self.bytes_permits);
        let _bytes = self.bytes.acquire_many(wanted).await.map_err(|_| closed(Operation::Put, key.as_str()))?;
        let _request = self.request(Operation::Put, key.as_str()).await?;
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let gets = Arc::clone(&self.gets);
        let request = gets.acquire_owned().await.map_err(|_| closed(Operation::Get, key.as_str()))?;
        let mut reader = self.inner.get(key, range).await?;
        reader.stream = stream::unfold(Some((reader.stream, request)), next_with_permit).boxed();
        Ok(reader)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let _request = self.request(Operation::Head, key.as_str()).await?;
        self.inner.head(key).await
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        self.inner.list_children(prefix).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let first = keys.first().map_or("", ObjectKey::as_str);
        let _request = self.request(Operation::Delete, first).await?;
        self.inner.delete(keys).await
    }
}

type Held = Option<(BoxStream<'static, Result<Bytes>>, OwnedSemaphorePermit)>;

/// The next chunk; the permit goes with the last one, not with the stream, which may be kept after its end.
async fn next_with_permit(held: Held) -> Option<(Result<Bytes>, Held)> {
    let (mut stream, permit) = held?;
    let chunk = stream.next().await?;
    let held = chunk.is_ok().then_some((stream, permit));
    Some((chunk, held))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::storage::fault::{Fault, FaultRule, Faulty};
    use crate::storage::{MemoryStore, ObjectStoreExt, conformance};

    fn limited(requests: usize, bytes: u64) -> Arc<Limited> {
        Arc::new(Limited::new(Arc::new(MemoryStore::new()), &LimitOptions { requests, bytes }))
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn keeps_the_contract_at_one_request() {
        conformance::run(limited(1, 10_000)).await;
    }

    #[tokio::test]
    async fn reader_counts_until_it_is_read_or_dropped() {
        let store = limited(2, u64::MAX);
        store.create_bytes(&key("a"), "x").await.unwrap();
        let is_free = || store.get(&key("a"), None).now_or_never().is_some();
        let first = store.get(&key("a"), None).await.unwrap();
        let second = store.get(&key("a"), None).await.unwrap();
        assert!(!is_free(), "a third read was let through");
        assert!(store.head(&key("a")).now_or_never().is_some(), "a reader is in the way of other requests");
        drop(first);
        assert!(is_free());
        let _third = store.get(&key("a"), None).await.unwrap();
        assert!(!is_free());
        second.bytes(1).await.unwrap();
        assert!(is_free());
    }

    #[tokio::test]
    async fn bytes_in_flight_are_bounded_and_a_larger_payload_goes_alone() {
        let memory = Arc::new(MemoryStore::new());
        let stalling = Arc::new(Faulty::new(memory, 1));
        stalling.add(FaultRule::new(Fault::Stall).keys("stuck"));
        let store = Limited::new(stalling, &LimitOptions { requests: 10, bytes: 10_240 });
        store.create_bytes(&key("large"), vec![0; 100_000]).await.unwrap();
        let (stuck, small, larger) = (key("stuck"), key("small"), key("larger"));
        let mut stuck_put = store.create_bytes(&stuck, vec![0; 6_000]);
        assert!((&mut stuck_put).now_or_never().is_none());
        assert!(store.create_bytes(&small, vec![0; 4_000]).now_or_never().is_some());
        assert!(store.create_bytes(&larger, vec![0; 5_000]).now_or_never().is_none(), "more bytes than the limit");
    }

    #[tokio::test]
    async fn listing_is_not_in_the_way_of_what_it_names() {
        let store = limited(1, u64::MAX);
        store.create_bytes(&key("a"), "x").await.unwrap();
        let root = KeyPrefix::root();
        let mut listed = store.list(&root);
        let meta = listed.next().await.unwrap().unwrap();
        assert_eq!(store.get_bytes(&meta.key, 1).now_or_never().unwrap().unwrap(), "x");
    }
}
