//! Gives every record to the summary of the segment that it starts in.
//!
//! A segment's summary is whole once everything that starts before its end was decoded; the record that starts last in it
//! usually ends in the next one. What of the first segment is a copy of the parent timeline's WAL is left out.

use crate::postgres::wal::{DecodeError, Record, RecordError, WalDecoder};
use crate::postgres::{Lsn, MajorVersion, TimelineId, WalSegmentSize};
use crate::wal_summary::{SummaryBuilder, WalSummary};

/// The summary of one segment, or why there is none.
#[derive(Debug)]
pub enum CutSummary {
    Whole(Box<WalSummary>),
    NotUnderstood { from: Lsn, to: Lsn, error: RecordError },
}

/// Takes the records of one timeline, in order, from the start of a segment on.
#[derive(Debug)]
pub struct SummaryCutter {
    timeline: TimelineId,
    major: MajorVersion,
    segment_size: WalSegmentSize,
    /// First byte that is the timeline's own.
    begin: Lsn,
    /// Where the range that is being read begins; everything before was handed out.
    from: Lsn,
    /// None before the first record of the range.
    builder: Option<SummaryBuilder>,
}

impl SummaryCutter {
    /// `begin` is the first byte that is the timeline's own. Nothing is taken before [`Self::restart`].
    #[must_use]
    pub const fn new(timeline: TimelineId, major: MajorVersion, segment_size: WalSegmentSize, begin: Lsn) -> Self {
        Self { timeline, major, segment_size, begin, from: Lsn::MAX, builder: None }
    }

    /// Decoding begins, or goes on after it was interrupted, at `start`, the start of a segment. What was not finished has no
    /// summary.
    pub fn restart(&mut self, start: Lsn) {
        self.from = self.begin.max(start);
        self.builder = None;
    }

    /// Takes all that `decoder` has got, and hands it to `seen`, and what is finished to `cut`.
    ///
    /// # Errors
    /// The records cannot be read from here on, up to the next [`Self::restart`].
    pub fn take(
        &mut self,
        decoder: &mut WalDecoder,
        mut seen: impl FnMut(&Record<'_>),
        mut cut: impl FnMut(CutSummary),
    ) -> Result<(), DecodeError> {
        loop {
            match decoder.next_record() {
                Ok(Some(record)) => {
                    seen(&record);
                    self.record(&record, &mut cut);
                }
                Ok(None) => break,
                Err(error) => {
                    self.from = Lsn::MAX;
                    self.builder = None;
                    return Err(error);
                }
            }
        }
        if decoder.incomplete_record().is_none() {
            self.pass(decoder.position(), &mut cut);
        }
        Ok(())
    }

    /// The summary of what is left before `end`, where the timeline was left.
    pub fn finish(&mut self, end: Lsn, mut cut: impl FnMut(CutSummary)) {
        self.pass(end, &mut cut);
        if self.from < end {
            let builder = self.builder.take().unwrap_or_else(|| self.begin_at(self.from));
            cut(finish(builder, end));
        }
        self.from = Lsn::MAX;
    }

    fn record(&mut self, record: &Record<'_>, cut: &mut impl FnMut(CutSummary)) {
        let start = record.start_lsn();
        if start < self.from {
            return;
        }
        self.pass(start, cut);
        let mut builder = self.builder.take().unwrap_or_else(|| self.begin_at(self.from));
        // One that failed says so at its end.
        let _ = builder.record(record);
        self.builder = Some(builder);
    }

    /// Finishes every segment that ends at or before `position`.
    fn pass(&mut self, position: Lsn, cut: &mut impl FnMut(CutSummary)) {
        loop {
            let end = self.segment_size.end_of(self.segment_size.segment_of(self.from));
            if end > position || end <= self.from {
                return;
            }
            let builder = self.builder.take().unwrap_or_else(|| self.begin_at(self.from));
            self.from = end;
            cut(finish(builder, end));
        }
    }

    fn begin_at(&self, from: Lsn) -> SummaryBuilder {
        SummaryBuilder::new(self.timeline, self.major, self.segment_size, from)
    }
}

fn finish(builder: SummaryBuilder, to: Lsn) -> CutSummary {
    let from = builder.from();
    match builder.finish(to) {
        Ok(summary) => CutSummary::Whole(Box::new(summary)),
        Err(error) => CutSummary::NotUnderstood { from, to, error },
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::postgres::wal::testing::WalWriter;
    use crate::postgres::{SegmentNumber, TransactionId};

    const SIZE: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    fn writer() -> WalWriter {
        WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), size())
    }

