//! A store within a store: all keys below one prefix.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

use super::{
    ByteRange, Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation, Payload,
    PutMode, Result,
};

/// Entries of a listing that may wait between the inner stream and ours.
const LISTED_AHEAD: usize = 16;

/// The part of a store below a prefix, as a store. Its errors name the whole key, by which a person finds the object.
#[derive(Debug)]
pub struct Prefixed {
    inner: Arc<dyn ObjectStore>,
    prefix: KeyPrefix,
}

impl Prefixed {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: KeyPrefix) -> Self {
        Self { inner, prefix }
    }

    fn inside(&self, operation: Operation, key: &ObjectKey) -> Result<ObjectKey> {
        ObjectKey::with_prefix(format!("{}{key}", self.prefix)).map_err(|error| {
            Error::new(ErrorKind::Invalid, operation, key, "the key is too long with its prefix").with_source(error)
        })
    }

    fn prefix_inside(&self, prefix: &KeyPrefix) -> Result<KeyPrefix> {
        KeyPrefix::with_prefix(format!("{}{prefix}", self.prefix)).map_err(|error| {
            Error::new(ErrorKind::Invalid, Operation::List, prefix, "the prefix is too long").with_source(error)
        })
    }

    async fn send_list(&self, prefix: &KeyPrefix, sender: mpsc::Sender<Result<ObjectMeta>>) {
        let inside = match self.prefix_inside(prefix) {
            Ok(inside) => inside,
            Err(error) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        let mut listed = self.inner.list(&inside);
        while let Some(meta) = listed.next().await {
            let meta = meta.and_then(|meta| self.outside(Operation::List, meta));
            if sender.send(meta).await.is_err() {
                return;
            }
        }
    }

    fn outside(&self, operation: Operation, mut meta: ObjectMeta) -> Result<ObjectMeta> {
        meta.key = meta
            .key
            .as_str()
            .strip_prefix(self.prefix.as_str())
            .and_then(|key| ObjectKey::new(key).ok())
            .ok_or_else(|| foreign(operation, meta.key.as_str()))?;
        Ok(meta)
    }
}

fn foreign(operation: Operation, key: &str) -> Error {
    Error::new(ErrorKind::Corrupt, operation, key, "the store answered with another key")
}

#[async_trait]
impl ObjectStore for Prefixed {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        let meta = self.inner.put(&self.inside(Operation::Put, key)?, body, mode).await?;
        self.outside(Operation::Put, meta)
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let mut reader = self.inner.get(&self.inside(Operation::Get, key)?, range).await?;
        reader.meta = self.outside(Operation::Get, reader.meta)?;
        Ok(reader)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let meta = self.inner.head(&self.inside(Operation::Head, key)?).await?;
        self.outside(Operation::Head, meta)
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        // The inner stream borrows its prefix, which therefore lives in a future beside it; both are polled as one stream.
        let (sender, receiver) = mpsc::channel(LISTED_AHEAD);
        let producer = stream::once(self.send_list(prefix, sender)).filter_map(|()| async { None });
        let listed = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        stream::select(listed, producer).boxed()
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        let children = self.inner.list_children(&self.prefix_inside(prefix)?).await?;
        let outside = |child: KeyPrefix| {
            let below = child.as_str().strip_prefix(self.prefix.as_str()).and_then(|text| KeyPrefix::new(text).ok());
            below.ok_or_else(|| foreign(Operation::List, child.as_str()))
        };
        children.into_iter().map(outside).collect()
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let keys: Vec<ObjectKey> = keys.iter().map(|key| self.inside(Operation::Delete, key)).collect::<Result<_>>()?;
        self.inner.delete(&keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStore, ObjectStoreExt, conformance};

    #[tokio::test]
    async fn keeps_the_contract() {
        let prefix = KeyPrefix::new("some/where/").unwrap();
        conformance::run(Arc::new(Prefixed::new(Arc::new(MemoryStore::new()), prefix))).await;
    }

    #[tokio::test]
    async fn sees_only_what_is_below_its_prefix() {
        let memory = Arc::new(MemoryStore::new());
        for key in ["a/x", "a-b/y", "b"] {
            memory.create_bytes(&ObjectKey::new(key).unwrap(), key).await.unwrap();
        }
        let store = Prefixed::new(memory, KeyPrefix::new("a/").unwrap());
        let listed = store.list_all(&KeyPrefix::root(), 10).await.unwrap();
        assert_eq!(listed.iter().map(|meta| meta.key.as_str()).collect::<Vec<_>>(), ["x"]);
        assert!(!store.exists(&ObjectKey::new("b").unwrap()).await.unwrap());
    }
}
