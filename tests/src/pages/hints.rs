//! What may change on a page without a word in the WAL (`src/backend/access/common/bufmask.c` and its users).

use pitr::postgres::Lsn;

use super::PAGE;

/// What two copies of a page may differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// Nothing, but for what no setting brings into the WAL: a cache that SP-GiST keeps on its metapage.
    Exact,
    /// Hint bits: neither data checksums nor `wal_log_hints` are on.
    Hints,
}

/// `pd_lsn`, its two halves in the order of the machine.
const LSN: std::ops::Range<usize> = 0..8;
const FLAGS: usize = 10;
const LOWER: usize = 12;
const SPECIAL: usize = 16;
const PRUNE_XID: usize = 20;
const HEADER: usize = 24;
/// `PD_HAS_FREE_LINES` and `PD_PAGE_FULL`; not `PD_ALL_VISIBLE`, of which the WAL tells.
const FREE_LINES_OR_FULL: u16 = 3;
/// `SPGIST_META_MAGIC_NUMBER`, the first word behind the header; the 64 bytes behind it are `lastUsedPages`.
const SPGIST_META: u32 = 0xBA0B_ABEE;
const LAST_USED_PAGES: std::ops::Range<usize> = HEADER + 4..HEADER + 4 + 64;
const CHECKSUM: std::ops::Range<usize> = 8..10;

/// Kinds of pages, told apart by their special space as `pg_filedump` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Heap,
    Btree,
    Hash,
    Gist,
    Brin,
    Other,
}

/// Whether two different pages are the same but for what is tolerated.
#[must_use]
pub(super) fn only(path: &str, left: &[u8], right: &[u8], tolerance: Tolerance) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_main_fork = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let (Ok(mut left), Ok(mut right)) = (<[u8; PAGE]>::try_from(left), <[u8; PAGE]>::try_from(right)) else {
        return false;
    };
    if !in_main_fork {
        return false;
    }
    if u32_at(&left, HEADER) == SPGIST_META && u32_at(&right, HEADER) == SPGIST_META {
        for page in [&mut left, &mut right] {
            page[LAST_USED_PAGES].fill(0);
            page[CHECKSUM].fill(0);
        }
        if left == right {
            return true;
        }
    }
    if tolerance == Tolerance::Hints {
        mask(&mut left);
        mask(&mut right);
    }
    left == right
}

/// Whether two different pages are the same but for hint bits, and a record behind `redo` brings the younger one: hints that
/// a reader, as the agent is one, set between two backups. With data checksums such a page is in the WAL.
#[must_use]
pub(super) fn hinted_since(path: &str, left: &[u8], right: &[u8], redo: Lsn) -> bool {
    let lsn = |page: &[u8]| match page.get(LSN) {
        Some(&[a, b, c, d, e, f, g, h]) => {
            Lsn::new(u64::from(u32::from_le_bytes([a, b, c, d])) << 32 | u64::from(u32::from_le_bytes([e, f, g, h])))
        }
        _ => Lsn::new(0),
    };
    if lsn(left).max(lsn(right)) < redo {
        return false;
    }
    let (mut left, mut right) = (left.to_vec(), right.to_vec());
    for page in [&mut left, &mut right] {
        for field in [LSN, CHECKSUM] {
            if let Some(bytes) = page.get_mut(field) {
                bytes.fill(0);
            }
        }
    }
    left == right || only(path, &left, &right, Tolerance::Hints)
}

fn mask(page: &mut [u8; PAGE]) {
    let flags = u16_at(page, FLAGS) & !FREE_LINES_OR_FULL;
    put(page, FLAGS, flags);
    page[PRUNE_XID..PRUNE_XID + 4].fill(0);
    let special = usize::from(u16_at(page, SPECIAL));
    match kind(page, special) {
        Kind::Heap => mask_tuples(page),
        // `BTP_HAS_GARBAGE`
        Kind::Btree => mask_index(page, special + 12, 1 << 6),
        // `LH_PAGE_HAS_DEAD_TUPLES`
        Kind::Hash => mask_index(page, special + 12, 1 << 7),
        // `F_HAS_GARBAGE`
        Kind::Gist => mask_index(page, special + 12, 1 << 3),
        // `BRIN_EVACUATE_PAGE`
        Kind::Brin => {
            let flags = u16_at(page, special + 4) & !1;
            put(page, special + 4, flags);
        }
        Kind::Other => {}
    }
}

fn kind(page: &[u8; PAGE], special: usize) -> Kind {
    let last = u16_at(page, PAGE - 2);
    match PAGE.saturating_sub(special) {
        0 => Kind::Heap,
        // `MAX_BT_CYCLE_ID`
        16 if last <= 0xFF7F => Kind::Btree,
        16 if last == 0xFF80 => Kind::Hash,
        16 if last == 0xFF81 => Kind::Gist,
        8 if (0xF091..=0xF093).contains(&last) => Kind::Brin,
        _ => Kind::Other,
    }
}

