//! A frame as it fills with blocks of one or several files.

use pitr::postgres::PAGE_SIZE;
use pitr::repository::backup::Extent;
use pitr::repository::backup::file_map::FrameExtent;
use pitr::repository::backup::pack::{FRAME_BYTES, PackedBlock};
use pitr::repository::hash::{BlockHash, FrameHash};

use super::pack_writer::FramePlace;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// The bytes of one part of a file, as extents. `pack` is the number of a pack of this backup.
pub type Extents = Vec<Extent>;

/// Plain bytes on their way into a pack.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Box<[u8]>,
    used: usize,
    blocks: Vec<PackedBlock>,
    /// Which extents of which parts stand in this frame, whose place is not known yet.
    pending: Vec<(usize, usize)>,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; FRAME_BYTES].into(),
            used: 0,
            blocks: Vec::with_capacity(FRAME_BYTES / PAGE_SIZE),
            pending: Vec::new(),
        }
    }
}

impl FrameBuffer {
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.len() - self.used
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Where the next bytes go, `bytes` of them; what is left there counts only once it is kept.
    pub fn tail(&mut self, bytes: usize) -> &mut [u8] {
        let end = (self.used + bytes).min(self.bytes.len());
        self.bytes.get_mut(self.used..end).unwrap_or_default()
    }

    /// The hashes of the blocks in `count` bytes of the tail; none for those of zeros.
    pub fn hash_tail(&self, count: usize, hashes: &mut Vec<Option<BlockHash>>) {
        hashes.clear();
        let end = (self.used + count).min(self.bytes.len());
        let tail = self.bytes.get(self.used..end).unwrap_or_default();
        hashes.extend(tail.chunks(PAGE_SIZE).map(|block| (!is_zero(block)).then(|| BlockHash::of(block))));
    }

    /// Keeps `count` bytes of the tail, but no block of zeros. Their extents go behind `extents`, those of part `part`.
    pub fn keep(&mut self, count: usize, part: usize, extents: &mut Extents) {
        let mut hashes = Vec::with_capacity(count.div_ceil(PAGE_SIZE));
        self.hash_tail(count, &mut hashes);
        self.keep_unless(count, part, extents, &hashes, |_, _| false);
    }

    /// Keeps `count` bytes of the tail, whose blocks have `hashes`, but no block of zeros, and none for which `share` has
    /// added the extent of another place; it is told which block it is.
    pub fn keep_unless(
        &mut self,
        count: usize,
        part: usize,
        extents: &mut Extents,
        hashes: &[Option<BlockHash>],
        mut share: impl FnMut(usize, &mut Extents) -> bool,
    ) {
        let end = (self.used + count).min(self.bytes.len());
        let mut from = self.used;
        for (index, hash) in hashes.iter().enumerate() {
            let bytes = PAGE_SIZE.min(end - from);
            if let Some(hash) = *hash {
                if share(index, extents) {
                    from += bytes;
                    continue;
                }
                self.bytes.copy_within(from..from + bytes, self.used);
                self.blocks.push(PackedBlock { bytes: u16::try_from(bytes).unwrap_or(u16::MAX), hash });
                self.extend(bytes, part, extents);
                self.used += bytes;
            } else {
                push_zeros(extents, bytes as u64);
            }
            from += bytes;
        }
    }

    fn extend(&mut self, bytes: usize, part: usize, extents: &mut Extents) {
        let last = extents.len().wrapping_sub(1);
        if self.pending.last() == Some(&(part, last))
            && let Some(Extent::Frame(frame)) = extents.last_mut()
        {
            frame.bytes += bytes as u64;
            return;
        }
        self.pending.push((part, extents.len()));
        extents.push(Extent::Frame(FrameExtent {
            bytes: bytes as u64,
            at: u32::try_from(self.used).unwrap_or(u32::MAX),
            // Set when the frame has been written.
            pack: 0,
            offset: 0,
            stored_bytes: 0,
            hash: FrameHash::from_bytes([0; 16]),
        }));
    }

    #[must_use]
    pub fn content(&self) -> (&[u8], &[PackedBlock]) {
        (self.bytes.get(..self.used).unwrap_or_default(), &self.blocks)
    }

