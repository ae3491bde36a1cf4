//! Decodes what real servers of every version wrote (`tests/tools/make-wal-samples.sh`), and holds it against what those
//! servers said of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pitr::postgres::control_file::{ClusterState, WalLevel};
use pitr::postgres::page::{PageVerdict, verify_page};
use pitr::postgres::wal::body::ImageCompression;
use pitr::postgres::wal::{DecodeError, Outcome, Record, RecordMeaning, SegmentValidator, WalDecoder};
use pitr::postgres::{
    BackupLabel, ControlFile, Lsn, MajorVersion, PAGE_SIZE, TablespaceMap, TimelineId, TransactionId, WalSegmentSize,
};
use proptest::prelude::*;

/// `rmgrlist.h`, by number.
const MANAGERS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

struct Sample {
    major: MajorVersion,
    directory: PathBuf,
    start: Lsn,
    wal: Vec<u8>,
    ledger: Vec<(String, Vec<String>)>,
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

impl Sample {
    fn load(major: MajorVersion) -> Self {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/wal").join(major.to_string());
        let ledger = std::fs::read_to_string(directory.join("ledger.txt")).unwrap();
        let ledger: Vec<_> = ledger
            .lines()
            .map(|line| {
                let mut words = line.split(' ').map(str::to_owned);
                (words.next().unwrap(), words.collect())
            })
            .collect();
        let mut sample = Self { major, directory, start: Lsn::INVALID, wal: Vec::new(), ledger };
        sample.start = sample.noted("start")[0][0].parse().unwrap();
        sample.wal = sample.unpacked("wal.zst");
        sample
    }

    fn all() -> impl Iterator<Item = Self> {
        MajorVersion::ALL.into_iter().map(Self::load)
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.join(name)).unwrap()
    }

    fn unpacked(&self, name: &str) -> Vec<u8> {
        zstd::decode_all(self.file(name).as_slice()).unwrap()
    }

    fn noted(&self, event: &str) -> Vec<&[String]> {
        self.ledger.iter().filter(|(word, _)| word == event).map(|(_, values)| values.as_slice()).collect()
    }

    fn decoder(&self) -> WalDecoder {
        WalDecoder::new(self.start, TimelineId::FIRST, size())
    }

    /// Hands every record to `look`; there must be nothing wrong up to the very end.
    fn each(&self, mut look: impl FnMut(&Record<'_>)) {
        let mut decoder = self.decoder();
        decoder.feed(&self.wal);
        while let Some(record) = decoder.next_record().unwrap_or_else(|error| panic!("{}: {error}", self.major)) {
            look(&record);
        }
        assert_eq!(decoder.position(), self.start.advance(self.wal.len() as u64), "{}", self.major);
        assert_eq!(decoder.major(), Some(self.major));
    }
}

fn xid(text: &str) -> TransactionId {
    text.parse().unwrap()
}

#[test]
fn every_version_has_a_sample() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/wal");
    let found: BTreeSet<_> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, MajorVersion::ALL.iter().map(ToString::to_string).collect());
}

#[test]
fn records_are_those_that_the_server_lists() {
    for sample in Sample::all().filter(|sample| sample.major >= MajorVersion::V15) {
        let mut found = String::new();
        sample.each(|record| {
            let header = record.header();
            let manager = MANAGERS[usize::from(header.resource_manager.as_u8())];
            found += &format!(
                "{}\t{}\t{}\t{manager}\t{}\n",
                record.start_lsn(),
                header.previous,
                header.xid,
                header.total_length
            );
        });
        let listed = String::from_utf8(sample.unpacked("records.tsv.zst")).unwrap();
        for (number, (found, listed)) in found.lines().zip(listed.lines()).enumerate() {
            assert_eq!(found, listed, "{}, record {number}", sample.major);
        }
        assert_eq!(found.lines().count(), listed.lines().count(), "{}", sample.major);
        assert!(listed.lines().count() > 1000, "{}", sample.major);
    }
}

