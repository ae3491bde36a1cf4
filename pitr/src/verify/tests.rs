//! Verifications of a small repository, whole and damaged in every way.

mod fixture;
mod loss;
mod matrix;
mod whole;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;

use super::*;
use crate::repository::LineageStore;
use crate::storage::{KeyPrefix, ObjectKey, ObjectStore, ObjectStoreExt as _, PutMode};
use fixture::Fixture;

fn options(depth: Depth) -> VerifyOptions {
    let now = crate::repository::catalog::testing::at(3600);
    VerifyOptions { depth, jobs: 2, backup: None, since: None, now }
}

async fn verify(lineage: &LineageStore, depth: Depth) -> LineageReport {
    verify_lineage(lineage, &options(depth), &|_| {}).await.unwrap()
}

/// Every object of a store.
async fn objects(store: &dyn ObjectStore) -> BTreeMap<ObjectKey, Bytes> {
    let metas: Vec<_> = store.list(&KeyPrefix::root()).try_collect().await.unwrap();
    let mut objects = BTreeMap::new();
    for meta in metas {
        let bytes = store.get_bytes(&meta.key, u64::MAX).await.unwrap();
        objects.insert(meta.key, bytes);
    }
    objects
}

async fn replace(store: &dyn ObjectStore, key: &ObjectKey, bytes: Option<Bytes>) {
    match bytes {
        Some(bytes) => drop(store.put_bytes(key, bytes, PutMode::Overwrite).await.unwrap()),
        None => store.delete(std::slice::from_ref(key)).await.unwrap(),
    }
}
