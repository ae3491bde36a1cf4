//! Objects in memory, for tests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};

use super::{
    ByteRange, Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation, Payload,
    PutMode, Result, VersionTag,
};
use crate::clock::{Clock, SystemClock};

/// Bytes that a reader delivers at once: small, so that readers meet more than one chunk.
const CHUNK_BYTES: usize = 64 * 1024;

/// A store that lives as long as the last clone of it.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Object>,
    versions: u64,
}

#[derive(Debug)]
struct Object {
    content: Bytes,
    modified: DateTime<Utc>,
    version: u64,
}

impl Object {
    fn meta(&self, key: &ObjectKey) -> ObjectMeta {
        ObjectMeta {
            key: key.clone(),
            size_bytes: self.content.len() as u64,
            modified: self.modified,
            tag: VersionTag::new(self.version.to_string()),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl MemoryStore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { state: Arc::default(), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, operation: Operation, key: &ObjectKey) -> Result<(ObjectMeta, Bytes)> {
        let state = self.state();
        let object = state
            .objects
            .get(key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, key, "there is no such object"))?;
        Ok((object.meta(key), object.content.clone()))
    }

    fn metas_below(&self, prefix: &KeyPrefix) -> Vec<ObjectMeta> {
        let state = self.state();
        let start: Bound<ObjectKey> =
            ObjectKey::new(prefix.as_str().trim_end_matches('/')).map_or(Bound::Unbounded, Bound::Excluded);
        let objects = state.objects.range((start, Bound::Unbounded));
        objects
            .skip_while(|(key, _)| key.as_str() < prefix.as_str())
            .take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()))
            .map(|(key, object)| object.meta(key))
            .collect()
    }
}

async fn collect(key: &ObjectKey, body: Payload) -> Result<Bytes> {
    match body {
        Payload::Chunks(chunks) => {
            let mut content = BytesMut::new();
            chunks.iter().for_each(|chunk| content.extend_from_slice(chunk));
            Ok(content.freeze())
        }
        Payload::File { path, size_bytes } => {
            let invalid = |reason: String| Error::new(ErrorKind::Invalid, Operation::Put, key, reason);
            let content = tokio::fs::read(&path)
                .await
                .map_err(|error| invalid(format!("{} cannot be read", path.display())).with_source(error))?;
            if content.len() as u64 == size_bytes {
                Ok(content.into())
            } else {
                Err(invalid(format!("{} has {} bytes instead of {size_bytes}", path.display(), content.len())))
            }
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        let content = collect(key, body).await?;
        let mut state = self.state();
        let refused = |kind, reason: &str| Err(Error::new(kind, Operation::Put, key, reason));
        match (&mode, state.objects.get(key)) {
            (PutMode::CreateNew, Some(_)) => return refused(ErrorKind::AlreadyExists, "the object exists"),
            (PutMode::Replace(tag), current) if current.is_none_or(|object| object.meta(key).tag != *tag) => {
                return refused(ErrorKind::Changed, "the object is another version");
            }
            _ => {}
        }
        state.versions += 1;
        let object = Object { content, modified: self.clock.now(), version: state.versions };
        let meta = object.meta(key);
        state.objects.insert(key.clone(), object);
        Ok(meta)
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let (meta, content) = self.find(Operation::Get, key)?;
        let wanted = range.map_or(0..meta.size_bytes, ByteRange::as_range);
        if wanted.end > meta.size_bytes {
            let reason = format!("bytes {} to {} were asked of {}", wanted.start, wanted.end, meta.size_bytes);
            return Err(Error::new(ErrorKind::Invalid, Operation::Get, key, reason));
        }
        let bound = |position: u64| usize::try_from(position).expect("a position in a buffer fits into usize");
        let mut rest = content.slice(bound(wanted.start)..bound(wanted.end));
        let size_bytes = rest.len() as u64;
        let chunks =
            std::iter::from_fn(move || (!rest.is_empty()).then(|| Ok(rest.split_to(CHUNK_BYTES.min(rest.len())))));
        Ok(ObjectReader { size_bytes, meta, stream: stream::iter(chunks).boxed() })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.find(Operation::Head, key).map(|(meta, _)| meta)
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        let metas = stream::once(async move { stream::iter(self.metas_below(prefix).into_iter().map(Ok)) });
        metas.flatten().boxed()
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        let mut children: Vec<KeyPrefix> = Vec::new();
        for meta in self.metas_below(prefix) {
            let below = meta.key.as_str().get(prefix.as_str().len()..).and_then(|rest| rest.split_once('/'));
            let child = below.and_then(|(name, _)| prefix.child(name).ok());
            if let Some(child) = child.filter(|child| children.last() != Some(child)) {
                children.push(child);
            }
        }
        Ok(children)
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let mut state = self.state();
        for key in keys {
            state.objects.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::run(Arc::new(MemoryStore::new())).await;
    }
}