#[test]
fn bodies_are_understood_to_the_last_byte() {
    for sample in Sample::all() {
        let (mut images, mut compressed, mut blocks, mut top_level) = (0, 0, 0, 0);
        sample.each(|record| {
            let body = record.body(sample.major).unwrap();
            top_level += usize::from(body.top_level_xid().is_some());
            for block in body.blocks() {
                blocks += 1;
                if let Some(image) = block.image {
                    images += 1;
                    assert!(image.apply, "{}: {:?}", sample.major, record);
                    compressed += usize::from(image.compression == Some(ImageCompression::Pglz));
                    assert!(image.compression.is_some() || image.bytes.len() + usize::from(image.hole_length) == 8192);
                }
            }
        });
        assert!(blocks > 1000 && compressed > 0 && images > compressed, "{} {blocks} {images}", sample.major);
        assert_eq!(top_level > 0, sample.major >= MajorVersion::V14, "{}", sample.major);
    }
}

#[test]
fn transactions_ended_as_the_ledger_says() {
    for sample in Sample::all() {
        let mut ends = Vec::new();
        let mut dropped = BTreeSet::new();
        let mut gids = BTreeSet::new();
        let mut last_time = None;
        sample.each(|record| {
            let Some(end) = record.transaction_end(sample.major).unwrap() else { return };
            let event = match (end.outcome, end.prepared) {
                (Outcome::Commit, false) => "commit",
                (Outcome::Commit, true) => "commit_prepared",
                (Outcome::Abort, false) => "abort",
                (Outcome::Abort, true) => "abort_prepared",
            };
            ends.push((event, end.xid, end.subtransactions.len()));
            dropped.extend(end.dropped_relations.iter().map(|relation| relation.to_string()));
            gids.extend(end.gid.map(|gid| String::from_utf8(gid.to_vec()).unwrap()));
            assert_eq!(end.time.format("%Y-%m").to_string(), "2026-11", "{}", sample.major);
            assert!(last_time.is_none_or(|last| last <= end.time), "one session at a time wrote this");
            last_time = Some(end.time);
        });
        let mut checked = 0;
        for event in ["commit", "commit_prepared", "abort", "abort_prepared"] {
            for noted in sample.noted(event) {
                let expected = (event, xid(&noted[0]), noted[1].parse().unwrap());
                assert_eq!(ends.iter().filter(|end| **end == expected).count(), 1, "{}: {expected:?}", sample.major);
                checked += 1;
            }
        }
        assert_eq!(checked, 8, "{}", sample.major);
        for noted in sample.noted("dropped_relation") {
            assert!(dropped.contains(&noted[0]), "{}: {} in {dropped:?}", sample.major, noted[0]);
        }
        assert_eq!(gids, ["kept logical", "lost logical"].map(str::to_owned).into(), "{}", sample.major);
    }
}

/// Whatever of the ledger is a record of its own, in its order.
fn events(sample: &Sample) -> Vec<String> {
    let mut found = Vec::new();
    sample.each(|record| {
        let end = record.end_lsn();
        let event = match record.meaning(sample.major).unwrap() {
            RecordMeaning::RestorePoint(point) => {
                format!("restore_point {end} {}", String::from_utf8_lossy(point.name))
            }
            RecordMeaning::Prepare(prepare) => {
                format!("prepare {} {}", prepare.xid, String::from_utf8_lossy(prepare.gid))
            }
            RecordMeaning::CreateDatabase(create) => {
                assert!(create.copied_from.is_some());
                format!("create_database {}", create.database)
            }
            RecordMeaning::DropDatabase(drop) => {
                assert_eq!(drop.tablespaces().collect::<Vec<_>>(), [1663]);
                format!("drop_database {}", drop.database)
            }
            RecordMeaning::CreateTablespace { tablespace, path } => {
                format!("create_tablespace {tablespace} {}", String::from_utf8_lossy(path))
            }
            RecordMeaning::DropTablespace { tablespace } => format!("drop_tablespace {tablespace}"),
            RecordMeaning::BackupEnd { start_lsn } => {
                found.push(format!("backup_start {start_lsn}"));
                format!("backup_stop {end}")
            }
            _ => return,
        };
        found.push(event);
    });
    found
}

