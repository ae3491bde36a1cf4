//! Reads the records of the stream as they pass: landmarks for those who wait, times of commits, summaries. Pure but for
//! those it tells.
//!
//! What a segment must be to be stored is not decided here: WAL that cannot be decoded is reported, and reading goes on at
//! the next segment.

use chrono::{DateTime, Utc};
use pitr::postgres::Lsn;
use pitr::postgres::wal::{DecodeError, Record, RecordMeaning, ResourceManager, WalDecoder};
use pitr::repository::FoundRestorePoint;
use pitr::repository::found_restore_point::name_of;
use pitr::summarize::{CutSummary, SummaryCutter};
use pitr::wal_summary::WalSummary;

use super::open_segment::StreamFacts;
use super::progress::{Landmark, LandmarkKind};

/// What is told of the records.
pub(super) trait Listener {
    fn landmark(&mut self, landmark: Landmark);
    fn summary(&mut self, summary: Box<WalSummary>);
}

#[derive(Debug)]
pub(super) struct RecordScan {
    facts: StreamFacts,
    decoder: Option<WalDecoder>,
    cutter: SummaryCutter,
    notes: Notes,
}

/// What of the records before matters later.
#[derive(Debug)]
struct Notes {
    facts: StreamFacts,
    commit_time: Option<DateTime<Utc>>,
    /// Where the last `XLOG_SWITCH` ends.
    last_switch: Option<Lsn>,
}

impl RecordScan {
    pub(super) const fn new(facts: StreamFacts) -> Self {
        let cutter = SummaryCutter::new(facts.timeline, facts.major, facts.segment_size, facts.begin);
        Self { facts, decoder: None, cutter, notes: Notes { facts, commit_time: None, last_switch: None } }
    }

    pub(super) const fn facts(&self) -> StreamFacts {
        self.facts
    }

    /// Time of the last commit or abort that passed.
    pub(super) const fn commit_time(&self) -> Option<DateTime<Utc>> {
        self.notes.commit_time
    }

    /// Whether an `XLOG_SWITCH` explains that the segment at `segment_start` ends in zeros; none where the records
    /// of that segment could not be read.
    pub(super) fn explains_zeros(&self, segment_start: Lsn) -> Option<bool> {
        self.decoder.as_ref()?;
        Some(self.notes.last_switch.is_some_and(|end| end > segment_start))
    }

    /// Takes the bytes at `start`, which do not cross the start of a segment.
    ///
    /// # Errors
    /// The records cannot be read from here on, up to the next segment.
    pub(super) fn feed(
        &mut self,
        start: Lsn,
        bytes: &[u8],
        listener: &mut (impl Listener + ?Sized),
    ) -> Result<(), DecodeError> {
        let facts = self.facts;
        if self.decoder.is_none() && facts.segment_size.offset_of(start) == 0 {
            let decoder = WalDecoder::new(start, facts.timeline, facts.segment_size)
                .with_system_identifier(facts.system_identifier)
                .with_major(facts.major);
            self.decoder = Some(decoder);
            self.cutter.restart(start);
        }
        let Some(mut decoder) = self.decoder.take() else { return Ok(()) };
        decoder.feed(bytes);
        let mut summaries = Vec::new();
        let notes = &mut self.notes;
        let taken = self.cutter.take(&mut decoder, |record| notes.take(record, listener), |cut| summaries.push(cut));
        for cut in summaries {
            match cut {
                CutSummary::Whole(summary) => listener.summary(summary),
                CutSummary::NotUnderstood { from, error, .. } => {
                    tracing::warn!(%from, %error, "a WAL record was not understood: its segment has no summary");
                }
            }
        }
        taken?;
        self.decoder = Some(decoder);
        Ok(())
    }
}

impl Notes {
    fn take(&mut self, record: &Record<'_>, listener: &mut (impl Listener + ?Sized)) {
        if ![ResourceManager::XLOG, ResourceManager::TRANSACTION].contains(&record.resource_manager()) {
            return;
        }
        let own = record.start_lsn() >= self.facts.begin;
        let landmark = |kind| Landmark {
            timeline: self.facts.timeline,
            start_lsn: record.start_lsn(),
            end_lsn: record.end_lsn(),
            kind,
        };
        match record.meaning(self.facts.major) {
            Ok(RecordMeaning::TransactionEnd(end)) => self.commit_time = Some(end.time),
            Ok(RecordMeaning::RestorePoint(point)) if own => {
                let name = name_of(point.name);
                listener.landmark(landmark(LandmarkKind::RestorePoint { name, time: point.time }));
            }
            Ok(RecordMeaning::BackupEnd { start_lsn }) if own => {
                listener.landmark(landmark(LandmarkKind::BackupEnd { start_lsn }));
            }
            Ok(RecordMeaning::Switch) => self.last_switch = Some(record.end_lsn()),
            Ok(_) => {}
            // Whoever takes records for summaries says so.
            Err(error) => tracing::debug!(lsn = %record.start_lsn(), %error, "a WAL record was not understood"),
        }
    }
}

