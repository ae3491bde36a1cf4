//! The one layer that tries again.
//!
//! Below it nothing repeats a whole request, above it nobody has to. What it hands out is never
//! [`ErrorKind::Transient`]: either the operation succeeded, or the store answered, or the
//! deadline passed.
//!
//! - **A put whose answer got lost** may have had its effect. When a later attempt meets an object where there should be none
//!   (or another version than expected), size and content are compared with what we put: the same means that it was us.
//! - **A read that breaks** goes on where it stopped, as long as the object is the same version.
//! - **A listing that breaks** starts again and leaves out what was delivered; it stays sorted and complete.

mod policy;
mod resume;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};

pub use self::policy::{Attempts, RetryPolicy};
use super::{
    ByteRange, Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation, Payload,
    PutMode, Result, settle,
};

/// A store that tries again what failed in passing.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
}

impl Retrying {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }
}

#[async_trait]
impl ObjectStore for Retrying {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        let mut attempts = self.policy.begin();
        loop {
            let error = match self.inner.put(key, body.clone(), mode.clone()).await {
                Ok(meta) => return Ok(meta),
                Err(error) => error,
            };
            let contradicts = matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Changed);
            if !(contradicts && attempts.have_failed()) {
                attempts.after(error).await?;
                continue;
            }
            match settle::find_same(self.inner.as_ref(), key, &body).await {
                Ok(Some(meta)) => return Ok(meta),
                Ok(None) => return Err(error),
                Err(unsettled) if unsettled.is_not_found() => {
                    let reason = "the object was there and is gone again";
                    attempts.after(Error::new(ErrorKind::Transient, Operation::Put, key, reason)).await?;
                }
                Err(unsettled) => attempts.after(unsettled).await?,
            }
        }
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let reader = self.policy.run(|| self.inner.get(key, range)).await?;
        Ok(resume::resumable(Arc::clone(&self.inner), self.policy.clone(), range, reader))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.policy.run(|| self.inner.head(key)).await
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        let listing = Listing { store: self, prefix, stream: None, last: None, attempts: None };
        stream::try_unfold(listing, |mut listing| async move {
            let next = listing.next().await?;
            Ok(next.map(|meta| (meta, listing)))
        })
        .boxed()
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        self.policy.run(|| self.inner.list_children(prefix)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        self.policy.run(|| self.inner.delete(keys)).await
    }
}

/// A listing that can start again.
struct Listing<'a> {
    store: &'a Retrying,
    prefix: &'a KeyPrefix,
    stream: Option<BoxStream<'a, Result<ObjectMeta>>>,
    /// What was delivered last; in key order, so everything up to it was.
    last: Option<ObjectKey>,
    /// Since the last entry that was new.
    attempts: Option<Attempts>,
}

impl Listing<'_> {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            let stream = self.stream.get_or_insert_with(|| self.store.inner.list(self.prefix));
            match stream.next().await {
                None => return Ok(None),
                Some(Ok(meta)) if self.last.as_ref().is_some_and(|last| meta.key <= *last) => {}
                Some(Ok(meta)) => {
                    self.attempts = None;
                    self.last = Some(meta.key.clone());
                    return Ok(Some(meta));
                }
                Some(Err(error)) => {
                    self.stream = None;
                    self.attempts.get_or_insert_with(|| self.store.policy.begin()).after(error).await?;
                }
            }
        }
    }
}
