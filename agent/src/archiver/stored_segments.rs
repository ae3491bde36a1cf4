//! What we remember of whole segments that are durable: their hashes, so that the same segment is known again when it comes
//! by another way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use pitr::postgres::SegmentName;
use pitr::repository::hash::ContentHash;

/// As many as a server that catches up hands over again; 100 bytes each.
const REMEMBERED: usize = 4096;

/// Cheap to clone; all clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct StoredSegments(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    hashes: HashMap<SegmentName, ContentHash>,
    /// Oldest first.
    order: VecDeque<SegmentName>,
}

impl StoredSegments {
    /// Hash of the content that is durable under this name; none says nothing.
    #[must_use]
    pub fn hash(&self, segment: SegmentName) -> Option<ContentHash> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hashes.get(&segment).copied()
    }

    pub(super) fn insert(&self, segment: SegmentName, hash: ContentHash) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.hashes.insert(segment, hash).is_some() {
            return;
        }
        known.order.push_back(segment);
        if known.order.len() > REMEMBERED
            && let Some(oldest) = known.order.pop_front()
        {
            known.hashes.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use pitr::postgres::{SegmentNumber, TimelineId, WalSegmentSize};

    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let stored = StoredSegments::default();
        let name = |number| SegmentNumber::new(number).name(TimelineId::FIRST, WalSegmentSize::DEFAULT);
        let hash = ContentHash::of(b"x");
        for number in 0..=REMEMBERED as u64 {
            stored.insert(name(number), hash);
            stored.insert(name(number), hash);
        }
        assert_eq!((stored.hash(name(0)), stored.hash(name(1))), (None, Some(hash)));
        assert_eq!(stored.0.lock().unwrap().order.len(), REMEMBERED);
    }
}
