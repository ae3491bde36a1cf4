//! `pg_filenode.map`: the relfilenodes of the mapped catalogs (`RelMapFile` in `relmapper.c`). Its file is overwritten in
//! place up to 15, so a reader can catch it half written.

/// `RELMAPPER_FILEMAGIC`.
const MAGIC: u32 = 0x0059_2717;
/// File size, and where the checksum stands: up to 15, and from 16 on.
const LAYOUTS: [(usize, usize); 2] = [(512, 504), (524, 520)];

/// More than the file can have.
pub const MAX_BYTES: usize = 1024;

/// Whether the bytes are a whole map.
#[must_use]
pub fn is_whole(bytes: &[u8]) -> bool {
    let Some((_, checksum_at)) = LAYOUTS.into_iter().find(|(size, _)| *size == bytes.len()) else { return false };
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let covered = bytes.get(..checksum_at).unwrap_or_default();
    word(0) == Some(MAGIC) && word(checksum_at) == Some(crc32c(covered))
}

/// CRC-32C, bit by bit: half a kilobyte for each database does not call for more.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn map(size: usize, checksum_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&[17, 0, 0, 0]);
        bytes[8..16].copy_from_slice(&[0xEB, 4, 0, 0, 0xEB, 4, 0, 0]);
        let checksum = crc32c(&bytes[..checksum_at]).to_le_bytes();
        bytes[checksum_at..checksum_at + 4].copy_from_slice(&checksum);
        bytes
    }

    #[test]
    fn checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn knows_both_layouts_and_finds_damage() {
        for (size, checksum_at) in LAYOUTS {
            let whole = map(size, checksum_at);
            assert!(is_whole(&whole), "{size}");
            for at in 0..checksum_at + 4 {
                let mut torn = whole.clone();
                torn[at] ^= 1;
                assert!(!is_whole(&torn), "byte {at} of {size}");
            }
            assert!(!is_whole(&whole[..size - 1]));
        }
        assert!(!is_whole(b""));
    }
}
