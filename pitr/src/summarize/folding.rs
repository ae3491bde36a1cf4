//! Which summaries can become one. Pure.
//!
//! Summaries of [`FANOUT`] neighbouring segments that begin at a multiple of it are folded into one, as many of these into
//! the next, and so on. So a year of WAL has few summaries, a range of any length is read with few requests, and everybody
//! who folds makes the same objects. A timeline's first and last segments, which have no such neighbours, stay as they are.
//! Where another timeline left this one nothing is folded over the switch: the way to the other one ends there.

use std::collections::BTreeMap;

use super::coverage::Stretch;
use crate::postgres::{Lsn, WalSegmentSize};

/// How many neighbours become one.
pub const FANOUT: u64 = 64;

/// Neighbours that are to become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    pub into: Stretch,
    /// In order, each beginning where the one before ends.
    pub parts: Vec<Stretch>,
}

/// Folds that can be made of `stored`; the smallest come first, and their results count for the next call only. `switches`
/// is where other timelines left this one.
#[must_use]
pub fn plan(stored: &[Stretch], switches: &[Lsn], segment_size: WalSegmentSize) -> Vec<Fold> {
    let mut folds = Vec::new();
    let mut span = segment_size.as_u64();
    let highest = stored.iter().map(|stretch| stretch.to).max().unwrap_or(Lsn::INVALID);
    while span < highest.as_u64() {
        let of_span = stored.iter().filter(|stretch| width(**stretch) == span && stretch.from.as_u64() % span == 0);
        let wider = span.saturating_mul(FANOUT);
        let mut groups: BTreeMap<u64, Vec<Stretch>> = BTreeMap::new();
        for part in of_span {
            groups.entry(part.from.as_u64() / wider).or_default().push(*part);
        }
        for (group, mut parts) in groups {
            parts.sort_unstable();
            parts.dedup();
            let from = Lsn::new(group.saturating_mul(wider));
            let into = Stretch { from, to: from.advance(wider) };
            let crossed = switches.iter().any(|switch| into.from < *switch && *switch < into.to);
            let whole =
                !crossed && parts.len() as u64 == FANOUT && !stored.iter().any(|stretch| contains(*stretch, into));
            if whole {
                folds.push(Fold { into, parts });
            }
        }
        span = wider;
    }
    folds
}

/// Summaries that lie within a larger one, each with that one; those that end at a switch are needed as they are.
#[must_use]
pub fn superfluous(stored: &[Stretch], switches: &[Lsn]) -> Vec<(Stretch, Stretch)> {
    let mut sorted: Vec<Stretch> = stored.iter().filter(|stretch| !switches.contains(&stretch.to)).copied().collect();
    // The larger of two that begin together comes first.
    sorted.sort_unstable_by_key(|stretch| (stretch.from, std::cmp::Reverse(stretch.to)));
    sorted.dedup();
    let mut found = Vec::new();
    let mut widest: Option<Stretch> = None;
    for stretch in sorted {
        match widest {
            Some(larger) if stretch.to <= larger.to => found.push((stretch, larger)),
            _ => widest = Some(stretch),
        }
    }
    found
}

fn width(stretch: Stretch) -> u64 {
    stretch.to.distance_from(stretch.from).unwrap_or(0)
}

fn contains(larger: Stretch, smaller: Stretch) -> bool {
    larger.from <= smaller.from && smaller.to <= larger.to
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    fn segments(numbers: impl IntoIterator<Item = u64>) -> Vec<Stretch> {
        numbers.into_iter().map(|number| stretch(number, number + 1)).collect()
    }

    /// In segments.
    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { from: Lsn::new(from * SIZE), to: Lsn::new(to * SIZE) }
    }

    #[test]
    fn only_whole_aligned_groups_are_folded() {
        let folds = plan(&segments(60..200), &[], size());
        assert_eq!(folds.iter().map(|fold| fold.into).collect::<Vec<_>>(), [stretch(64, 128), stretch(128, 192)]);
        assert_eq!(folds[0].parts, segments(64..128));
        assert_eq!(plan(&segments((64..128).filter(|number| *number != 100)), &[], size()), []);
    }

    #[test]
    fn folds_of_folds_follow_and_nothing_is_folded_twice() {
        let mut stored: Vec<_> = (0..64).map(|group| stretch(group * 64, group * 64 + 64)).collect();
        stored.extend(segments(0..64));
        let folds = plan(&stored, &[], size());
        assert_eq!(folds.iter().map(|fold| fold.into).collect::<Vec<_>>(), [stretch(0, 4096)]);
        stored.push(stretch(0, 4096));
        assert_eq!(plan(&stored, &[], size()), []);
    }

    #[test]
    fn what_lies_within_a_larger_one_is_superfluous() {
        let mut stored = segments(60..70);
        stored.push(stretch(64, 128));
        stored.push(stretch(0, 64));
        let found = superfluous(&stored, &[]);
        assert_eq!(found.len(), 10);
        assert_eq!(found[0], (stretch(60, 61), stretch(0, 64)));
        assert_eq!(found[9], (stretch(69, 70), stretch(64, 128)));
        assert_eq!(superfluous(&segments(0..3), &[]), []);
    }

    #[test]
    fn the_way_to_another_timeline_stays_exact() {
        let switch = Lsn::new(100 * SIZE + 700);
        let mut stored = segments(0..192);
        let partial = Stretch { from: Lsn::new(100 * SIZE), to: switch };
        stored.push(partial);
        let folds = plan(&stored, &[switch], size());
        assert_eq!(folds.iter().map(|fold| fold.into).collect::<Vec<_>>(), [stretch(0, 64), stretch(128, 192)]);
        assert_eq!(superfluous(&stored, &[switch]), []);
        assert_eq!(superfluous(&stored, &[]), [(partial, stretch(100, 101))]);
    }
}