impl Landmark {
    /// As a restore point, if it is one.
    pub(super) fn restore_point(&self) -> Option<FoundRestorePoint> {
        match &self.kind {
            LandmarkKind::RestorePoint { name, time } => Some(FoundRestorePoint {
                timeline: self.timeline,
                lsn: self.start_lsn,
                end_lsn: self.end_lsn,
                name: name.clone(),
                time: *time,
            }),
            LandmarkKind::BackupEnd { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pitr::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};
    use pitr::postgres::{MajorVersion, SegmentNumber, TimelineId, TransactionId, WalSegmentSize};

    use super::*;

    fn facts() -> StreamFacts {
        StreamFacts {
            timeline: TimelineId::FIRST,
            begin: Lsn::INVALID,
            system_identifier: SYSTEM_IDENTIFIER,
            major: MajorVersion::V15,
            segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        }
    }

    fn writer() -> WalWriter {
        WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), facts().segment_size)
    }

    #[derive(Default)]
    struct Heard {
        landmarks: Vec<Landmark>,
        summaries: Vec<(Lsn, Lsn)>,
    }

    impl Listener for Heard {
        fn landmark(&mut self, landmark: Landmark) {
            self.landmarks.push(landmark);
        }

        fn summary(&mut self, summary: Box<WalSummary>) {
            self.summaries.push((summary.from, summary.to));
        }
    }

    /// In pieces, as a stream brings them.
    fn scan(scan: &mut RecordScan, start: Lsn, bytes: &[u8]) -> (Vec<Landmark>, Vec<DecodeError>) {
        let (heard, errors) = hear(scan, start, bytes);
        (heard.landmarks, errors)
    }

    fn hear(scan: &mut RecordScan, start: Lsn, bytes: &[u8]) -> (Heard, Vec<DecodeError>) {
        let (mut heard, mut errors) = (Heard::default(), Vec::new());
        for (at, piece) in (0..).step_by(1 << 16).zip(bytes.chunks(1 << 16)) {
            if let Err(error) = scan.feed(start.advance(at), piece, &mut heard) {
                errors.push(error);
            }
        }
        (heard, errors)
    }

    #[test]
    fn finds_landmarks_and_commit_times() {
        let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut writer = writer();
        writer.filler(300_000);
        writer.commit(TransactionId::new(700), time);
        let point = writer.restore_point("release-42", time);
        let end = writer.backup_end(Lsn::new(0x28));
        let mut records = RecordScan::new(facts());
        let (landmarks, errors) = scan(&mut records, writer.start(), writer.bytes());
        assert_eq!(errors, []);
        let kinds: Vec<_> = landmarks.iter().map(|l| (l.start_lsn, l.end_lsn, l.kind.clone())).collect();
        let name = "release-42".to_owned();
        assert_eq!(
            kinds,
            [
                (point.start, point.end, LandmarkKind::RestorePoint { name, time }),
                (end.start, end.end, LandmarkKind::BackupEnd { start_lsn: Lsn::new(0x28) }),
            ]
        );
        assert_eq!(records.commit_time(), Some(time));
    }

    #[test]
    fn goes_on_at_the_next_segment_after_damage() {
        let mut writer = writer();
        let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        while writer.bytes().len() < (1 << 20) + 100_000 {
            writer.filler(3000);
        }
        let point = writer.restore_point("after", time);
        let mut bytes = writer.bytes().to_vec();
        bytes[500_000] ^= 1;
        let mut records = RecordScan::new(facts());
        let (landmarks, errors) = scan(&mut records, writer.start(), &bytes);
        assert_eq!(errors.len(), 1);
        assert_eq!(landmarks.iter().map(|l| l.start_lsn).collect::<Vec<_>>(), [point.start]);
    }

    #[test]
    fn knows_what_explains_zeros() {
        let mut writer = writer();
        writer.filler(1000);
        writer.switch();
        let segment = writer.segments().remove(0).1;
        let mut records = RecordScan::new(facts());
        assert_eq!(records.explains_zeros(writer.start()), None);
        let (_, errors) = scan(&mut records, writer.start(), &segment);
        assert_eq!(errors, []);
        assert_eq!(records.explains_zeros(writer.start()), Some(true));
        assert_eq!(records.explains_zeros(Lsn::new(4 << 20)), Some(false));
    }

    #[test]
    fn a_timeline_begins_where_it_left_its_parent() {
        let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut writer = writer();
        let parents = writer.restore_point("parent", time);
        let own = writer.restore_point("own", time);
        while writer.bytes().len() < (1 << 20) + 100_000 {
            writer.filler(3000);
        }
        let mut records = RecordScan::new(StreamFacts { begin: own.start, ..facts() });
        let (heard, errors) = hear(&mut records, writer.start(), writer.bytes());
        assert_eq!(errors, []);
        assert!(parents.start < own.start);
        assert_eq!(heard.landmarks.iter().map(|landmark| landmark.start_lsn).collect::<Vec<_>>(), [own.start]);
        assert_eq!(heard.summaries, [(own.start, Lsn::new(4 << 20))]);
    }
}
