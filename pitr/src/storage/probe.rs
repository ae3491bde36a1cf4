//! What a store can do, found out by trying.

use super::{Error, ErrorKind, KeyPrefix, ObjectKey, ObjectStore, ObjectStoreExt, Operation, Result};

/// Whether the store refuses to create what exists, which some accept as a request and do not do. Two creations of one object
/// under a random key below `probe/`: the second one has to be refused and must have no effect. The object is deleted again,
/// whatever happens.
///
/// # Errors
/// What the store says to the puts, the read or the deletion.
pub async fn probe_create_only(store: &dyn ObjectStore) -> Result<bool> {
    let prefix = KeyPrefix::root().child("probe").map_err(|error| invalid("probe/").with_source(error))?;
    let name = format!("create-only-{:016x}", rand::random::<u64>());
    let key = prefix.key(&name).map_err(|error| invalid(&name).with_source(error))?;
    let answer = create_twice(store, &key).await;
    let cleaned = store.delete(std::slice::from_ref(&key)).await;
    let answer = answer?;
    cleaned?;
    Ok(answer)
}

fn invalid(key: &str) -> Error {
    Error::new(ErrorKind::Invalid, Operation::Put, key, "the key of the probe is invalid")
}

async fn create_twice(store: &dyn ObjectStore, key: &ObjectKey) -> Result<bool> {
    store.create_bytes(key, "first").await?;
    match store.create_bytes(key, "second").await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(store.get_bytes(key, 64).await? == "first"),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::stream::BoxStream;

    use super::*;
    use crate::storage::fault::{Fault, FaultRule, Faulty};
    use crate::storage::{ByteRange, MemoryStore, ObjectMeta, ObjectReader, Payload, PutMode};

    /// Takes a create for an overwrite, as several stores do.
    #[derive(Debug)]
    struct Ignoring(MemoryStore);

    #[async_trait]
    impl ObjectStore for Ignoring {
        async fn put(&self, key: &ObjectKey, body: Payload, _: PutMode) -> Result<ObjectMeta> {
            self.0.put(key, body, PutMode::Overwrite).await
        }
        async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
            self.0.get(key, range).await
        }
        async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
            self.0.head(key).await
        }
        fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
            self.0.list_children(prefix).await
        }
        async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
            self.0.delete(keys).await
        }
    }

    async fn is_empty(store: &dyn ObjectStore) -> bool {
        store.list_all(&KeyPrefix::root(), 10).await.unwrap().is_empty()
    }

    #[tokio::test]
    async fn tells_stores_apart_and_leaves_nothing() {
        for (store, expected) in [
            (Arc::new(MemoryStore::new()) as Arc<dyn ObjectStore>, true),
            (Arc::new(Ignoring(MemoryStore::new())), false),
        ] {
            assert_eq!(probe_create_only(store.as_ref()).await.unwrap(), expected);
            assert!(is_empty(store.as_ref()).await);
        }
    }

    #[tokio::test]
    async fn cleans_up_when_it_fails() {
        let faulty = Faulty::new(Arc::new(MemoryStore::new()), 1);
        faulty.add(FaultRule::new(Fault::ErrorAfter(ErrorKind::Denied)).on(Operation::Put).nth(2));
        faulty.add(FaultRule::new(Fault::ErrorAfter(ErrorKind::Denied)).on(Operation::Get));
        assert!(probe_create_only(&faulty).await.is_err());
        assert!(is_empty(&faulty).await);
    }
}