    /// Feeds in pieces of `piece` bytes; gives the ranges that were finished, with how many commits each holds.
    fn cut(cutter: &mut SummaryCutter, start: Lsn, bytes: &[u8], piece: usize) -> Vec<(u64, u64, u64)> {
        let mut found = Vec::new();
        let mut decoder = WalDecoder::new(start, TimelineId::FIRST, size());
        cutter.restart(start);
        for bytes in bytes.chunks(piece) {
            decoder.feed(bytes);
            cutter.take(&mut decoder, |_| (), |summary| found.push(range(&summary))).unwrap();
        }
        found
    }

    fn range(cut: &CutSummary) -> (u64, u64, u64) {
        let CutSummary::Whole(summary) = cut else { panic!("{cut:?}") };
        let commits = summary.times.commits.map_or(0, |commits| commits.count);
        (summary.from.as_u64() / 8192, summary.to.as_u64() / 8192, commits)
    }

    fn cutter(begin: Lsn) -> SummaryCutter {
        SummaryCutter::new(TimelineId::FIRST, MajorVersion::V15, size(), begin)
    }

    fn commits(writer: &mut WalWriter, until: u64) -> u64 {
        let time = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut count = 0;
        while writer.position().as_u64() < until {
            writer.commit(TransactionId::new(700), time);
            count += 1;
        }
        count
    }

    #[test]
    fn a_record_belongs_to_the_segment_it_starts_in() {
        let mut writer = writer();
        let first = commits(&mut writer, 4 * SIZE);
        let over = writer.position().as_u64() - 4 * SIZE;
        assert!(over > 0, "the last commit goes over the border");
        let second = commits(&mut writer, 5 * SIZE - 100);
        for piece in [97, 8192, 1 << 20] {
            let found = cut(&mut cutter(Lsn::INVALID), writer.start(), writer.bytes(), piece);
            assert_eq!(found, [(384, 512, first)]);
        }
        let mut all = cutter(Lsn::INVALID);
        cut(&mut all, writer.start(), writer.bytes(), 8192);
        let mut rest = Vec::new();
        all.finish(writer.position(), |summary| rest.push(range(&summary)));
        assert_eq!(rest, [(512, writer.position().as_u64() / 8192, second)]);
    }

    #[test]
    fn segments_within_one_record_have_empty_summaries() {
        let mut writer = writer();
        writer.filler(3 * SIZE as usize);
        commits(&mut writer, 7 * SIZE);
        let found = cut(&mut cutter(Lsn::INVALID), writer.start(), writer.bytes(), 8192);
        assert_eq!(found.iter().map(|found| found.2 > 0).collect::<Vec<_>>(), [false, false, false, true]);
        // From within the record on: nothing that starts there is missed.
        let start = writer.start().advance(SIZE);
        let later = cut(&mut cutter(Lsn::INVALID), start, &writer.bytes()[SIZE as usize..], 8192);
        assert_eq!(later, found[1..]);
    }

    #[test]
    fn what_is_the_parents_is_left_out() {
        let mut writer = writer();
        commits(&mut writer, 3 * SIZE + 500_000);
        let begin = writer.position();
        let own = commits(&mut writer, 4 * SIZE);
        commits(&mut writer, 4 * SIZE + 1000);
        let found = cut(&mut cutter(begin), writer.start(), writer.bytes(), 8192);
        assert_eq!(found, [(begin.as_u64() / 8192, 512, own)]);
    }

    #[test]
    fn after_damage_the_next_segment_is_summarized_again() {
        let mut writer = writer();
        commits(&mut writer, 6 * SIZE);
        let mut bytes = writer.bytes().to_vec();
        bytes[500_000] ^= 1;
        let mut cutter = cutter(Lsn::INVALID);
        let mut decoder = WalDecoder::new(writer.start(), TimelineId::FIRST, size());
        cutter.restart(writer.start());
        decoder.feed(&bytes[..SIZE as usize]);
        let mut found = Vec::new();
        cutter.take(&mut decoder, |_| (), |summary| found.push(range(&summary))).unwrap_err();
        assert_eq!(found, []);
        let later = cut(&mut cutter, writer.start().advance(SIZE), &bytes[SIZE as usize..], 8192);
        assert_eq!(later.iter().map(|found| found.0).collect::<Vec<_>>(), [512, 640]);
    }
}
