//! What the tests of backups share.

mod reader;

pub use reader::Reader;

use std::sync::Arc;

use pitr::clock::SystemClock;
use pitr::postgres::{ServerVersion, SystemIdentifier, WalSegmentSize};
use pitr::repository::lineage::{Lineage, LineageId};
use pitr::repository::{LineageStore, Repository};
use pitr::storage::ObjectStore;

/// A lineage in a new repository.
pub async fn lineage(store: Arc<dyn ObjectStore>, system_identifier: SystemIdentifier) -> LineageStore {
    let repository = Repository::open_or_create(store, &SystemClock).await.unwrap();
    let wanted = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(system_identifier, 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: WalSegmentSize::DEFAULT,
        created: "2026-11-22T06:31:00Z".parse().unwrap(),
        restore: None,
    };
    repository.ensure_lineage(&wanted).await.unwrap()
}
