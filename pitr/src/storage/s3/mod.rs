//! Objects in S3, or a store that speaks as S3 does.
//!
//! - **Nothing is tried again by the SDK.** Whole operations are repeated by [`Retrying`](super::Retrying) alone; inside, only
//!   the pieces of a large operation are, by the same policy: a part of an upload, a page of a listing.
//! - **A put is one request or a multipart upload**, by its size. Both are atomic: an upload becomes an object when it is
//!   completed. An upload that fails is aborted; one that is dropped or whose process dies leaves parts that nobody sees and
//!   that a lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) should clear.
//! - **Bodies are streamed, with their length and checksum in headers**, both known beforehand because payloads can be read
//!   twice. So no request is `aws-chunked`, which some stores refuse, and no content is hashed for the signature.
//! - **Create and replace** are conditional requests, on single puts and on the completion of an upload alike.
//! - **Absence is the store's answer.** `NoSuchKey` says that an object is missing and `NoSuchBucket` that the bucket is. An
//!   answer to HEAD has no body, so after its 404 the bucket itself is asked for. Any other 404 is no answer at all.
//! - **Stalls**: a request that moves no byte for a while has failed, whether it is sending, waiting or receiving.
//! - **Listings** are put in order here, because not every store sorts as S3 does.

mod body;
mod client;
mod delete;
mod error;
mod list;
mod multipart;
mod parts;
mod put;
mod read;
mod stall;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use futures::stream::BoxStream;

use super::{
    ByteRange, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Payload, PutMode, Result, RetryPolicy,
    S3Options,
};
use crate::clock::{Clock, SystemClock};

/// A bucket as an object store.
#[derive(Clone)]
pub struct S3Store {
    bucket: Arc<Bucket>,
}

/// What every operation needs.
struct Bucket {
    client: Client,
    name: String,
    options: S3Options,
    /// Tags as a query string, the way S3 takes them.
    tagging: Option<String>,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("bucket", &self.bucket.name).field("options", &self.bucket.options).finish()
    }
}

impl S3Store {
    /// The bucket `name`. Nothing is asked of the store yet, but credentials and region are looked up.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](super::ErrorKind::Invalid) for options that cannot work.
    pub async fn open(name: &str, options: &S3Options, policy: RetryPolicy) -> Result<Self> {
        let client = client::connect(name, options).await?;
        if options.create_only == super::options::CreateOnly::Emulated {
            tracing::warn!(
                bucket = name,
                "this store is used without conditional puts: two agents that create one object at once may not notice"
            );
        }
        let bucket = Bucket {
            client,
            name: name.to_owned(),
            options: options.clone(),
            tagging: put::tagging(&options.tags),
            policy,
            clock: Arc::new(SystemClock),
        };
        Ok(Self { bucket: Arc::new(bucket) })
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        self.put_object(key, &body, &mode).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        self.bucket.get(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.bucket.head(key).await
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        self.bucket.list(prefix)
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        self.bucket.children(prefix).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        self.bucket.delete(keys).await
    }
}

#[cfg(test)]
mod tests;
