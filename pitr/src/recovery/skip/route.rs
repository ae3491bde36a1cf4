//! What must be decoded whatever summaries say.

use chrono::{DateTime, Utc};

use super::digest::SummaryDigest;
use crate::postgres::{Lsn, TransactionId, WalSegmentSize};
use crate::recovery::scan::Goal;
use crate::repository::backup::{BackupManifest, BackupSource};
use crate::repository::catalog::LsnRange;
use crate::wal_summary::transactions::precedes;

/// A target this close behind the start of a segment is looked for from the segment before on: the last record that ends
/// before it may start there.
const NEAR_START_BYTES: u32 = 64 << 10;
/// Far from where transaction IDs wrap around, so that of two one is the earlier without doubt.
const MAX_XID_DISTANCE: u32 = 1 << 30;

/// From a backup to a target.
#[derive(Clone, Debug)]
pub struct Route {
    goal: Goal,
    /// The record that makes the backup consistent is in here.
    backup_end: LsnRange,
    /// From here on everything is decoded.
    ceiling: Lsn,
    /// Before this position the transaction that is looked for had not begun.
    unbegun: Lsn,
}

impl Route {
    #[must_use]
    pub fn new(goal: Goal, backup: &BackupManifest, size: WalSegmentSize, limit: Lsn) -> Self {
        let start_of = |lsn| size.start_of(size.segment_of(lsn)).max(backup.start_lsn);
        // A standby writes no record of its own: the first one that ends at that position or later may start anywhere before.
        let from = match backup.source {
            BackupSource::Primary => start_of(backup.end_record_lsn),
            BackupSource::Standby => backup.start_lsn,
        };
        let backup_end = LsnRange { from, to: size.end_of(size.segment_before(backup.stop_lsn)) };
        let near = |lsn: Lsn| {
            let segment = size.segment_before(lsn);
            let start = size.start_of(segment);
            let offset = lsn.distance_from(start).unwrap_or(0);
            let back = if offset < u64::from(NEAR_START_BYTES) { size.as_u64() } else { 0 };
            Lsn::new(start.as_u64().saturating_sub(back))
        };
        let ceiling = match goal {
            Goal::End | Goal::Time { .. } | Goal::Xid { .. } => limit,
            Goal::Lsn(lsn) => lsn,
            Goal::Record(lsn) => lsn.advance(1),
            // The same record as the backup's end, or the end of another backup.
            Goal::FirstEnd(_) => backup_end.from,
        };
        // What stands in the last segment may not be whole, though its summary knew the rest of it.
        let ceiling = near(ceiling.min(limit)).max(backup.start_lsn);
        Self { goal, backup_end, ceiling, unbegun: Lsn::INVALID }
    }

    /// Whether summaries can say anything at all.
    #[must_use]
    pub fn can_skip(&self, start: Lsn) -> bool {
        self.backup_end.from > start || self.backup_end.to < self.ceiling
    }

    /// Whether the summary of a leg is of any use.
    #[must_use]
    pub fn may_skip_in(&self, from: Lsn, to: Lsn) -> bool {
        from < self.ceiling && !(self.backup_end.from <= from && to <= self.backup_end.to)
    }

    /// Whether it has to be known of all legs before the first is skipped, by [`Self::learn`].
    #[must_use]
    pub const fn needs_all(&self) -> bool {
        matches!(self.goal, Goal::Xid { .. })
    }

    /// Learns from what all summaries say when the transaction that is looked for had not begun yet. They come in order.
    pub fn learn<'a>(&mut self, digests: impl IntoIterator<Item = &'a SummaryDigest>) {
        let Goal::Xid { xid, .. } = self.goal else { return };
        let next_xids: Vec<(Lsn, TransactionId)> =
            digests.into_iter().filter_map(|digest| Some((digest.range.from, digest.first_next_xid?))).collect();
        let Some((_, base)) = next_xids.first() else { return };
        let from_base = |xid: TransactionId| xid.as_u32().wrapping_sub(base.as_u32());
        let rising = next_xids.is_sorted_by_key(|(_, next)| from_base(*next));
        let near = next_xids.iter().all(|(_, next)| from_base(*next) < MAX_XID_DISTANCE);
        if !rising || !near || from_base(xid) > u32::MAX / 2 {
            return;
        }
        let unbegun = next_xids.iter().filter(|(_, next)| from_base(*next) <= from_base(xid));
        self.unbegun = unbegun.map(|(from, _)| *from).max().unwrap_or(Lsn::INVALID);
    }

    /// The first stretch that starts in `part` and must be decoded, the rest of which the summary speaks of.
    #[must_use]
    pub fn decode_next(&self, digest: &SummaryDigest, part: LsnRange) -> Option<LsnRange> {
        let forced = [self.backup_end, LsnRange { from: self.ceiling, to: Lsn::MAX }];
        let doubtful = self.doubtful(digest, part);
        let within =
            forced.into_iter().chain(doubtful).map(|range| clip(range, part)).filter(|range| range.from < range.to);
        within.min_by_key(|range| range.from)
    }

    /// What may hold the target by what the summary says.
    fn doubtful(&self, digest: &SummaryDigest, part: LsnRange) -> Option<LsnRange> {
        match self.goal {
            Goal::Time { time, exclusive } => {
                let left_out = |at: DateTime<Utc>| if exclusive { at >= time } else { at > time };
                digest.latest.filter(|latest| left_out(*latest))?;
                let rows = digest.rows.iter().filter(|row| left_out(row.latest)).map(|row| digest.range_of(row));
                rows.map(|range| clip(range, part)).find(|range| range.from < range.to)
            }
            Goal::Xid { xid, .. } => self.may_end(digest, xid, part).then_some(part),
            _ => None,
        }
    }

    /// Whether the transaction may have ended in the summary's range, as one of its own or as a part of another.
    fn may_end(&self, digest: &SummaryDigest, xid: TransactionId, part: LsnRange) -> bool {
        // Ends of those that may have begun before the range are all known by their numbers.
        let begun_within = digest.first_next_xid.is_some_and(|next| !precedes(xid, next));
        digest.ends_wanted_xid || (begun_within && part.to > self.unbegun)
    }
}

fn clip(range: LsnRange, within: LsnRange) -> LsnRange {
    LsnRange { from: range.from.max(within.from), to: range.to.min(within.to) }
}
