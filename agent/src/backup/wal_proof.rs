//! The proof that the WAL which makes a backup consistent is in the repository.

use std::collections::HashMap;

use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::wal_store::{WalLog, WalStore};

use super::error::{BackupError, Result};

/// Looks for every segment from the one of `start_lsn` on up to `stop_lsn`, by what the store lists.
///
/// # Errors
/// [`BackupError::WalMissing`] with the first hole.
pub async fn prove(wal: &WalStore, tli: TimelineId, start_lsn: Lsn, stop_lsn: Lsn) -> Result<()> {
    let size = wal.lineage().lineage().wal_segment_size;
    let last = size.segment_before(stop_lsn);
    let mut segment = size.segment_of(start_lsn);
    let mut logs: HashMap<u32, WalLog> = HashMap::new();
    while segment <= last {
        let name = segment.name(tli, size);
        if !logs.contains_key(&name.log()) {
            logs.clear();
            logs.insert(name.log(), wal.log(tli, name.log()).await?);
        }
        let start = size.start_of(segment);
        let found = match logs.get(&name.log()) {
            Some(log) if log.segments.binary_search(&name).is_ok() => size.end_of(segment),
            Some(log) => log.tails_end(name, start),
            None => start,
        };
        let wanted = if segment == last { stop_lsn } else { size.end_of(segment) };
        if found < wanted {
            return Err(BackupError::WalMissing { segment: name, found, wanted });
        }
        segment = segment.next();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pitr::postgres::{SegmentNumber, SystemIdentifier, WalSegmentSize};
    use pitr::storage::{MemoryStore, ObjectKey, PutMode};

    use super::*;
    use crate::backup::testing;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    struct Archive(WalStore);

    impl Archive {
        async fn new() -> Self {
            Self(WalStore::new(testing::lineage(Arc::new(MemoryStore::new()), SystemIdentifier::new(7)).await))
        }

        /// Only names are looked at.
        async fn put(&self, key: ObjectKey) {
            self.0.lineage().store().put(&key, b"x".to_vec().into(), PutMode::CreateNew).await.unwrap();
        }

        async fn segment(&self, number: u64) {
            let name = SegmentNumber::new(number).name(TimelineId::FIRST, SIZE);
            self.put(self.0.lineage().layout().segment(name)).await;
        }

        async fn tail(&self, number: u64, from: u64, to: u64) {
            let name = SegmentNumber::new(number).name(TimelineId::FIRST, SIZE);
            let start = SIZE.start_of(SegmentNumber::new(number));
            let key = self.0.lineage().layout().tail(name, start.advance(from), start.advance(to));
            self.put(key).await;
        }

        async fn prove(&self, start: Lsn, stop: Lsn) -> Result<()> {
            prove(&self.0, TimelineId::FIRST, start, stop).await
        }
    }

    fn at(segment: u64, offset: u64) -> Lsn {
        SIZE.start_of(SegmentNumber::new(segment)).advance(offset)
    }

    fn hole(result: Result<()>) -> (String, Lsn) {
        match result {
            Err(BackupError::WalMissing { segment, found, .. }) => (segment.to_string(), found),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn segments_and_the_tails_of_the_last_one_are_enough() {
        let archive = Archive::new().await;
        for number in 254..258 {
            archive.segment(number).await;
        }
        archive.tail(258, 0, 4096).await;
        archive.tail(258, 4096, 8192).await;
        archive.prove(at(254, 40), at(258, 8192)).await.unwrap();
        // A backup that ends at the boundary does not need the segment behind it.
        archive.prove(at(257, 40), at(258, 0)).await.unwrap();
        assert_eq!(hole(archive.prove(at(254, 40), at(258, 8193)).await).1, at(258, 8192));
    }

    #[tokio::test]
    async fn names_the_first_hole() {
        let archive = Archive::new().await;
        for number in [2, 3, 5] {
            archive.segment(number).await;
        }
        let (segment, found) = hole(archive.prove(at(2, 40), at(5, 100)).await);
        assert_eq!((segment.as_str(), found), ("000000010000000000000004", at(4, 0)));
        archive.tail(4, 0, 8192).await;
        assert_eq!(hole(archive.prove(at(2, 40), at(5, 100)).await).1, at(4, 8192));
        assert_eq!(hole(archive.prove(at(1, 40), at(3, 100)).await).0, "000000010000000000000001");
    }
}
