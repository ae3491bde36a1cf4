//! Page images as whole pages (`RestoreBlockImage`).

use super::body::{ImageCompression, PageImage};
use crate::postgres::PAGE_SIZE;
use crate::postgres::page::Page;

impl PageImage<'_> {
    /// The page, decompressed, with its hole. None where the image is not one of a page.
    #[must_use]
    pub fn page(&self) -> Option<Box<Page>> {
        let length = PAGE_SIZE.checked_sub(usize::from(self.hole_length))?;
        let unpacked;
        let bytes = match self.compression {
            None => self.bytes,
            Some(compression) => {
                unpacked = unpack(compression, self.bytes, length)?;
                unpacked.as_slice()
            }
        };
        let (before, behind) = bytes.split_at_checked(self.hole_offset.into())?;
        let mut page = Box::new([0; PAGE_SIZE]);
        page.get_mut(..before.len())?.copy_from_slice(before);
        let rest = page.get_mut(before.len() + usize::from(self.hole_length)..)?;
        (rest.len() == behind.len()).then(|| rest.copy_from_slice(behind))?;
        Some(page)
    }
}

fn unpack(compression: ImageCompression, bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let unpacked = match compression {
        ImageCompression::Pglz => pglz(bytes, length)?,
        ImageCompression::Lz4 => lz4_flex::block::decompress(bytes, length).ok()?,
        ImageCompression::Zstd => zstd::bulk::decompress(bytes, length).ok()?,
    };
    (unpacked.len() == length).then_some(unpacked)
}

/// `pglz_decompress`: groups of eight items behind a byte that tells literals from copies of what came before. A copy is its
/// length less three in four bits, its distance in twelve, and a byte more where the length is 18 or above.
fn pglz(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    const LONG: usize = 18;
    let mut output = Vec::with_capacity(length);
    let mut input = bytes.iter().copied().map(usize::from);
    while let Some(control) = input.next() {
        for bit in 0..8 {
            if output.len() >= length {
                break;
            }
            let Some(first) = input.next() else { break };
            if control >> bit & 1 == 0 {
                output.push(u8::try_from(first).ok()?);
                continue;
            }
            let distance = (first & 0xF0) << 4 | input.next()?;
            let mut count = (first & 0x0F) + 3;
            if count == LONG {
                count += input.next()?;
            }
            let from = output.len().checked_sub(distance).filter(|_| distance > 0)?;
            for at in from..from + count.min(length - output.len()) {
                output.push(*output.get(at)?);
            }
        }
    }
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_zeros() {
        let bytes = [7; PAGE_SIZE - 100];
        let image = PageImage { bytes: &bytes, hole_offset: 40, hole_length: 100, compression: None, apply: true };
        let page = image.page().unwrap();
        assert!(page[..40].iter().chain(&page[140..]).all(|byte| *byte == 7));
        assert!(page[40..140].iter().all(|byte| *byte == 0));
        let short = PageImage { bytes: &bytes[1..], ..image };
        assert!(short.page().is_none());
    }

    #[test]
    fn copies_may_overlap_what_they_write() {
        // "ab", then seven bytes from two back.
        assert_eq!(pglz(&[0b100, b'a', b'b', 0x04, 0x02], 9).unwrap(), b"ababababa");
        // A copy of 18 + 2.
        assert_eq!(pglz(&[0b10, b'x', 0x0F, 0x01, 2], 21).unwrap(), [b'x'; 21]);
        assert!(pglz(&[0b1, 0x00, 0x01], 4).is_none(), "nothing is there to copy");
        assert!(pglz(&[0b10, b'x', 0x00, 0x00], 4).is_none(), "no distance");
    }

    #[test]
    fn every_way_to_compress_is_read() {
        let plain: Vec<u8> = (0..PAGE_SIZE).map(|at| (at / 7 % 251) as u8).collect();
        let zstd = zstd::bulk::compress(&plain, 1).unwrap();
        let image = |bytes, compression| PageImage {
            bytes,
            hole_offset: 0,
            hole_length: 0,
            compression: Some(compression),
            apply: true,
        };
        assert_eq!(image(&zstd, ImageCompression::Zstd).page().unwrap()[..], plain[..]);
        for compression in [ImageCompression::Pglz, ImageCompression::Lz4, ImageCompression::Zstd] {
            assert!(image(&[0xFF; 40], compression).page().is_none());
        }
    }
}
