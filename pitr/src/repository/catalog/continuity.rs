//! Whether WAL is without a hole along a path.

use super::{Catalog, DurableWal, stretches};
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, SegmentName, TimelineId};

/// Up to where a path is durable without a hole, and what comes then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    pub end: Lsn,
    /// The hole that ends it; none at the end of the path's WAL.
    pub missing: Option<MissingWal>,
}

/// WAL that should be in the repository and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingWal {
    /// The first segment of which something is missing.
    pub segment: SegmentName,
    pub from: Lsn,
    /// Where durable WAL goes on, or up to where there must have been WAL.
    pub to: Lsn,
    /// Whether durable WAL goes on.
    pub resumes: bool,
}

impl Catalog {
    /// Follows `path` from the segment of `from` on, to the first hole or the end.
    #[must_use]
    pub fn reach(&self, path: &TimelinePath, from: Lsn) -> Reach {
        let end = self.contiguous_to(path, from);
        Reach { end, missing: self.missing_at(path, end) }
    }

    /// Up to where there is no hole.
    fn contiguous_to(&self, path: &TimelinePath, from: Lsn) -> Lsn {
        let size = self.segment_size();
        let mut position = size.start_of(size.segment_of(from));
        for stretch in stretches(path, size) {
            let limit = stretch.end.map_or(Lsn::MAX, |end| size.start_of(end));
            if limit <= position {
                continue;
            }
            let Some(wal) = self.wal(stretch.timeline) else { return position };
            position = wal.contiguous_to(position, limit);
            if position < limit {
                return position;
            }
        }
        position
    }

    /// What is missing from `end`, where the path stops being durable.
    fn missing_at(&self, path: &TimelinePath, end: Lsn) -> Option<MissingWal> {
        let size = self.segment_size();
        let segment = size.segment_of(end);
        let after = segment.next();
        let mut resumes = None;
        for stretch in stretches(path, size) {
            if stretch.end.is_some_and(|last| last <= segment) {
                continue;
            }
            // A tail without what comes before it in its segment is no continuation; but it proves that there is a hole.
            let from = if end == size.start_of(segment) { segment } else { after }.max(stretch.first);
            let next = self.wal(stretch.timeline).and_then(|wal| wal.next_covered(from));
            if let Some(next) = next.filter(|next| stretch.end.is_none_or(|last| *next < last)) {
                resumes = Some(size.start_of(next));
                break;
            }
        }
        // A timeline that branched off later proves that there was WAL up to there.
        let branched = path.steps().iter().map(|step| step.begin).filter(|begin| *begin > end).max();
        let sealed = self.sealed_on(path.tli());
        // Several uploads are under way at once: what a dead agent had stored behind the first that it had not was never
        // sealed, so nothing was promised there. The WAL ends here. So it does under the lease of an agent that died
        // before it had sealed anything.
        let nothing_sealed = self.lease.as_ref().is_some_and(|lease| lease.sealed.is_none());
        if branched.is_none() && (nothing_sealed || sealed.is_some_and(|sealed| sealed <= end)) {
            return None;
        }
        let sealed = sealed.filter(|sealed| *sealed > end);
        let stray = self.wal(path.tli_of_segment(segment, size)).and_then(DurableWal::end).filter(|stray| *stray > end);
        let to = resumes.or(branched).or(sealed).or(stray)?;
        Some(MissingWal { segment: self.segment_name(path, segment), from: end, to, resumes: resumes.is_some() })
    }

    fn wal(&self, timeline: TimelineId) -> Option<&DurableWal> {
        self.timelines.get(&timeline).map(|known| &known.wal)
    }
}
