//! Pages of relations (`src/include/storage/bufpage.h`) and their checksums (`checksum_impl.h`).

use super::{Lsn, PAGE_SIZE, PAGES_PER_RELATION_SEGMENT};

/// One page of a relation.
pub type Page = [u8; PAGE_SIZE];

const CHECKSUM_OFFSET: usize = 8;
const UPPER_OFFSET: usize = 14;

const LANES: usize = 32;
const ROW_SIZE: usize = LANES * size_of::<u32>();
/// `FNV_PRIME`.
const PRIME: u32 = 16_777_619;
/// `checksumBaseOffsets`: what each lane starts with.
#[rustfmt::skip]
const LANE_SEEDS: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A, 0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2, 0x83E1_3D2C,
    0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA, 0x7B09_3B5D, 0x98DA_FF3C, 0xF718_902A, 0x0B1C_9CDB,
    0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE, 0x92BE_C979, 0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4,
    0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E, 0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];

/// What a page says of itself, in a cluster with data checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// All zero: extended, and never written.
    New,
    Valid,
    /// Damaged, or being written just now. A page that claims to be new and is not zero counts as such.
    Invalid {
        stored: u16,
        computed: u16,
        lsn: Lsn,
    },
}

/// Number of a block in its relation, from its place in one of the relation's files.
#[must_use]
pub const fn absolute_block(segment: u32, block_in_segment: u32) -> u32 {
    segment.wrapping_mul(PAGES_PER_RELATION_SEGMENT).wrapping_add(block_in_segment)
}

/// `pd_lsn`: the end of the record that changed the page last. Its halves are stored high first.
#[must_use]
pub const fn page_lsn(page: &Page) -> Lsn {
    let [a, b, c, d, e, f, g, h, ..] = *page;
    let (high, low) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    Lsn::new((high as u64) << 32 | low as u64)
}

/// Holds a page against its checksum. `absolute_block` counts from the start of the relation, not of the file.
#[must_use]
pub fn verify_page(page: &Page, absolute_block: u32) -> PageVerdict {
    if u16_at(page, UPPER_OFFSET) == 0 && page.iter().fold(0, |all, byte| all | byte) == 0 {
        return PageVerdict::New;
    }
    let (stored, computed) = (u16_at(page, CHECKSUM_OFFSET), page_checksum(page, absolute_block));
    if stored == computed && u16_at(page, UPPER_OFFSET) != 0 {
        PageVerdict::Valid
    } else {
        PageVerdict::Invalid { stored, computed, lsn: page_lsn(page) }
    }
}

/// `pg_checksum_page`: what `pd_checksum` must be. Never zero.
///
/// An FNV-1a of 32 bits in 32 lanes, which a compiler turns into vector instructions, the checksum itself taken as zero.
#[must_use]
pub fn page_checksum(page: &Page, absolute_block: u32) -> u16 {
    let mut sums = LANE_SEEDS;
    let (rows, _) = page.as_chunks::<ROW_SIZE>();
    let mut rows = rows.iter();
    if let Some(first) = rows.next() {
        let mut words = words(first);
        // The upper half of the word is `pd_flags`.
        words[CHECKSUM_OFFSET / 4] &= 0xFFFF_0000;
        mix_row(&mut sums, &words);
    }
    for row in rows {
        mix_row(&mut sums, &words(row));
    }
    for _ in 0..2 {
        mix_row(&mut sums, &[0; LANES]);
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ absolute_block;
    (folded % 65_535) as u16 + 1
}

#[inline(always)]
fn mix_row(sums: &mut [u32; LANES], words: &[u32; LANES]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[inline(always)]
fn words(row: &[u8; ROW_SIZE]) -> [u32; LANES] {
    let (bytes, _) = row.as_chunks::<4>();
    let mut words = [0; LANES];
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

const fn u16_at(page: &Page, offset: usize) -> u16 {
    u16::from_le_bytes([page[offset], page[offset + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The algorithm word by word, as its description in `checksum_impl.h` has it.
    fn by_the_book(page: &Page, block: u32) -> u16 {
        let mut page = *page;
        page[8..10].fill(0);
        let mut sums = LANE_SEEDS;
        let mix = |sum: u32, word: u32| (sum ^ word).wrapping_mul(PRIME) ^ ((sum ^ word) >> 17);
        for row in 0..64 {
            for (lane, sum) in sums.iter_mut().enumerate() {
                let at = (row * 32 + lane) * 4;
                *sum = mix(*sum, u32::from_le_bytes(page[at..at + 4].try_into().unwrap()));
            }
        }
        let sum = sums.iter().fold(0, |all, sum| all ^ mix(mix(*sum, 0), 0));
        u16::try_from((sum ^ block) % 65_535).unwrap() + 1
    }

    fn page(seed: u32) -> Page {
        let mut state = seed | 1;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
    }

    fn signed(seed: u32, block: u32) -> Page {
        let mut page = page(seed);
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        let checksum = page_checksum(&page, block).to_le_bytes();
        page[8..10].copy_from_slice(&checksum);
        page
    }

    #[test]
    fn is_the_algorithm_of_the_server() {
        for seed in 0..50 {
            let (page, block) = (page(seed), seed.wrapping_mul(0x9E37_79B9));
            assert_eq!(page_checksum(&page, block), by_the_book(&page, block));
        }
    }

    #[test]
    fn every_byte_and_the_block_count() {
        let valid = signed(3, 77);
        assert_eq!(verify_page(&valid, 77), PageVerdict::Valid);
        assert!(matches!(verify_page(&valid, 78), PageVerdict::Invalid { .. }));
        for offset in 0..PAGE_SIZE {
            let mut page = valid;
            page[offset] ^= 0x20;
            assert!(matches!(verify_page(&page, 77), PageVerdict::Invalid { .. }), "byte {offset}");
        }
    }

    #[test]
    fn only_zeros_are_new() {
        let mut page = [0; PAGE_SIZE];
        assert_eq!(verify_page(&page, 5), PageVerdict::New);
        page[PAGE_SIZE - 1] = 1;
        assert!(matches!(verify_page(&page, 5), PageVerdict::Invalid { .. }));
        // Even with the right checksum: a server takes a page without an upper bound for new, and wants it zero.
        let checksum = page_checksum(&page, 5).to_le_bytes();
        page[8..10].copy_from_slice(&checksum);
        assert!(matches!(verify_page(&page, 5), PageVerdict::Invalid { .. }));
    }

    #[test]
    fn an_invalid_page_tells_its_position() {
        let mut page = signed(9, 1);
        page[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        let PageVerdict::Invalid { stored, computed, lsn } = verify_page(&page, 1) else { panic!("it is valid") };
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(stored, u16_at(&page, 8));
        assert_eq!(computed, by_the_book(&page, 1));
    }

    #[test]
    fn blocks_go_on_over_files() {
        assert_eq!(absolute_block(0, 5), 5);
        assert_eq!(absolute_block(3, 7), 3 * 131_072 + 7);
    }
}
