//! Where archiving goes on: decided by what the repository holds, never by where the server happens to be.
//!
//! The server's history is a path of timelines. The newest of them of which anything is stored is where the stream starts,
//! at the first segment of it that is not stored whole. Several segments are put at once, so a crash can leave a hole of a
//! few segments before the end: that hole is the place to start, not what stands behind it.

use pitr::postgres::history::{PathStep, TimelineHistory};
use pitr::postgres::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};
use pitr::repository::wal_store::{StoredSegment, Tail, WalLog};
use pitr::repository::{self, WalStore};

use super::open_segment::StoredPart;
use super::uploader::IN_FLIGHT;

/// One timeline of a server's history, up to where the next one left it; the last has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathPart {
    pub timeline: TimelineId,
    /// Where it left its parent.
    pub begin: Option<Lsn>,
    pub end: Option<Lsn>,
}

/// The way through timelines that led a server to the one it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimelinePath(Vec<PathPart>);

impl TimelinePath {
    /// `history` is the history file of `current`, which only the first timeline does not have.
    pub(super) fn new(current: TimelineId, history: Option<&TimelineHistory>) -> Self {
        let switches = history.map(TimelineHistory::switches).unwrap_or_default();
        let ends = switches.iter().map(|switch| (switch.parent, Some(switch.switch_lsn))).chain([(current, None)]);
        let begins = [None].into_iter().chain(switches.iter().map(|switch| Some(switch.switch_lsn)));
        Self(ends.zip(begins).map(|((timeline, end), begin)| PathPart { timeline, begin, end }).collect())
    }

    /// The same way in another form; without steps it is `current` alone.
    pub(super) fn of_steps(current: TimelineId, steps: &[PathStep]) -> Self {
        if steps.is_empty() {
            return Self::new(current, None);
        }
        let part = |step: &PathStep| PathPart {
            timeline: step.tli,
            begin: Some(step.begin).filter(|begin| begin.is_valid()),
            end: step.end,
        };
        Self(steps.iter().map(part).collect())
    }

    /// Newest first.
    fn newest_first(&self) -> impl Iterator<Item = (Option<PathPart>, PathPart)> {
        let followers = self.0.iter().skip(1).copied().map(Some).chain([None]);
        let pairs: Vec<_> = followers.zip(self.0.iter().copied()).collect();
        pairs.into_iter().rev()
    }

    /// The timeline whose file of a segment the server has: the newest that has any byte of it.
    pub(super) fn timeline_of_segment(&self, segment: SegmentNumber, size: WalSegmentSize) -> Option<TimelineId> {
        let has = |part: &&PathPart| part.begin.is_none_or(|begin| size.segment_of(begin) <= segment);
        self.0.iter().rev().find(has).map(|part| part.timeline)
    }

    /// The timeline that the byte at `lsn` is on.
    pub(super) fn timeline_at(&self, lsn: Lsn) -> Option<TimelineId> {
        self.0.iter().find(|part| part.end.is_none_or(|end| lsn < end)).map(|part| part.timeline)
    }
}

/// Where to start, and what is known of that segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResumePoint {
    pub timeline: TimelineId,
    pub segment: SegmentNumber,
    pub stored: StoredPart,
    /// Up to where the timeline is stored without a hole; none where nothing is.
    pub sealed: Option<Lsn>,
    /// Tails beside whole segments, which a crash left.
    pub leftover: Vec<Tail>,
}

/// The repository holds WAL that is not in the server's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Divergence {
    pub timeline: TimelineId,
    /// From here on.
    pub from: Option<Lsn>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Resume(ResumePoint, Option<Divergence>),
    /// Nothing of the server's history is stored.
    Nothing(Option<Divergence>),
}

/// What is stored of the end of one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TimelineEnd {
    /// Whole segments of the last logs, in order.
    whole: Vec<SegmentNumber>,
    open: Vec<SegmentNumber>,
    log: WalLog,
}

impl TimelineEnd {
    /// The first segment to be received; none where nothing is stored.
    ///
    /// `reserved` is the first segment that the slot keeps: what is before it was confirmed, so it is stored. Without it
    /// the last few segments are looked at, which is as far as a crash can have left a hole.
    fn resume_at(&self, reserved: Option<SegmentNumber>) -> Option<SegmentNumber> {
        let last = self.whole.last().max(self.open.last())?;
        let is_whole = |number: &SegmentNumber| self.whole.binary_search(number).is_ok();
        let window = last.as_u64().saturating_sub(2 * IN_FLIGHT as u64);
        let begin = match reserved {
            Some(reserved) if reserved <= *last => reserved.as_u64(),
            _ => self.whole.iter().chain(&self.open).map(|number| number.as_u64()).filter(|n| *n >= window).min()?,
        };
        let mut number = SegmentNumber::new(begin);
        while is_whole(&number) {
            number = number.next();
        }
        Some(number)
    }
}