#[test]
fn records_mean_what_the_ledger_says() {
    for sample in Sample::all() {
        let found = events(&sample);
        let kinds: BTreeSet<_> = found.iter().map(|event| event.split(' ').next().unwrap().to_owned()).collect();
        let noted = sample.ledger.iter().filter(|(word, _)| kinds.contains(word));
        let noted: Vec<_> = noted.map(|(word, values)| format!("{word} {}", values.join(" "))).collect();
        assert_eq!(kinds.len(), 8, "{}: {kinds:?}", sample.major);
        assert_eq!(found, noted, "{}", sample.major);
    }
}

#[test]
fn checkpoints_switches_and_settings_are_seen() {
    for sample in Sample::all() {
        let (mut online, mut shutdown, mut switches, mut levels) = (0, 0, 0, Vec::new());
        sample.each(|record| match record.meaning(sample.major).unwrap() {
            RecordMeaning::Checkpoint(checkpoint) => {
                assert_eq!((checkpoint.tli, checkpoint.previous_tli), (TimelineId::FIRST, TimelineId::FIRST));
                assert!(checkpoint.redo_lsn <= record.start_lsn());
                assert_eq!(checkpoint.shutdown, checkpoint.redo_lsn == record.start_lsn());
                if checkpoint.shutdown { shutdown += 1 } else { online += 1 }
            }
            RecordMeaning::Switch => switches += 1,
            RecordMeaning::ParameterChange(change) => {
                assert_eq!((change.max_connections, change.max_prepared_transactions), (100, 5));
                assert!(!change.wal_log_hints && !change.track_commit_timestamp);
                levels.push(change.wal_level);
            }
            _ => {}
        });
        assert!(online >= 4 && shutdown == 1 && switches >= 3, "{}: {online} {shutdown} {switches}", sample.major);
        assert_eq!(levels, [2], "{}", sample.major);
    }
}

#[test]
fn segments_are_valid_and_end_in_nothing_after_a_switch_only() {
    for sample in Sample::all() {
        let mut switched = BTreeSet::new();
        sample.each(|record| {
            if matches!(record.meaning(sample.major), Ok(RecordMeaning::Switch)) {
                switched.insert(size().segment_of(record.start_lsn()));
            }
        });
        let control = ControlFile::parse(&sample.unpacked("pg_control.zst")).unwrap();
        let mut number = size().segment_of(sample.start);
        for segment in sample.wal.chunks(size().as_usize()) {
            let mut validator = SegmentValidator::new(TimelineId::FIRST, number, size())
                .with_system_identifier(control.system_identifier)
                .with_major(sample.major);
            segment.chunks(100_003).for_each(|chunk| validator.feed(chunk).unwrap());
            let facts = validator.finish().unwrap();
            assert_eq!(facts.first_page_tli, TimelineId::FIRST);
            assert_eq!(facts.zero_from.is_some(), switched.contains(&number), "{} {number:?}", sample.major);
            number = number.next();
        }
    }
}

#[test]
fn control_files_of_real_servers_are_read() {
    for sample in Sample::all() {
        let control = ControlFile::parse(&sample.unpacked("pg_control.zst")).unwrap();
        assert_eq!((control.major, control.state), (sample.major, ClusterState::ShutDown));
        assert_eq!((control.tli, control.previous_tli), (TimelineId::FIRST, TimelineId::FIRST));
        assert_eq!(control.checkpoint_lsn, control.redo_lsn);
        assert!(control.redo_lsn >= sample.start.advance(sample.wal.len() as u64));
        assert_eq!((control.wal_level, control.wal_log_hints), (WalLevel::Logical, false));
        assert!(!control.full_page_writes && control.data_checksums);
        assert_eq!(control.wal_segment_size, size());
        assert_eq!((control.min_recovery_lsn, control.min_recovery_tli), (Lsn::INVALID, None));
        let minimums = control.hot_standby_minimums;
        assert_eq!((minimums.max_connections, minimums.max_prepared_transactions), (100, 5));
        assert_eq!((minimums.max_worker_processes, minimums.max_wal_senders), (8, 10));
        assert_eq!(minimums.max_locks_per_transaction, 64);
    }
}

