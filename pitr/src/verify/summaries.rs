//! Holds stored WAL summaries against what the records say.

use crate::repository::layout::SummaryKey;
use crate::wal_summary::{WalSummary, fold};

/// What is decoded, folded to the range of a stored summary: neighbours of equal weight first, so that each is folded a few
/// times only.
#[derive(Debug)]
pub(super) struct Rebuilt {
    key: SummaryKey,
    parts: Vec<(u32, WalSummary)>,
    broken: bool,
}

impl Rebuilt {
    pub(super) fn new(key: SummaryKey) -> Self {
        Self { key, parts: Vec::new(), broken: false }
    }

    pub(super) const fn key(&self) -> SummaryKey {
        self.key
    }

    /// Takes the next part, if it is within.
    pub(super) fn add(&mut self, part: &WalSummary) {
        if part.from < self.key.from || part.to > self.key.to {
            return;
        }
        self.parts.push((0, part.clone()));
        while let [.., (one, _), (other, _)] = self.parts.as_slice()
            && one == other
        {
            self.join();
        }
    }

    fn join(&mut self) {
        let (Some((_, later)), Some((rank, earlier))) = (self.parts.pop(), self.parts.pop()) else { return };
        match fold(&[earlier, later]) {
            Ok(joined) => self.parts.push((rank + 1, joined)),
            Err(_) => self.broken = true,
        }
    }

    /// What the records of the whole range say; none where some of it could not be read.
    pub(super) fn finish(mut self) -> Option<WalSummary> {
        while self.parts.len() > 1 {
            self.join();
        }
        let (_, whole) = self.parts.pop()?;
        (!self.broken && (whole.from, whole.to) == (self.key.from, self.key.to)).then_some(whole)
    }
}
