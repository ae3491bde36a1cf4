//! Beginning anew behind WAL that nobody has any more.
//!
//! As little as possible is given up: archiving begins with the oldest segment that the server still has without a hole up
//! to what its slot keeps.

use pitr::postgres::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};
use pitr::repository::gap::{GapCause, GapNote};
use pitr::repository::lease::WalPosition;

use super::error::ArchiverError;
use super::resume::{self, ResumePoint, TimelinePath};
use super::session::{Server, Session};
use crate::postgres::instance::{Slot, wal_files};

/// Where WAL is missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// The first byte.
    from: WalPosition,
    segment: SegmentNumber,
}

impl Lost {
    /// What was to be received at `point`.
    pub(super) fn at(point: &ResumePoint, size: WalSegmentSize) -> Self {
        let lsn = point.sealed.unwrap_or_else(|| size.start_of(point.segment));
        Self { from: WalPosition { timeline: point.timeline, lsn }, segment: point.segment }
    }
}

impl Session {
    /// Chooses the place behind `lost`, with a slot that keeps it.
    pub(super) async fn begin_behind(
        &self,
        server: &mut Server,
        path: &TimelinePath,
        slot: &Slot,
        lost: Lost,
    ) -> Result<ResumePoint, ArchiverError> {
        let size = self.wal.lineage().lineage().wal_segment_size;
        let kept = match slot.restart_lsn.map(|lsn| size.segment_of(lsn)) {
            Some(kept) if kept > lost.segment && !self.is_refused(path, kept, size) => kept,
            // It is to keep what is not there.
            _ => {
                server.connection.drop_slot(&self.options.slot).await?;
                let made = self.make_slot(server).await?.restart_lsn;
                let made = made.ok_or_else(|| ArchiverError::Unsuitable("the new slot keeps no WAL".to_owned()))?;
                size.segment_of(made)
            }
        };
        let first = self.oldest_kept(server, path, lost.segment, kept, size).await;
        let timeline = path
            .timeline_of_segment(first, size)
            .ok_or_else(|| ArchiverError::Unsuitable("the server's history is empty".to_owned()))?;
        let stored = resume::on_timeline(&self.wal, timeline, Some(first)).await?;
        Ok(stored
            .filter(|point| point.segment >= first)
            .unwrap_or_else(|| resume::at_switch(timeline, size.start_of(first), size)))
    }

    fn is_refused(&self, path: &TimelinePath, segment: SegmentNumber, size: WalSegmentSize) -> bool {
        let timeline = path.timeline_of_segment(segment, size);
        timeline.is_some_and(|timeline| self.losses.is_refused(timeline, size.start_of(segment)))
    }

    /// The first of the consecutive segments that the server has up to `kept`.
    async fn oldest_kept(
        &self,
        server: &Server,
        path: &TimelinePath,
        lost: SegmentNumber,
        kept: SegmentNumber,
        size: WalSegmentSize,
    ) -> SegmentNumber {
        let Some(files) = wal_files(&server.session).await else { return kept };
        let mut first = kept;
        while let Some(before) = first.as_u64().checked_sub(1).map(SegmentNumber::new) {
            let name = path.timeline_of_segment(before, size).map(|timeline| before.name(timeline, size));
            let there = name.is_some_and(|name| files.contains(&name));
            if before <= lost || !there || self.is_refused(path, before, size) {
                break;
            }
            first = before;
        }
        first
    }

    /// WAL is lost from there up to `to`.
    pub(super) fn note_gap(&self, lost: Lost, to: Lsn) {
        let cause = self.losses.cause();
        let Lost { from: WalPosition { timeline, lsn }, .. } = lost;
        self.options.gaps.note(self.options.gap_note(timeline, lsn, Some(to), cause.cause, cause.reason));
    }
}

impl super::ArchiverOptions {
    pub(super) fn gap_note(
        &self,
        timeline: TimelineId,
        from_lsn: Lsn,
        to_lsn: Option<Lsn>,
        cause: GapCause,
        reason: String,
    ) -> GapNote {
        let who = format!("{}/{}", self.identity.host, self.identity.pid);
        GapNote { timeline, from_lsn, to_lsn, cause, reason, noticed: self.clock.now(), who }
    }
}

/// Why the server invalidated a slot.
pub(super) fn why_lost(slot: &Slot, name: &str) -> (GapCause, String) {
    match slot.invalidation.as_deref() {
        Some("idle_timeout") => (
            GapCause::SlotIdle,
            format!("the server invalidated the slot \"{name}\" after idle_replication_slot_timeout"),
        ),
        None | Some("wal_removed") => (
            GapCause::SlotLost,
            format!("the server invalidated the slot \"{name}\": it held more WAL than max_slot_wal_keep_size"),
        ),
        Some(other) => (GapCause::SlotLost, format!("the server invalidated the slot \"{name}\": {other}")),
    }
}
