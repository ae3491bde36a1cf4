//! Which pages that WAL did not change are read all the same, and held against the parent's. Pure.
//!
//! Pages are drawn by groups of neighbours, each with a place on a circle that its path gives it. A backup takes the arc
//! behind its parent's; so backup by backup everything gets its turn.

use pitr::postgres::PAGE_SIZE;
use pitr::postgres::page::{Page, page_lsn};
use pitr::repository::backup::StoredPath;
use pitr::wal_summary::Run;

const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// Bytes of neighbours that are drawn together: few packs have their hashes.
const GROUP_BYTES: u64 = 4 << 20;

/// An arc of the circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    start: u32,
    /// One place more is in it.
    places: u32,
}

impl Sample {
    /// About `budget` of `total` bytes, from the place `start` on; none where there is nothing to take.
    #[must_use]
    pub fn new(start: u32, budget: u64, total: u64) -> Option<Self> {
        if budget == 0 || total == 0 {
            return None;
        }
        let places = (u128::from(budget) << 32) / u128::from(total);
        Some(Self { start, places: u32::try_from(places.saturating_sub(1)).unwrap_or(u32::MAX) })
    }

    /// Where the next one starts.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.start.wrapping_add(self.places).wrapping_add(1)
    }

    const fn contains(self, place: u32) -> bool {
        place.wrapping_sub(self.start) <= self.places
    }

    /// Of the first `pages` pages of a file those to look at: they are drawn, and not in `read`. `before` is how many bytes of
    /// other files stand before it in the map that begins with the path `map`.
    #[must_use]
    pub fn of_file(self, map: &StoredPath, before: u64, pages: u32, read: &[Run]) -> Vec<Run> {
        let seed = blake3::hash(map.as_str().as_bytes());
        let seed = seed.as_bytes().first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        let mut drawn: Vec<Run> = Vec::new();
        let mut reads = read.iter().peekable();
        let mut page = 0;
        while page < pages {
            let group = (before + u64::from(page) * PAGE_BYTES) / GROUP_BYTES;
            let left = ((group + 1) * GROUP_BYTES - before).div_ceil(PAGE_BYTES) - u64::from(page);
            let behind = page.saturating_add(u32::try_from(left).unwrap_or(u32::MAX)).min(pages);
            if self.contains(place(seed, group)) {
                while page < behind {
                    while reads.next_if(|run| run.last < page).is_some() {}
                    let next = reads.peek().map_or(behind, |run| run.first.min(behind));
                    if page < next {
                        drawn.push(Run { first: page, last: next - 1 });
                        page = next;
                    } else {
                        page = reads.peek().map_or(behind, |run| run.last.saturating_add(1).min(behind));
                    }
                }
            }
            page = behind;
        }
        drawn
    }
}