    /// Begins anew; the extents that stood in this frame learn where it went. `with` gives access to those of a part.
    pub fn settle(&mut self, place: &FramePlace, mut with: impl FnMut(usize, &mut dyn FnMut(&mut Extents))) {
        for (part, index) in self.pending.drain(..) {
            with(part, &mut |extents| {
                if let Some(Extent::Frame(frame)) = extents.get_mut(index) {
                    frame.pack = place.pack;
                    frame.offset = place.offset;
                    frame.stored_bytes = place.stored_bytes;
                    frame.hash = place.hash;
                }
            });
        }
        self.blocks.clear();
        self.used = 0;
    }
}

/// Adds zeros behind the last extent, or to it.
pub fn push_zeros(extents: &mut Extents, bytes: u64) {
    if bytes == 0 {
        return;
    }
    if let Some(Extent::Zeros { bytes: last }) = extents.last_mut() {
        *last += bytes;
    } else {
        extents.push(Extent::Zeros { bytes });
    }
}

/// Adds an extent of a frame behind the last one, or to it where it goes on in the same frame.
pub fn push_extent(extents: &mut Extents, extent: Extent) {
    if let (Some(Extent::Frame(last)), Extent::Frame(next)) = (extents.last_mut(), extent) {
        let goes_on = u64::from(last.at) + last.bytes == u64::from(next.at);
        let same_frame = (last.pack, last.offset, last.stored_bytes) == (next.pack, next.offset, next.stored_bytes);
        if goes_on && same_frame && last.stored_bytes > 0 {
            last.bytes += next.bytes;
            return;
        }
    }
    extents.push(extent);
}

fn is_zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()) == Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> FramePlace {
        FramePlace { pack: 7, offset: 100, stored_bytes: 50, hash: FrameHash::of(&[BlockHash::of(b"x")]) }
    }

    fn fill(frame: &mut FrameBuffer, bytes: &[u8], part: usize, extents: &mut Extents) {
        frame.tail(bytes.len()).copy_from_slice(bytes);
        frame.keep(bytes.len(), part, extents);
    }

    #[test]
    fn runs_of_zeros_take_no_room() {
        let mut frame = FrameBuffer::default();
        let mut content = vec![1; PAGE_SIZE];
        content.extend(vec![0; 2 * PAGE_SIZE]);
        content.extend(vec![2; PAGE_SIZE + 10]);
        content.extend(vec![0; 5]);
        let mut extents = Extents::new();
        fill(&mut frame, &content, 0, &mut extents);
        assert_eq!(extents.iter().map(Extent::bytes).collect::<Vec<_>>(), [8192, 16384, 8192 + 15]);
        assert!(matches!(extents[1], Extent::Zeros { .. }));
        let (plain, blocks) = frame.content();
        assert_eq!(plain.len(), 2 * PAGE_SIZE + 15);
        assert_eq!(blocks.iter().map(|block| block.bytes).collect::<Vec<_>>(), [8192, 8192, 15]);
        assert_eq!(blocks[2].hash, BlockHash::of(&[&[2; 10][..], &[0; 5]].concat()));
    }

    #[test]
    fn extents_learn_where_their_frame_went() {
        let mut frame = FrameBuffer::default();
        let mut parts = vec![Extents::new(), Extents::new()];
        fill(&mut frame, &[1; 100], 0, &mut parts[0]);
        fill(&mut frame, &[2; 50], 1, &mut parts[1]);
        fill(&mut frame, &[3; 20], 1, &mut parts[1]);
        frame.settle(&place(), |part, extents| extents(&mut parts[part]));
        assert!(frame.is_empty());
        let expected = |bytes, at| {
            let FramePlace { pack, offset, stored_bytes, hash } = place();
            Extent::Frame(FrameExtent { bytes, at, pack, offset, stored_bytes, hash })
        };
        assert_eq!(parts, [vec![expected(100, 0)], vec![expected(70, 100)]]);
    }

    #[test]
    fn neighbouring_zeros_are_one_extent() {
        let mut extents = Extents::new();
        push_zeros(&mut extents, 0);
        push_zeros(&mut extents, 5);
        push_zeros(&mut extents, 6);
        assert_eq!(extents, [Extent::Zeros { bytes: 11 }]);
    }
}
