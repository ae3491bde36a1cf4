//! Sets of 32-bit numbers (blocks of a relation, transaction IDs) as runs of neighbours.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Neighbouring numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: u32,
    pub last: u32,
}

/// A set whose runs are in order and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSet {
    runs: Vec<Run>,
}

impl RunSet {
    /// From numbers that never go down.
    pub(super) fn from_sorted(numbers: impl IntoIterator<Item = u32>) -> Self {
        let mut set = Self::default();
        for number in numbers {
            set.push(Run { first: number, last: number });
        }
        set
    }

    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.last - run.first) + 1).sum()
    }

    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        let after = self.runs.partition_point(|run| run.first <= number);
        after.checked_sub(1).and_then(|at| self.runs.get(at)).is_some_and(|run| run.last >= number)
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|run| run.first..=run.last)
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut merged = Self { runs: Vec::with_capacity(self.runs.len().max(other.runs.len())) };
        let (mut left, mut right) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) if a.first <= b.first => left.next(),
                (_, Some(_)) => right.next(),
                (_, None) => left.next(),
            };
            let Some(run) = next else { return merged };
            merged.push(*run);
        }
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut kept = Self::default();
        let mut removed = other.runs.iter().copied().peekable();
        for run in &self.runs {
            let mut first = Some(run.first);
            while let (Some(from), Some(hole)) = (first, removed.peek().copied()) {
                if hole.first > run.last {
                    break;
                }
                if hole.first > from {
                    kept.push(Run { first: from, last: hole.first - 1 });
                }
                if hole.last >= run.last {
                    first = None;
                } else {
                    first = Some(from.max(hole.last + 1));
                    removed.next();
                }
            }
            if let Some(from) = first {
                kept.push(Run { first: from, last: run.last });
            }
        }
        kept
    }

    /// Takes out `limit` and all above.
    pub fn cut(&mut self, limit: u32) {
        self.runs.truncate(self.runs.partition_point(|run| run.first < limit));
        if let (Some(run), Some(last)) = (self.runs.last_mut(), limit.checked_sub(1)) {
            run.last = run.last.min(last);
        }
    }

    /// Puts in what lies between two runs that are at most `gap` numbers apart.
    pub fn bridge(&mut self, gap: u32) {
        self.runs.dedup_by(|next, run| {
            let near = next.first - run.last <= gap.saturating_add(1);
            if near {
                run.last = next.last;
            }
            near
        });
    }

    /// Keeps those for which `keep` holds.
    #[must_use]
    pub(super) fn filtered(&self, mut keep: impl FnMut(u32) -> bool) -> Self {
        Self::from_sorted(self.iter().filter(|number| keep(*number)))
    }

    /// Puts in a run that begins no earlier than the last one.
    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if run.first <= last.last.saturating_add(1) => last.last = last.last.max(run.last),
            _ => self.runs.push(run),
        }
    }
}

/// From numbers in any order.
impl FromIterator<u32> for RunSet {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        Self::from_sorted(numbers)
    }
}

/// Stored as a sequence: for each run the distance from the one before, doubled, and plus one where the run is longer than
/// one number; then how many more it has, less one.
impl Serialize for RunSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut words = Vec::with_capacity(self.runs.len());
        let mut next = 0;
        for run in &self.runs {
            let (distance, more) = (u64::from(run.first) - next, run.last - run.first);
            words.push(distance << 1 | u64::from(more > 0));
            if let Some(more) = more.checked_sub(1) {
                words.push(u64::from(more));
            }
            // Runs do not touch, so the number behind one is in none.
            next = u64::from(run.last) + 2;
        }
        words.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RunSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<u64>::deserialize(deserializer)?;
        let mut words = words.into_iter();
        let mut set = Self::default();
        let mut next = 0_u64;
        let out_of_range = || D::Error::custom("a run is out of range");
        while let Some(word) = words.next() {
            let more = match word & 1 {
                0 => 0,
                _ => words.next().ok_or_else(out_of_range)?.checked_add(1).ok_or_else(out_of_range)?,
            };
            let first = next.checked_add(word >> 1).ok_or_else(out_of_range)?;
            let last = first.checked_add(more).ok_or_else(out_of_range)?;
            let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(last)) else { return Err(out_of_range()) };
            set.runs.push(Run { first, last });
            next = u64::from(last) + 2;
        }
        Ok(set)
    }
}
