//! The inputs of the fuzz targets as a plain test, each of them as it is and damaged.
//!
//! `PITR_WRITE_CORPUS=1` writes the inputs that are made from samples anew.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use std::path::PathBuf;

use pitr::postgres::wal::WalDecoder;
use pitr::postgres::{Lsn, MajorVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use pitr::repository::summary_object;
use pitr::wal_summary::{SummaryBuilder, from_bytes, to_bytes};
use proptest::prelude::*;

type Target = fn(&[u8]);

const KINDS: [(&str, Target); 4] = [
    ("wal", targets::wal),
    ("records", targets::records),
    ("summary", targets::summary),
    ("document", targets::document),
];

fn corpus(kind: &str) -> Vec<(String, Vec<u8>)> {
    let directory = root().join(kind);
    let files = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// Three pages of each version's WAL, its records one by one, and their summary.
fn write(major: MajorVersion) {
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/wal-oracle").join(major.to_string());
    let wal = zstd::decode_all(std::fs::File::open(sample.join("wal.zst")).unwrap()).unwrap();
    let start = Lsn::new(u64::from_le_bytes(wal[8..16].try_into().unwrap()));
    let put = |kind: &str, bytes: &[u8]| {
        std::fs::create_dir_all(root().join(kind)).unwrap();
        std::fs::write(root().join(kind).join(format!("postgres-{major}")), bytes).unwrap();
    };
    put("wal", &wal[..3 * 8192]);
    let mut decoder = WalDecoder::new(start, TimelineId::FIRST, size);
    let mut builder = SummaryBuilder::new(TimelineId::FIRST, major, size, start);
    decoder.feed(&wal[..1 << 20]);
    let mut records = vec![u8::try_from(major.as_u16() - 13).unwrap()];
    let mut kinds = std::collections::BTreeSet::new();
    while let Some(record) = decoder.next_record().unwrap() {
        builder.record(&record).unwrap();
        let (header, fragments) = (record.header(), &record.bytes()[24..]);
        if let Ok(length) = u8::try_from(fragments.len())
            && kinds.insert((header.resource_manager, header.info & 0x70))
        {
            let xid = u8::try_from(header.xid.as_u32() % 256).unwrap();
            records.extend([header.resource_manager.as_u8(), header.info, xid, length]);
            records.extend(fragments);
        }
    }
    put("records", &records);
    let summary = builder.finish(start.advance(1 << 20)).unwrap();
    put("summary", &to_bytes(&summary).unwrap());
    let object = summary_object::encode(&summary, SystemIdentifier::new(7_450_000_000_000_000_001)).unwrap();
    put("document", &object[..object.len().min(2048)]);
}

#[test]
fn inputs_are_survived() {
    if std::env::var_os("PITR_WRITE_CORPUS").is_some() {
        MajorVersion::ALL.into_iter().for_each(write);
    }
    for (kind, target) in KINDS {
        let inputs = corpus(kind);
        assert!(inputs.len() >= 6, "{kind} has {} inputs", inputs.len());
        for (_, input) in inputs {
            target(&input);
        }
    }
}

#[test]
fn stored_summaries_of_every_version_are_still_read() {
    let summaries = corpus("summary");
    assert_eq!(summaries.len(), MajorVersion::ALL.len());
    for ((name, bytes), major) in summaries.into_iter().zip(MajorVersion::ALL) {
        let summary = from_bytes(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((summary.major, summary.moments.is_empty()), (major, false), "{name}");
        assert_eq!(to_bytes(&summary).unwrap(), bytes, "{name}");
    }
}

#[test]
fn inputs_cut_anywhere_are_survived() {
    for (kind, target) in KINDS {
        for (_, input) in corpus(kind) {
            for step in 0..40 {
                target(&input[..input.len() * step / 40]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_inputs_are_survived(
        kind in 0_usize..4, version in 0_usize..6, flips in prop::collection::vec((0.0_f64..1.0, any::<u8>()), 1..12),
    ) {
        let (name, target) = KINDS[kind];
        let (_, mut input) = corpus(name).swap_remove(version);
        for (place, value) in flips {
            let at = (place * input.len() as f64) as usize;
            input[at] = value;
        }
        target(&input);
    }

    #[test]
    fn any_bytes_are_survived(kind in 0_usize..4, bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        KINDS[kind].1(&bytes);
    }
}
