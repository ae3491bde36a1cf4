//! Plans over WAL that servers of all versions wrote, against what they said while they wrote it.

use std::collections::HashMap;
use std::path::PathBuf;

use super::testing::Archive;
use super::*;
use crate::codec;
use crate::postgres::wal::RecordBounds;
use crate::postgres::{MajorVersion, SegmentNumber, ServerVersion, SystemIdentifier};
use crate::recovery::{Goal, MarkerRef, MarkerSide, PlanWarning, RecoveryTarget, ScanStart, TransactionEnd, WalScan};
use crate::repository::catalog::testing::{at, backup, size, tli};

/// WAL of one version, and the lines that were noted while it was written.
struct Sample {
    major: MajorVersion,
    start: Lsn,
    wal: Vec<u8>,
    ledger: Vec<Vec<String>>,
}

impl Sample {
    fn load(major: MajorVersion) -> Self {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/wal/{major}"));
        let wal = codec::decompress(&std::fs::read(directory.join("wal.zst")).unwrap(), 64 << 20).unwrap();
        let ledger = std::fs::read_to_string(directory.join("ledger.txt")).unwrap();
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let ledger: Vec<Vec<String>> = ledger.lines().map(words).collect();
        let start = ledger[0][1].parse().unwrap();
        Self { major, start, wal, ledger }
    }

    fn noted(&self, what: &str) -> impl Iterator<Item = &[String]> {
        self.ledger.iter().filter(move |line| line[0] == what).map(|line| &line[1..])
    }

    fn backup_bounds(&self) -> (Lsn, Lsn) {
        let lsn = |what: &str| self.noted(what).next().unwrap()[0].parse().unwrap();
        (lsn("backup_start"), lsn("backup_stop"))
    }

    fn system_identifier(&self) -> SystemIdentifier {
        SystemIdentifier::new(u64::from_le_bytes(self.wal[24..32].try_into().unwrap()))
    }

    fn backup_end(&self) -> RecordBounds {
        let (start, stop) = self.backup_bounds();
        let scan_start = ScanStart {
            start_lsn: start,
            stop_lsn: stop,
            timeline: tli(1),
            segment_size: size(),
            system_identifier: self.system_identifier(),
            major: self.major,
        };
        let mut scan = WalScan::new(&scan_start, Goal::FirstEnd(stop));
        let from = usize::try_from(start.distance_from(self.start).unwrap()).unwrap();
        let _ = scan.feed(&self.wal[from..]);
        scan.finish().backup_end.unwrap()
    }

    /// The archive that an agent would have made of it.
    async fn archive(&self) -> Archive {
        let archive = Archive::of(self.system_identifier()).await;
        let first = size().segment_of(self.start).as_u64();
        for (number, bytes) in (first..).zip(self.wal.chunks(size().as_usize())) {
            let segment = SegmentNumber::new(number);
            if bytes.len() == size().as_usize() {
                let prepared = archive.wal.prepare_segment(segment.name(tli(1), size()), self.major, bytes).unwrap();
                archive.wal.put(&prepared).await.unwrap();
            } else {
                archive.put_tail(1, segment, 0, bytes).await;
            }
        }
        let (start, stop) = self.backup_bounds();
        let mut manifest = backup(1, start.as_u64(), stop.as_u64(), 0);
        manifest.system_identifier = self.system_identifier();
        manifest.postgres_version = ServerVersion::new(u32::from(self.major.as_u16()) * 10_000);
        manifest.end_record_lsn = self.backup_end().start;
        manifest.stop_time = "2026-11-22T00:00:00Z".parse().unwrap();
        archive.put_backup(&manifest).await;
        archive.summarize().await;
        archive
    }
}

/// The plan, which must be the same by summaries and by decoding everything.
async fn reach(archive: &Archive, target: RecoveryTarget) -> RestorePlan {
    let request = PlanRequest::new(target);
    let by_summaries = prepare(&archive.lineage, &request, &archive.clock).await.unwrap();
    let request = PlanRequest { check_wal: true, ..request };
    let plan = prepare(&archive.lineage, &request, &archive.clock).await.unwrap();
    assert_eq!(RestorePlan { basis: plan.basis, ..by_summaries }, plan);
    plan
}

#[tokio::test]
async fn transactions_and_restore_points_of_every_version_are_found() {
    for major in MajorVersion::ALL {
        let sample = Sample::load(major);
        let archive = sample.archive().await;
        let (_, stop) = sample.backup_bounds();
        assert_eq!(sample.backup_end().end, stop, "{major}: a server says where the record of the backup's end ends");

        // The ledger is in the order of the WAL: what stands behind the line of the backup can be reached.
        let behind = sample.ledger.iter().skip_while(|line| line[0] != "backup_stop");
        let mut ends: HashMap<u64, TransactionEnd> = HashMap::new();
        for line in behind {
            let end = match line[0].as_str() {
                "commit" | "commit_prepared" => TransactionEnd::Commit,
                "abort" | "abort_prepared" => TransactionEnd::Abort,
                _ => continue,
            };
            ends.insert(line[1].parse().unwrap(), end);
        }
        assert!(ends.len() >= 3, "{major}: {ends:?}");
        for (xid, end) in ends {
            let plan = reach(&archive, RecoveryTarget::Xid { xid }).await;
            let kept = plan.target.last_kept.clone().unwrap();
            assert_eq!((u64::from(kept.xid), kept.end, kept.lsn), (xid, end, plan.target.lsn), "{major}");
            assert!(plan.warnings.iter().any(|w| matches!(w, PlanWarning::TablespaceInWal { .. })), "{major}");
            // A time finds the same record again: nothing else ended in that very microsecond.
            let by_time = reach(&archive, RecoveryTarget::Time { time: kept.time }).await;
            assert_eq!(by_time.target.lsn, plan.target.lsn, "{major} {xid}");
        }

        let point = sample.noted("restore_point").last().unwrap();
        let (end, name) = (point[0].parse::<Lsn>().unwrap(), point[1].clone());
        let by_lsn = reach(&archive, RecoveryTarget::Lsn { lsn: end }).await;
        assert_eq!(by_lsn.target.end_lsn, end, "{major}");
        archive.put_marker(1, &name, RecordBounds { start: by_lsn.target.lsn, end }, at(0)).await;
        let marker = MarkerRef { name, lsn: None };
        let before = reach(&archive, RecoveryTarget::Marker { side: MarkerSide::Before, marker }).await;
        assert_eq!(before.target.lsn, by_lsn.target.lsn, "{major}");
        let latest = reach(&archive, RecoveryTarget::Latest).await;
        assert!(latest.target.lsn >= before.target.lsn, "{major}");
        let immediate = reach(&archive, RecoveryTarget::Immediate).await;
        assert_eq!(immediate.target.end_lsn, stop, "{major}");
    }
}