/// Spreads the groups of a map over the circle.
fn place(seed: u64, group: u64) -> u32 {
    let mixed = (seed ^ group.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    u32::try_from((mixed ^ mixed >> 29) >> 32).unwrap_or(0)
}

/// Whether two versions of a page say the same, but for hints: what a server may set without a word in the WAL
/// (`MarkBufferDirtyHint`), or has set on one host and not on the other. Masks what `bufmask.c` does.
#[must_use]
pub fn same_but_for_hints(left: &Page, right: &Page) -> bool {
    page_lsn(left) == page_lsn(right) && masked(left) == masked(right)
}

fn masked(page: &Page) -> Box<Page> {
    /// `PD_HAS_FREE_LINES`, `PD_PAGE_FULL`, `PD_ALL_VISIBLE`.
    const FLAGS: u16 = 0x0007;
    const HEADER: usize = 24;
    /// `HEAP_XMIN_COMMITTED` to `HEAP_XMAX_INVALID`.
    const TUPLE_HINTS: u16 = 0x0F00;
    let mut page = Box::new(*page);
    let word = |page: &Page, at: usize| {
        page.get(at..at + 2).and_then(|word| word.try_into().ok()).map_or(0, u16::from_le_bytes)
    };
    let clear = |page: &mut Page, at: usize, bits: u16| {
        let left = word(page, at) & !bits;
        if let Some(target) = page.get_mut(at..at + 2) {
            target.copy_from_slice(&left.to_le_bytes());
        }
    };
    let (lower, special) = (usize::from(word(&page, 12)), usize::from(word(&page, 16)));
    clear(&mut page, 8, u16::MAX);
    clear(&mut page, 10, FLAGS);
    clear(&mut page, 20, u16::MAX);
    clear(&mut page, 22, u16::MAX);
    for at in (HEADER..lower.min(PAGE_SIZE - 4)).step_by(4) {
        let (offset, length) = (usize::from(word(&page, at) & 0x7FFF), word(&page, at + 2) >> 1);
        // `lp_flags` stands between both: entries of indexes are marked dead as a hint.
        clear(&mut page, at, 0x8000);
        clear(&mut page, at + 2, 0x0001);
        if special == PAGE_SIZE && length >= 23 {
            clear(&mut page, offset.saturating_add(20), TUPLE_HINTS);
        }
    }
    // B-tree, hash and GiST pages note here that they have dead entries, and B-trees which VACUUM came by.
    if special == PAGE_SIZE - 16 {
        clear(&mut page, special + 12, u16::MAX);
        clear(&mut page, special + 14, u16::MAX);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> StoredPath {
        text.to_owned().try_into().unwrap()
    }

    fn pages(runs: &[Run]) -> Vec<u32> {
        runs.iter().flat_map(|run| run.first..=run.last).collect()
    }

    #[test]
    fn a_sample_of_everything_is_all_that_is_not_read() {
        let sample = Sample::new(77, 100, 100).unwrap();
        let read = [Run { first: 3, last: 5 }, Run { first: 511, last: 513 }, Run { first: 998, last: 999 }];
        let drawn = sample.of_file(&path("base/5/1"), 12_288, 1000, &read);
        let expected: Vec<u32> = (0..1000).filter(|page| !pages(&read).contains(page)).collect();
        assert_eq!(pages(&drawn), expected);
        assert_eq!(sample.end(), 77);
    }

    #[test]
    fn everything_gets_its_turn_and_each_turn_costs_about_as_much() {
        let (total, budget) = (4000_u64 << 20, 256 << 20);
        let mut start = 0;
        let mut seen = std::collections::BTreeSet::new();
        for turn in 0..17 {
            let sample = Sample::new(start, budget, total).unwrap();
            let drawn: Vec<(u32, u32)> = (0..40)
                .flat_map(|file| {
                    let runs = sample.of_file(&path(&format!("base/5/{file}")), 8192 * u64::from(file), 12_800, &[]);
                    pages(&runs).into_iter().map(move |page| (file, page))
                })
                .collect();
            let bytes = drawn.len() as u64 * PAGE_BYTES;
            assert!((budget / 4..budget * 3).contains(&bytes), "turn {turn}: {bytes}");
            seen.extend(drawn);
            start = sample.end();
        }
        assert_eq!(seen.len(), 40 * 12_800);
    }

    #[test]
    fn nothing_is_drawn_without_a_budget() {
        assert_eq!(Sample::new(5, 0, 100), None);
        assert_eq!(Sample::new(5, 100, 0), None);
    }

    fn heap_page() -> Page {
        let mut page = [0; PAGE_SIZE];
        page[4..8].copy_from_slice(&500_u32.to_le_bytes());
        page[12..14].copy_from_slice(&28_u16.to_le_bytes());
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
        // A tuple of 100 bytes at 8000, `LP_NORMAL`.
        page[24..28].copy_from_slice(&(8000_u32 | 1 << 15 | 100 << 17).to_le_bytes());
        page[8000..8100].fill(7);
        page
    }

    #[test]
    fn hints_are_no_difference_and_anything_else_is() {
        let before = heap_page();
        let changed = |change: &dyn Fn(&mut Page)| {
            let mut page = before;
            change(&mut page);
            same_but_for_hints(&before, &page)
        };
        assert!(changed(&|_| ()));
        assert!(changed(&|page| page[8] = 99), "checksum");
        assert!(changed(&|page| page[10] |= 4), "all visible");
        assert!(changed(&|page| page[21] = 1), "oldest transaction to prune");
        assert!(changed(&|page| page[8021] ^= 0x0F), "hint bits of the tuple");
        assert!(changed(&|page| page[25] |= 0x80), "flags of the line pointer");
        assert!(!changed(&|page| page[5] = 9), "LSN");
        assert!(!changed(&|page| page[8021] ^= 0x10), "other bits of the tuple");
        assert!(!changed(&|page| page[8099] ^= 1), "content");
        assert!(!changed(&|page| page[24] ^= 1), "place of the tuple");
    }
}
