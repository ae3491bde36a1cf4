//! How many bytes of each pack a backup needs: every frame counts once.

use std::collections::{BTreeMap, HashSet};

use pitr::repository::backup::PackId;

use super::maps::LiveFrame;
use crate::backup::incremental::packs::Packs;

/// Frames that are remembered, once and once more. A frame in more than one map is one at the border of neighbours, which are
/// finished soon after each other.
const REMEMBERED: usize = 256 << 10;

/// Adds up what maps need.
#[derive(Debug, Default)]
pub struct LiveBytes {
    packs: BTreeMap<u32, u64>,
    recent: HashSet<(u32, u64)>,
    before: HashSet<(u32, u64)>,
}

impl LiveBytes {
    /// A frame that a map needs; a map names each of its frames once.
    pub fn add(&mut self, frame: LiveFrame) {
        let place = (frame.pack, frame.offset);
        // A frame of this backup was filled for one map.
        if Packs::is_other(frame.pack) {
            if self.before.contains(&place) || !self.recent.insert(place) {
                return;
            }
            if self.recent.len() >= REMEMBERED {
                self.before = std::mem::take(&mut self.recent);
            }
        }
        *self.packs.entry(frame.pack).or_insert(0) += u64::from(frame.stored_bytes);
    }

    #[must_use]
    pub fn by_pack(&self, packs: &Packs) -> BTreeMap<PackId, u64> {
        self.packs.iter().map(|(number, bytes)| (packs.id(*number), *bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_two_maps_counts_once() {
        let packs = Packs::new("20261122T063100Z".parse().unwrap());
        let id: PackId = "20261121T063100Z/00000002".parse().unwrap();
        let pack = packs.number(&id);
        let mut live = LiveBytes::default();
        for offset in [100, 200, 100, 300, 200] {
            live.add(LiveFrame { pack, offset, stored_bytes: 10 });
        }
        for _ in 0..2 {
            for offset in 0..REMEMBERED as u64 {
                live.add(LiveFrame { pack: pack + 1, offset, stored_bytes: 1 });
            }
        }
        assert_eq!(live.packs, BTreeMap::from([(pack, 30), (pack + 1, REMEMBERED as u64)]));
        assert_eq!(packs.id(pack), id);
    }
}