#[test]
fn labels_and_maps_of_real_servers_are_read() {
    for sample in Sample::all() {
        let label = BackupLabel::parse(&sample.file("backup_label")).unwrap();
        assert_eq!(label.start_lsn().to_string(), sample.noted("backup_start")[0][0]);
        assert_eq!(label.start_segment().number(size()), Some(size().segment_of(label.start_lsn())));
        assert_eq!((label.label(), label.from_standby()), ("sample", false));
        assert!(label.checkpoint_lsn() >= label.start_lsn());
        let bytes = sample.file("tablespace_map");
        let map = TablespaceMap::parse(&bytes).unwrap();
        let [oid, path @ ..] = sample.noted("create_tablespace")[0] else { panic!("no tablespace in the ledger") };
        assert_eq!(map.tablespaces().len(), 1);
        assert_eq!(map.path(oid.parse().unwrap()).unwrap().to_str().unwrap(), path.join(" "));
        assert_eq!(map.to_bytes(), bytes);
    }
}

#[test]
fn pages_of_real_servers_have_the_checksum() {
    for sample in Sample::all() {
        let bytes = sample.unpacked("pages.zst");
        let (pages, rest) = bytes.as_chunks::<PAGE_SIZE>();
        assert!(rest.is_empty() && !pages.is_empty());
        for (page, block) in pages.iter().zip(0..) {
            assert_eq!(verify_page(page, block), PageVerdict::Valid, "{} block {block}", sample.major);
            assert!(matches!(verify_page(page, block + 1), PageVerdict::Invalid { .. }));
        }
    }
}

/// Start and length of every record, and what ended it.
fn outline(
    mut decoder: WalDecoder,
    wal: &[u8],
    mut cut: impl FnMut() -> usize,
) -> (Vec<(Lsn, u32)>, Option<DecodeError>) {
    let mut records = Vec::new();
    let mut rest = wal;
    loop {
        match decoder.next_record() {
            Ok(Some(record)) => records.push((record.start_lsn(), record.header().total_length)),
            Ok(None) if rest.is_empty() => return (records, None),
            Ok(None) => {
                let (piece, after) = rest.split_at(cut().clamp(1, rest.len()));
                decoder.feed(piece);
                rest = after;
            }
            Err(error) => return (records, Some(error)),
        }
    }
}

/// What a consumer does with whatever it is given: nothing of it may panic.
fn understand(major: MajorVersion, mut decoder: WalDecoder, wal: &[u8]) -> Vec<Lsn> {
    let mut starts = Vec::new();
    decoder.feed(wal);
    while let Ok(Some(record)) = decoder.next_record() {
        starts.push(record.start_lsn());
        let _ = record.meaning(major);
        let _ = record.body(major).map(|body| body.blocks().count());
    }
    starts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn real_wal_is_decoded_alike_however_it_is_cut(
        version in 0_usize..6, cuts in prop::collection::vec(1_usize..40_000, 1..60),
    ) {
        let sample = Sample::load(MajorVersion::ALL[version]);
        let mut next = cuts.iter().cycle().copied();
        let cut = outline(sample.decoder(), &sample.wal, || next.next().unwrap());
        prop_assert_eq!(cut, outline(sample.decoder(), &sample.wal, || usize::MAX));
    }

    #[test]
    fn damaged_wal_yields_a_part_of_the_records_and_no_other(
        version in 0_usize..6, flips in prop::collection::vec((0_usize..1 << 20, 1_u8..), 1..4), end in 1_usize..1 << 20,
    ) {
        let sample = Sample::load(MajorVersion::ALL[version]);
        let mut wal = sample.wal[..1 << 20].to_vec();
        let whole = understand(sample.major, sample.decoder(), &wal);
        for (offset, flip) in flips {
            wal[offset] ^= flip;
        }
        let found = understand(sample.major, sample.decoder(), &wal[..end]);
        prop_assert!(whole.starts_with(&found), "{} of {}", found.len(), whole.len());
    }
}
