//! From options to a store.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

#[cfg(feature = "s3")]
use super::Prefixed;
use super::{
    KeyPrefix, Limited, LocalStore, Meter, Metered, ObjectStore, Result, RetryPolicy, Retrying, StorageOptions,
    StorageUrl,
};

/// The store at the place that the options name, ready for use: `Metered(Retrying(Limited(store)))`. Nothing is created: a
/// local directory is made by [`LocalStore::create`], a bucket by whoever owns the account.
///
/// # Errors
/// [`ErrorKind::NoContainer`](super::ErrorKind::NoContainer) for a directory that is missing; a bucket is first asked when it is used.
pub async fn open(options: &StorageOptions) -> Result<Arc<dyn ObjectStore>> {
    open_observed(options, &Meter::new(), &CancellationToken::new()).await
}

/// As [`open`], counting into `meter`. When `cancel` is cancelled nothing is tried again.
///
/// # Errors
/// As [`open`].
pub async fn open_observed(
    options: &StorageOptions,
    meter: &Meter,
    cancel: &CancellationToken,
) -> Result<Arc<dyn ObjectStore>> {
    let policy = RetryPolicy::new(options.retry.clone()).counted_by(meter.clone()).cancelled_by(cancel.clone());
    let store: Arc<dyn ObjectStore> = match &options.url {
        StorageUrl::File { path } => Arc::new(LocalStore::open(path).await?),
        StorageUrl::S3 { bucket, prefix } => open_s3(options, bucket, prefix, policy.clone()).await?,
    };
    let limited = Arc::new(Limited::new(store, &options.concurrency));
    Ok(Arc::new(Metered::new(Arc::new(Retrying::new(limited, policy)), meter.clone())))
}

#[cfg(feature = "s3")]
async fn open_s3(
    options: &StorageOptions,
    bucket: &str,
    prefix: &KeyPrefix,
    policy: RetryPolicy,
) -> Result<Arc<dyn ObjectStore>> {
    let store = Arc::new(super::S3Store::open(bucket, &options.s3, policy).await?);
    Ok(Arc::new(Prefixed::new(store, prefix.clone())))
}

#[cfg(not(feature = "s3"))]
async fn open_s3(options: &StorageOptions, _: &str, _: &KeyPrefix, _: RetryPolicy) -> Result<Arc<dyn ObjectStore>> {
    let reason = "this build has no support for S3";
    Err(super::Error::new(super::ErrorKind::Invalid, super::Operation::Open, &options.url, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{ErrorKind, Operation, conformance};

    fn options(path: &std::path::Path) -> StorageOptions {
        StorageOptions::new(StorageUrl::File { path: path.to_owned() })
    }

    #[tokio::test]
    async fn opens_a_directory_that_exists_and_makes_none() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("repository");
        assert_eq!(open(&options(&path)).await.unwrap_err().kind(), ErrorKind::NoContainer);
        LocalStore::create(&path).await.unwrap();
        conformance::run(open(&options(&path)).await.unwrap()).await;
    }

    #[tokio::test]
    async fn counts_into_the_meter_that_was_given() {
        let scratch = tempfile::tempdir().unwrap();
        let meter = Meter::new();
        let store = open_observed(&options(scratch.path()), &meter, &CancellationToken::new()).await.unwrap();
        store.delete(&[]).await.unwrap();
        assert_eq!(meter.figures()[&Operation::Delete].requests, 1);
    }
}
