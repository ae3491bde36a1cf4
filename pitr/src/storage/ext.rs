//! What users of a store do often, on top of the port.

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;

use super::{ByteRange, Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectStore, Operation, PutMode, Result};

/// Convenience for every store, `dyn` ones included.
#[async_trait]
pub trait ObjectStoreExt: ObjectStore {
    /// Creates the object from bytes.
    ///
    /// # Errors
    /// As [`ObjectStore::put`] with [`PutMode::CreateNew`].
    async fn create_bytes(&self, key: &ObjectKey, bytes: impl Into<Bytes> + Send) -> Result<ObjectMeta> {
        self.put_bytes(key, bytes, PutMode::CreateNew).await
    }

    /// Puts bytes, in the mode of the caller.
    ///
    /// # Errors
    /// As [`ObjectStore::put`].
    async fn put_bytes(&self, key: &ObjectKey, bytes: impl Into<Bytes> + Send, mode: PutMode) -> Result<ObjectMeta> {
        let bytes: Bytes = bytes.into();
        self.put(key, bytes.into(), mode).await
    }

    /// Creates the object, or finds it there with the same content: the way to put what is a function of its key, such as a
    /// WAL segment, where an earlier attempt of anybody may have succeeded already. True when it was created now.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the object is there with other content.
    async fn create_or_match(&self, key: &ObjectKey, bytes: impl Into<Bytes> + Send) -> Result<bool> {
        let bytes: Bytes = bytes.into();
        match self.put(key, bytes.clone().into(), PutMode::CreateNew).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let reader = self.get(key, None).await?;
                let same = reader.size_bytes == bytes.len() as u64 && reader.bytes(bytes.len() as u64).await? == bytes;
                if same { Ok(false) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// The whole object, which has at most `limit` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is larger.
    async fn get_bytes(&self, key: &ObjectKey, limit: u64) -> Result<Bytes> {
        self.get(key, None).await?.bytes(limit).await
    }

    /// The whole object with what the store says of it, none where there is none.
    ///
    /// # Errors
    /// As [`ObjectStoreExt::get_bytes`], but for the missing object.
    async fn find_bytes(&self, key: &ObjectKey, limit: u64) -> Result<Option<(ObjectMeta, Bytes)>> {
        match self.get(key, None).await {
            Ok(reader) => {
                let meta = reader.meta.clone();
                Ok(Some((meta, reader.bytes(limit).await?)))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    /// As [`ObjectStore::get`].
    async fn get_range(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes> {
        self.get(key, Some(range)).await?.bytes(range.size_bytes()).await
    }

    /// Whether the store has the object: false is its own answer, never a guess.
    ///
    /// # Errors
    /// As [`ObjectStore::head`], but for the missing object.
    async fn exists(&self, key: &ObjectKey) -> Result<bool> {
        Ok(self.find(key).await?.is_some())
    }

    /// What the store says of the object, none where there is none.
    ///
    /// # Errors
    /// As [`ObjectStore::head`], but for the missing object.
    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>> {
        match self.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects below `prefix`, of which there are at most `limit`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there are more: a part would be taken for the whole.
    async fn list_all(&self, prefix: &KeyPrefix, limit: usize) -> Result<Vec<ObjectMeta>> {
        let mut objects = Vec::new();
        let mut stream = self.list(prefix);
        while let Some(meta) = stream.try_next().await? {
            if objects.len() == limit {
                let reason = format!("more than {limit} objects");
                return Err(Error::new(ErrorKind::Invalid, Operation::List, prefix, reason));
            }
            objects.push(meta);
        }
        Ok(objects)
    }
}

impl<S: ObjectStore + ?Sized> ObjectStoreExt for S {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStore;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn create_or_match_tells_same_from_other() {
        let store = MemoryStore::new();
        assert!(store.create_or_match(&key("a"), "one").await.unwrap());
        assert!(!store.create_or_match(&key("a"), "one").await.unwrap());
        for other in ["two", "on", "onee", ""] {
            assert_eq!(store.create_or_match(&key("a"), other).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(store.get_bytes(&key("a"), 3).await.unwrap(), "one");
    }

    #[tokio::test]
    async fn limits_are_errors_not_cuts() {
        let store = MemoryStore::new();
        for name in ["p/a", "p/b", "p/c"] {
            store.create_bytes(&key(name), "1234").await.unwrap();
        }
        let prefix = KeyPrefix::new("p/").unwrap();
        assert_eq!(store.list_all(&prefix, 3).await.unwrap().len(), 3);
        assert_eq!(store.list_all(&prefix, 2).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(store.get_bytes(&key("p/a"), 3).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn absence_is_none_and_trouble_is_not() {
        let store = MemoryStore::new();
        assert!(!store.exists(&key("a")).await.unwrap());
        assert!(store.find_bytes(&key("a"), 1).await.unwrap().is_none());
        store.create_bytes(&key("a"), "").await.unwrap();
        assert!(store.exists(&key("a")).await.unwrap());
        assert_eq!(store.find_bytes(&key("a"), 1).await.unwrap().unwrap().1, "");
    }
}