/// Offsets of the line pointers.
fn lines(page: &[u8; PAGE]) -> impl Iterator<Item = usize> + use<> {
    (HEADER..usize::from(u16_at(page, LOWER)).clamp(HEADER, PAGE)).step_by(4)
}

fn mask_tuples(page: &mut [u8; PAGE]) {
    for line in lines(page) {
        let pointer = u32_at(page, line);
        let (offset, is_normal) = (usize::try_from(pointer & 0x7FFF).unwrap_or(PAGE), pointer >> 15 & 3 == 1);
        // `t_infomask`
        let at = offset + 20;
        if !is_normal || at + 2 > PAGE {
            continue;
        }
        let infomask = u16_at(page, at);
        // `HEAP_XMIN_FROZEN` is both bits of xmin: of that the WAL tells.
        let frozen = if infomask & 0x0300 == 0x0300 { 0x0300 } else { 0 };
        put(page, at, infomask & !0x0F00 | frozen);
    }
}

/// Dead items count as normal ones.
fn mask_index(page: &mut [u8; PAGE], flags: usize, garbage: u16) {
    // A metapage has no line pointers where others have them.
    if flags + 2 > PAGE {
        return;
    }
    for line in lines(page) {
        let pointer = u32_at(page, line);
        if pointer >> 15 & 3 == 3 {
            page[line..line + 4].copy_from_slice(&(pointer & !(2 << 15)).to_le_bytes());
        }
    }
    let masked = u16_at(page, flags) & !garbage;
    put(page, flags, masked);
}

fn u16_at(page: &[u8; PAGE], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &[u8; PAGE], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn put(page: &mut [u8; PAGE], at: usize, value: u16) {
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heap page with one tuple.
    fn heap(infomask: u16) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        put(&mut page, LOWER, 28);
        put(&mut page, 14, 8000);
        put(&mut page, SPECIAL, 8192);
        page[24..28].copy_from_slice(&(8000_u32 | 1 << 15 | 100 << 17).to_le_bytes());
        put(&mut page, 8020, infomask);
        page
    }

    #[test]
    fn hint_bits_are_tolerated_only_where_they_are_not_in_the_wal() {
        let (bare, hinted) = (heap(0x0002), heap(0x0502));
        assert!(only("base/5/16384", &bare, &hinted, Tolerance::Hints));
        assert!(!only("base/5/16384", &bare, &hinted, Tolerance::Exact));
        assert!(!only("base/5/16384_vm", &bare, &hinted, Tolerance::Hints), "a map of visibility has none");
    }

    #[test]
    fn everything_else_is_a_difference() {
        let page = heap(0x0902);
        assert!(!only("base/5/1", &page, &heap(0x0302), Tolerance::Hints), "frozen");
        assert!(!only("base/5/1", &page, &heap(0x0903), Tolerance::Hints), "not a hint");
        for at in [0, FLAGS, 8030, 8191] {
            let mut other = page;
            other[at] ^= 4;
            assert!(!only("base/5/1", &page, &other, Tolerance::Hints), "byte {at}");
        }
        assert!(!only("base/5/1", &page[..100], &page[1..101], Tolerance::Hints));
    }

    #[test]
    fn a_page_that_was_hinted_since_bears_an_lsn_that_says_so() {
        let (mut bare, mut hinted) = (heap(0x0002), heap(0x0502));
        bare[4] = 5;
        hinted[4..6].copy_from_slice(&[0x28, 0x10]);
        hinted[8] = 77;
        let path = "base/5/16384";
        assert!(hinted_since(path, &bare, &hinted, Lsn::new(0x1028)));
        assert!(hinted_since(path, &hinted, &bare, Lsn::new(0x1000)));
        assert!(!hinted_since(path, &bare, &hinted, Lsn::new(0x1029)), "the WAL behind redo does not bring it");
        hinted[8030] ^= 1;
        assert!(!hinted_since(path, &bare, &hinted, Lsn::new(0x1028)), "not a hint");
    }

    #[test]
    fn dead_items_of_an_index_are_hints() {
        let mut alive = heap(0);
        put(&mut alive, SPECIAL, 8176);
        put(&mut alive, 8190, 0xFF80);
        let mut dead = alive;
        dead[24..28].copy_from_slice(&(8000_u32 | 3 << 15 | 100 << 17).to_le_bytes());
        put(&mut dead, 8176 + 12, 1 << 7);
        assert!(only("base/5/1", &alive, &dead, Tolerance::Hints));
        assert!(!only("base/5/1", &alive, &dead, Tolerance::Exact));
    }

    #[test]
    fn what_spgist_remembers_is_tolerated_always() {
        let mut page = heap(0);
        page[24..28].copy_from_slice(&SPGIST_META.to_le_bytes());
        let mut other = page;
        other[30] = 7;
        other[8] = 9;
        assert!(only("base/5/1", &page, &other, Tolerance::Exact));
        other[100] = 1;
        assert!(!only("base/5/1", &page, &other, Tolerance::Exact));
    }
}
