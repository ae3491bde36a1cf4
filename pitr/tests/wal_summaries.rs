//! Summaries of what real servers of every version wrote (`tests/tools/make-wal-samples.sh`).

use std::path::PathBuf;

use pitr::postgres::wal::WalDecoder;
use pitr::postgres::{Lsn, MajorVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use pitr::repository::summary_object;
use pitr::wal_summary::{SummaryBuilder, WalSummary, fold, from_bytes, to_bytes};

struct Sample {
    major: MajorVersion,
    start: Lsn,
    wal: Vec<u8>,
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

impl Sample {
    fn all() -> impl Iterator<Item = Self> {
        MajorVersion::ALL.into_iter().map(|major| {
            let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/wal").join(major.to_string());
            let ledger = std::fs::read_to_string(directory.join("ledger.txt")).unwrap();
            let start = ledger.lines().find_map(|line| line.strip_prefix("start ")).unwrap().parse().unwrap();
            let wal = zstd::decode_all(std::fs::File::open(directory.join("wal.zst")).unwrap()).unwrap();
            Self { major, start, wal }
        })
    }

    fn end(&self) -> Lsn {
        self.start.advance(self.wal.len() as u64)
    }

    /// Cut at `borders`.
    fn summaries(&self, borders: &[Lsn]) -> Vec<WalSummary> {
        let mut decoder = WalDecoder::new(self.start, TimelineId::FIRST, size());
        decoder.feed(&self.wal);
        let builder = |from| SummaryBuilder::new(TimelineId::FIRST, self.major, size(), from);
        let (mut summaries, mut current) = (Vec::new(), builder(self.start));
        let mut borders = borders.iter().copied().peekable();
        while let Some(record) = decoder.next_record().unwrap() {
            while let Some(border) = borders.next_if(|border| *border <= record.start_lsn()) {
                summaries.push(std::mem::replace(&mut current, builder(border)).finish(border).unwrap());
            }
            current.record(&record).unwrap_or_else(|error| panic!("{}: {error}", self.major));
        }
        summaries.push(current.finish(self.end()).unwrap());
        summaries
    }

    fn segment_borders(&self) -> Vec<Lsn> {
        let (first, last) = (size().segment_of(self.start).as_u64(), size().segment_before(self.end()).as_u64());
        (first..last).map(|number| size().end_of(pitr::postgres::SegmentNumber::new(number))).collect()
    }
}

#[test]
fn summaries_of_segments_fold_into_that_of_the_whole() {
    for sample in Sample::all() {
        let whole = sample.summaries(&[]).pop().unwrap();
        let parts = sample.summaries(&sample.segment_borders());
        assert!(parts.len() > 2, "{}", sample.major);
        assert_eq!(fold(&parts).unwrap(), whole, "{}", sample.major);
    }
}

#[test]
fn objects_are_read_back() {
    for sample in Sample::all() {
        let system_identifier = SystemIdentifier::new(7_450_000_000_000_000_001);
        for summary in sample.summaries(&sample.segment_borders()) {
            assert_eq!(from_bytes(&to_bytes(&summary).unwrap()).unwrap(), summary);
            let object = summary_object::encode(&summary, system_identifier).unwrap();
            let front = &object[..object.len().min(summary_object::HEADER_READ_BYTES as usize)];
            let (header, read) = summary_object::decode(&object).unwrap();
            assert_eq!(read, summary);
            assert_eq!(summary_object::decode_header(front).unwrap(), header);
            assert_eq!((header.system_identifier, header.times), (system_identifier, summary.times));
        }
    }
}
