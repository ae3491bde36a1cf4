//! How an object is cut into parts. Pure.

/// Limits of S3: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.
pub(super) const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
pub(super) const MAX_PART_BYTES: u64 = 5 * 1024 * 1024 * 1024;
pub(super) const MAX_PARTS: u32 = 10_000;
/// Grown part sizes are multiples of this.
const STEP_BYTES: u64 = 1024 * 1024;

/// A range of an object that is put by one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// From 1.
    pub(super) number: i32,
    pub(super) start: u64,
    pub(super) size_bytes: u64,
}

/// Equal parts, but for the last: of `part_size` where that makes at most `max_parts`, else of as much as it takes. None
/// where no size of parts suffices.
pub(super) fn cut(size_bytes: u64, part_size: u64, max_parts: u32) -> Option<Vec<Part>> {
    let least = size_bytes.div_ceil(u64::from(max_parts.max(1)));
    let part_size = if least > part_size { least.next_multiple_of(STEP_BYTES) } else { part_size };
    if part_size > MAX_PART_BYTES || part_size == 0 {
        return None;
    }
    let count = i32::try_from(size_bytes.div_ceil(part_size)).ok()?;
    let part = |number: i32| {
        let start = u64::try_from(number - 1).unwrap_or(0) * part_size;
        Part { number, start, size_bytes: part_size.min(size_bytes - start) }
    };
    Some((1..=count).map(part).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn grows_parts_rather_than_their_number() {
        let sizes = |size, part, max| cut(size, part, max).map(|parts| (parts.len(), parts[0].size_bytes));
        assert_eq!(sizes(100 * MIB, 16 * MIB, 1000), Some((7, 16 * MIB)));
        assert_eq!(sizes(16_000 * MIB, 16 * MIB, 1000), Some((1000, 16 * MIB)));
        assert_eq!(sizes(16_000 * MIB + 1, 16 * MIB, 1000), Some((942, 17 * MIB)));
        assert_eq!(sizes(5 * 1024 * 1024 * MIB, 16 * MIB, 10_000), Some((9987, 525 * MIB)));
        assert_eq!(sizes(6 * 1024 * MIB, 16 * MIB, 1), None);
    }

    proptest! {
        #[test]
        fn covers_the_object_with_equal_parts(size in 1..50_000 * MIB, part in MIN_PART_BYTES..64 * MIB, max in 100_u32..10_000) {
            let parts = cut(size, part, max).unwrap();
            prop_assert!(parts.len() <= max as usize);
            let mut end = 0;
            for (index, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.start, end);
                prop_assert_eq!(part.number as usize, index + 1);
                prop_assert!(index + 1 == parts.len() || part.size_bytes == parts[0].size_bytes);
                end += part.size_bytes;
            }
            prop_assert_eq!(end, size);
        }
    }
}