/// Looks for the place on the server's path where archiving goes on. `restart_lsn` is the slot's.
///
/// # Errors
/// The repository fails, or what is stored cannot be read.
pub(super) async fn find(
    wal: &WalStore,
    path: &TimelinePath,
    restart_lsn: Option<Lsn>,
) -> Result<Found, repository::Error> {
    let timelines = wal.timelines().await?;
    let mut newest_stored = None;
    for timeline in timelines.iter().rev() {
        if !wal.logs(*timeline).await?.is_empty() {
            newest_stored = Some(*timeline);
            break;
        }
    }
    let size = wal.lineage().lineage().wal_segment_size;
    for (follower, part) in path.newest_first() {
        if !timelines.contains(&part.timeline) {
            continue;
        }
        let reserved = restart_lsn.max(part.begin).map(|lsn| size.segment_of(lsn)).filter(|_| restart_lsn.is_some());
        let Some(point) = on_timeline(wal, part.timeline, reserved).await? else { continue };
        let start = size.start_of(point.segment);
        let divergence = diverges(newest_stored, part, start);
        return Ok(match (part.end, follower) {
            // All that the server's history has of this timeline is stored: the next one begins.
            (Some(end), Some(follower)) if start >= end => {
                Found::Resume(at_switch(follower.timeline, end, size), divergence)
            }
            _ => Found::Resume(point, divergence),
        });
    }
    Ok(Found::Nothing(newest_stored.map(|timeline| Divergence { timeline, from: None })))
}

/// `stored` is where the last whole segment of the timeline ends. A tail beyond the switch is as it should be: a promotion
/// can cut a record of which the first part was already streamed.
fn diverges(newest_stored: Option<TimelineId>, part: PathPart, stored: Lsn) -> Option<Divergence> {
    match (newest_stored, part.end) {
        (Some(newest), end) if newest != part.timeline => Some(Divergence { timeline: newest, from: end }),
        (_, Some(end)) if stored > end => Some(Divergence { timeline: part.timeline, from: Some(end) }),
        _ => None,
    }
}

/// The start of a timeline that left another at `switch`: the segment that both share.
pub(super) fn at_switch(timeline: TimelineId, switch: Lsn, size: WalSegmentSize) -> ResumePoint {
    ResumePoint {
        timeline,
        segment: size.segment_of(switch),
        stored: StoredPart::default(),
        sealed: None,
        leftover: Vec::new(),
    }
}

/// Where to go on on one timeline; none where nothing of it is stored.
///
/// # Errors
/// See [`find`].
pub(super) async fn on_timeline(
    wal: &WalStore,
    timeline: TimelineId,
    reserved: Option<SegmentNumber>,
) -> Result<Option<ResumePoint>, repository::Error> {
    let size = wal.lineage().lineage().wal_segment_size;
    let end = timeline_end(wal, timeline, reserved, size).await?;
    let Some(segment) = end.resume_at(reserved) else { return Ok(None) };
    let name = segment.name(timeline, size);
    let start = size.start_of(segment);
    let stored = match wal.read_segment(name).await? {
        None => StoredPart::default(),
        Some(StoredSegment::Open { bytes, .. }) => StoredPart { bytes, tails: wal.tails(name).await? },
        // Stored between the two looks: only by another agent, whose lease we hold.
        Some(StoredSegment::Whole(bytes)) => StoredPart { bytes, tails: Vec::new() },
    };
    let leftover = end.log.tails.iter().filter(|(name, _)| end.log.segments.contains(name));
    let leftover = leftover.flat_map(|(_, tails)| tails.iter().copied()).collect();
    let sealed = Some(start.advance(stored.bytes.len() as u64));
    Ok(Some(ResumePoint { timeline, segment, stored, sealed, leftover }))
}

/// The first segment behind `segment` of which anything from its start on is stored, on the same timeline.
///
/// # Errors
/// See [`find`].
pub(super) async fn next_stored(
    wal: &WalStore,
    timeline: TimelineId,
    segment: SegmentNumber,
) -> Result<Option<SegmentNumber>, repository::Error> {
    let size = wal.lineage().lineage().wal_segment_size;
    let first_log = segment.name(timeline, size).log();
    for log in wal.logs(timeline).await?.into_iter().filter(|log| *log >= first_log) {
        let listed = wal.log(timeline, log).await?;
        let whole = listed.segments.iter().filter_map(|name| name.number(size));
        let open = listed.tails.keys().filter_map(|name| {
            let number = name.number(size)?;
            (listed.tails_end(*name, size.start_of(number)) > size.start_of(number)).then_some(number)
        });
        if let Some(next) = whole.chain(open).filter(|number| *number > segment).min() {
            return Ok(Some(next));
        }
    }
    Ok(None)
}

/// The last log of the timeline and as many before it as are needed to see what the slot still keeps.
async fn timeline_end(
    wal: &WalStore,
    timeline: TimelineId,
    reserved: Option<SegmentNumber>,
    size: WalSegmentSize,
) -> Result<TimelineEnd, repository::Error> {
    let logs = wal.logs(timeline).await?;
    let mut end = TimelineEnd::default();
    let from_log = reserved.map(|number| number.name(timeline, size).log());
    for (index, log) in logs.iter().rev().enumerate() {
        let listed = wal.log(timeline, *log).await?;
        end.log.segments.extend(listed.segments);
        end.log.tails.extend(listed.tails);
        let enough = index > 0 && from_log.is_none_or(|from| *log <= from);
        if enough {
            break;
        }
    }
    end.whole = end.log.segments.iter().filter_map(|name| name.number(size)).collect();
    end.whole.sort_unstable();
    end.open = end.log.tails.keys().filter_map(|name| name.number(size)).collect();
    end.open.sort_unstable();
    Ok(end)
}

#[cfg(test)]
mod tests;
