//! The hash of a segment's file, by two threads: the first and the second half are subtrees of the same BLAKE3 tree.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_root};
use pitr::postgres::WalSegmentSize;
use pitr::repository::hash::ContentHash;

/// Read at once: stays in the cache of the core that hashes it.
const PIECE_BYTES: usize = 256 << 10;

/// Equal to [`ContentHash::of`] the first `size` bytes of `file`. Segment sizes are powers of two, so both halves are as
/// large as BLAKE3's left subtree.
///
/// # Errors
/// The file cannot be read, or is shorter.
pub(super) fn hash(file: &File, size: WalSegmentSize) -> io::Result<ContentHash> {
    let half = size.as_u64() / 2;
    let (left, right) = std::thread::scope(|scope| {
        let left = scope.spawn(|| hash_half(file, 0, half));
        let right = hash_half(file, half, half);
        (left.join(), right)
    });
    let left = left.map_err(|_| io::Error::other("the thread that hashes crashed"))??;
    Ok(ContentHash::from_bytes(*merge_subtrees_root(&left, &right?, Mode::Hash).as_bytes()))
}

fn hash_half(file: &File, from: u64, bytes: u64) -> io::Result<ChainingValue> {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(from);
    let mut piece = vec![0_u8; PIECE_BYTES];
    let mut at = from;
    while at < from + bytes {
        file.read_exact_at(&mut piece, at)?;
        hasher.update(&piece);
        at += PIECE_BYTES as u64;
    }
    Ok(hasher.finalize_non_root())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn two_halves_hash_like_the_whole() {
        for megabytes in [1_u32, 2, 16] {
            let size = WalSegmentSize::new(megabytes << 20).unwrap();
            let content: Vec<u8> = (0..size.as_usize()).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            assert_eq!(hash(&file, size).unwrap(), ContentHash::of(&content), "{megabytes} MB");
        }
    }

    #[test]
    fn a_short_file_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 1 << 20]).unwrap();
        assert!(hash(&file, WalSegmentSize::new(2 << 20).unwrap()).is_err());
    }
}
