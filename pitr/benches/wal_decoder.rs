//! How fast WAL is decoded, and summarised, on one core.
//!
//! `cargo bench -p pitr --no-default-features --bench wal_decoder -- DIRECTORY` reads the WAL segments in DIRECTORY, which
//! follow each other (a copy of what `archive_command` was given under pgbench, say), and prints gigabytes per second of
//! processor time: records with their checksums, block references, summaries; then sizes of summaries and of folds.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::time::Duration;

use pitr::postgres::wal::WalDecoder;
use pitr::postgres::{Lsn, MajorVersion, SegmentName, SystemIdentifier, WalSegmentSize};
use pitr::repository::summary_object;
use pitr::wal_summary::{SummaryBuilder, WalSummary, fold};
use rustix::time::{ClockId, clock_gettime};

struct Wal {
    first: SegmentName,
    start: Lsn,
    size: WalSegmentSize,
    segments: Vec<Vec<u8>>,
}

impl Wal {
    /// Segments that follow each other.
    fn load(directory: &str) -> Self {
        let mut names: Vec<SegmentName> = std::fs::read_dir(directory)
            .expect("the directory can be read")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        names.sort_unstable();
        let first = *names.first().expect("there is WAL in the directory");
        let read = |name: &SegmentName| std::fs::read(format!("{directory}/{name}")).expect("a segment can be read");
        let segments: Vec<_> = names.iter().map(read).collect();
        let bytes = segments.first().map_or(0, Vec::len);
        let size = u32::try_from(bytes).ok().and_then(|bytes| WalSegmentSize::new(bytes).ok());
        let size = size.expect("it is a segment");
        let number = first.number(size).expect("it is a name for this size");
        Self { first, start: size.start_of(number), size, segments }
    }

    fn decoder(&self) -> WalDecoder {
        WalDecoder::new(self.start, self.first.tli(), self.size)
    }

    fn bytes(&self) -> usize {
        self.segments.iter().map(Vec::len).sum()
    }
}

/// Of this thread: others on the machine do not count.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is positive")
}

/// The best of a few runs, in gigabytes a second of processor time.
fn measure(name: &str, wal: &Wal, mut run: impl FnMut() -> u64) {
    let mut best = Duration::MAX;
    let mut found = 0;
    for _ in 0..5 {
        let begin = cpu_time();
        found = std::hint::black_box(run());
        best = best.min(cpu_time() - begin);
    }
    let speed = wal.bytes() as f64 / best.as_secs_f64() / 1e9;
    println!("{name:<34} {speed:6.2} GB/s   {found}");
}

fn records(wal: &Wal) -> u64 {
    let mut decoder = wal.decoder();
    let mut count = 0;
    for segment in &wal.segments {
        for chunk in segment.chunks(128 << 10) {
            decoder.feed(chunk);
            while let Ok(Some(_)) = decoder.next_record() {
                count += 1;
            }
        }
    }
    count
}

fn blocks(wal: &Wal, major: MajorVersion) -> u64 {
    let mut decoder = wal.decoder();
    let mut count = 0;
    for segment in &wal.segments {
        for chunk in segment.chunks(128 << 10) {
            decoder.feed(chunk);
            while let Ok(Some(record)) = decoder.next_record() {
                record.visit_blocks(major, |_| count += 1).expect("it is understood");
            }
        }
    }
    count
}

fn summaries(wal: &Wal, major: MajorVersion) -> Vec<WalSummary> {
    let mut decoder = wal.decoder();
    let tli = wal.first.tli();
    let mut summaries = Vec::new();
    let mut border = wal.start.advance(wal.size.as_u64());
    let mut builder = SummaryBuilder::new(tli, major, wal.size, wal.start);
    for segment in &wal.segments {
        for chunk in segment.chunks(128 << 10) {
            decoder.feed(chunk);
            while let Ok(Some(record)) = decoder.next_record() {
                while record.start_lsn() >= border {
                    let next = SummaryBuilder::new(tli, major, wal.size, border);
                    summaries.push(std::mem::replace(&mut builder, next).finish(border).expect("it is complete"));
                    border = border.advance(wal.size.as_u64());
                }
                builder.record(&record).expect("it is understood");
            }
        }
    }
    summaries.push(builder.finish(border).expect("it is complete"));
    summaries
}

fn sizes(summaries: &[WalSummary]) {
    let encoded = |summary: &WalSummary| {
        let object = summary_object::encode(summary, SystemIdentifier::new(1)).expect("it is not too large");
        let (header, _) = summary_object::decode(&object).expect("it is read back");
        (object.len(), header.bytes)
    };
    for group in [1, 4, 16, 64, 256] {
        let folds: Vec<_> = summaries.chunks_exact(group).map(|group| fold(group).expect("neighbours")).collect();
        if folds.is_empty() {
            break;
        }
        let begin = cpu_time();
        let all: Vec<_> = folds.iter().map(encoded).collect();
        let (stored, plain): (usize, u64) = all.iter().fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        println!(
            "{group:>4} segments a summary: {:>9} bytes stored, {:>9} plain, on average; {:.2} ms to write and read",
            stored / all.len(),
            plain / all.len() as u64,
            (cpu_time() - begin).as_secs_f64() * 1e3 / all.len() as f64,
        );
    }
}

fn main() {
    let Some(directory) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        println!("usage: cargo bench -p pitr --bench wal_decoder -- DIRECTORY");
        return;
    };
    let wal = Wal::load(&directory);
    let mut decoder = wal.decoder();
    wal.segments.iter().take(1).for_each(|segment| decoder.feed(segment));
    decoder.next_record().expect("it is WAL");
    let major = decoder.major().expect("it has a page header");
    println!("{} segments of PostgreSQL {major}", wal.segments.len());
    measure("records", &wal, || records(&wal));
    measure("records and blocks", &wal, || blocks(&wal, major));
    measure("summaries", &wal, || summaries(&wal, major).len() as u64);
    sizes(&summaries(&wal, major));
}
