//! The plan of a restore.

use std::path::{Path, PathBuf};

use pitr::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId};
use pitr::recovery::{PlanWarning, RestorePlan, Transaction, TransactionEnd, WalRun};
use pitr::repository::backup::BackupId;
use pitr::restore::DeltaOutlook;
use serde::Serialize;

use super::View;
use super::human;
use super::json::Time;

#[derive(Debug, Clone, Serialize)]
pub struct PlanDocument {
    pub format: u32,
    pub cluster: String,
    pub system_identifier: SystemIdentifier,
    pub postgres_version: ServerVersion,
    pub target: TargetDocument,
    pub backup: PlanBackup,
    pub wal: Vec<RunDocument>,
    pub fetch: Fetch,
    pub basis: Basis,
    pub into: PathBuf,
    /// With `--delta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaDocument>,
    pub warnings: Vec<String>,
}

/// What a directory holds, by the sizes of its files: nothing was read yet.
#[derive(Debug, Clone, Serialize)]
pub struct DeltaDocument {
    pub files_there: u64,
    pub compare_bytes: u64,
    pub lacking_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct TargetDocument {
    pub asked: String,
    pub timeline: TimelineId,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub last_kept: Option<TransactionDocument>,
    pub first_left_out: Option<TransactionDocument>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TransactionDocument {
    pub xid: u32,
    pub end: TransactionEnd,
    pub time: Time,
    pub lsn: Lsn,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlanBackup {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub stop_time: Time,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct RunDocument {
    pub timeline: TimelineId,
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
    pub first_segment: String,
    pub last_segment: String,
    pub segments: u64,
    pub ends_in_tails: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Fetch {
    pub files: u64,
    pub backup_bytes: u64,
    pub backup_stored_bytes: u64,
    pub wal_segments: u64,
    pub wal_bytes: u64,
}

/// What the plan was made from.
#[derive(Debug, Clone, Serialize)]
pub struct Basis {
    pub wal_decoded_bytes: u64,
    pub wal_skipped_bytes: u64,
    pub summaries: u64,
}

impl PlanDocument {
    pub fn new(plan: &RestorePlan, into: &Path) -> Self {
        let RestorePlan { lineage, backup, target, wal, fetch, basis, warnings, .. } = plan;
        Self {
            format: 1,
            cluster: lineage.cluster.to_string(),
            system_identifier: lineage.lineage.system_identifier(),
            postgres_version: backup.postgres_version,
            target: TargetDocument {
                asked: target.asked.to_string(),
                timeline: target.timeline,
                lsn: target.lsn,
                end_lsn: target.end_lsn,
                last_kept: target.last_kept.as_ref().map(TransactionDocument::new),
                first_left_out: target.first_left_out.as_ref().map(TransactionDocument::new),
            },
            backup: PlanBackup {
                id: backup.id.clone(),
                timeline: backup.timeline,
                start_lsn: backup.start_lsn,
                stop_lsn: backup.stop_lsn,
                stop_time: backup.stop_time.into(),
                size_bytes: backup.size_bytes,
            },
            wal: wal.iter().map(RunDocument::new).collect(),
            fetch: Fetch {
                files: fetch.files,
                backup_bytes: fetch.backup_bytes,
                backup_stored_bytes: fetch.backup_stored_bytes,
                wal_segments: fetch.wal_segments,
                wal_bytes: fetch.wal_bytes,
            },
            basis: Basis {
                wal_decoded_bytes: basis.wal_decoded_bytes,
                wal_skipped_bytes: basis.wal_skipped_bytes,
                summaries: basis.summaries,
            },
            into: into.to_owned(),
            delta: None,
            warnings: warnings.iter().map(warning).collect(),
        }
    }

    pub fn text(&self, view: &View) -> String {
        let target = &self.target;
        let mut text = format!(
            "{} to {}\n\n",
            view.paint.bold(&format!("restore of {}", self.cluster)),
            view.paint.bold(&target.asked)
        );
        let mut line = |name: &str, value: String| {
            text += &format!("  {}  {value}\n", view.paint.dim(&format!("{name:<9}")));
        };
        line("backup", self.backup_line(view));
        for (index, run) in self.wal.iter().enumerate() {
            line(if index == 0 { "WAL" } else { "" }, run.line());
        }
        line("target", format!("LSN {} on timeline {}, inclusive", target.lsn, target.timeline));
        line(
            "last kept",
            transaction(target.last_kept.as_ref(), view, "no transaction ends between backup and target"),
        );
        line("left out", transaction(target.first_left_out.as_ref(), view, "no transaction ends after the target"));
        line("fetch", self.fetch.line());
        line("read", self.basis.line());
        line("into", self.into.display().to_string());
        if let Some(delta) = &self.delta {
            line("delta", delta.line());
        }
        for warning in &self.warnings {
            text += &format!("\n  {} {warning}", view.paint.yellow("warning:"));
        }
        if !self.warnings.is_empty() {
            text.push('\n');
        }
        text
    }

    fn backup_line(&self, view: &View) -> String {
        let backup = &self.backup;
        format!(
            "{}, finished {}, PostgreSQL {}, {}",
            backup.id,
            view.zone.both(backup.stop_time.0),
            self.postgres_version,
            human::bytes(backup.size_bytes)
        )
    }
}

impl DeltaDocument {
    pub const fn new(outlook: &DeltaOutlook) -> Self {
        let DeltaOutlook { files_there, compare_bytes, lacking_bytes } = *outlook;
        Self { files_there, compare_bytes, lacking_bytes }
    }

    fn line(&self) -> String {
        if self.files_there == 0 {
            return "nothing is there to reuse; all is fetched".to_owned();
        }
        format!(
            "{}, {} are there and are compared, and only what differs is fetched; {} are not there",
            human::count(self.files_there, "file"),
            human::bytes(self.compare_bytes),
            human::bytes(self.lacking_bytes)
        )
    }
}

impl RunDocument {
    fn new(run: &WalRun) -> Self {
        Self {
            timeline: run.timeline,
            from_lsn: run.from_lsn,
            to_lsn: run.to_lsn,
            first_segment: run.first_segment.clone(),
            last_segment: run.last_segment.clone(),
            segments: run.segments,
            ends_in_tails: run.ends_in_tails,
        }
    }

    fn line(&self) -> String {
        let open = if self.ends_in_tails { ", the last still open" } else { "" };
        format!(
            "{} to {} on timeline {}, {}{open}",
            self.from_lsn,
            self.to_lsn,
            self.timeline,
            human::count(self.segments, "segment")
        )
    }
}

impl Basis {
    fn line(&self) -> String {
        let decoded = human::bytes(self.wal_decoded_bytes);
        if self.wal_skipped_bytes == 0 {
            return format!("{decoded} of WAL, all that the plan needs");
        }
        let skipped = human::bytes(self.wal_skipped_bytes);
        let summaries = human::count(self.summaries, "summary").replace("summarys", "summaries");
        format!("{decoded} of WAL; {summaries} told of {skipped} (--check-wal reads all)")
    }
}

impl Fetch {
    fn line(&self) -> String {
        format!(
            "{}, {} from {} in the repository; {} of WAL to replay",
            human::count(self.files, "file"),
            human::bytes(self.backup_bytes),
            human::bytes(self.backup_stored_bytes),
            human::bytes(self.wal_bytes)
        )
    }
}

impl TransactionDocument {
    pub fn new(transaction: &Transaction) -> Self {
        Self { xid: transaction.xid, end: transaction.end, time: transaction.time.into(), lsn: transaction.lsn }
    }

    pub fn line(&self, view: &View) -> String {
        format!("{}, {}, LSN {}", self.short(), view.zone.exact(self.time.0), self.lsn)
    }

    pub fn short(&self) -> String {
        let end = match self.end {
            TransactionEnd::Commit => "commit",
            TransactionEnd::Abort => "abort",
        };
        format!("{end} of transaction {}", self.xid)
    }
}

fn transaction(transaction: Option<&TransactionDocument>, view: &View, none: &str) -> String {
    transaction.map_or_else(|| none.to_owned(), |transaction| transaction.line(view))
}

fn warning(warning: &PlanWarning) -> String {
    match warning {
        PlanWarning::CorruptPages { count } => {
            format!("the backup holds {} that did not match their checksum on the server", human::count(*count, "page"))
        }
        PlanWarning::TablespaceInWal { lsn, path } => {
            format!("replay creates or drops a tablespace at \"{path}\" (LSN {lsn}), outside the data directory")
        }
        PlanWarning::TimesNotMonotonic { lsn } => {
            format!(
                "commit times go backwards around the target (LSN {lsn}): some that ended later carry earlier times"
            )
        }
        PlanWarning::BeyondLastCommit { last: Some(last) } => format!(
            "the wanted time is after everything in the repository; its last transaction ended {}",
            last.format("%F %T%.6f UTC")
        ),
        PlanWarning::BeyondLastCommit { last: None } => {
            "the wanted time is after everything in the repository".to_owned()
        }
        PlanWarning::NewestOfSeveralMarkers { count } => {
            format!("the newest of {count} markers with this name is taken")
        }
        PlanWarning::InPlaceTablespace { oid } => {
            format!("the tablespace {oid} is in place: the server needs allow_in_place_tablespaces")
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::testing::manifest;
    use pitr::recovery::{FetchSize, MarkerRef, MarkerSide, PlanBasis, RecoveryTarget, ResolvedTarget};

    pub fn plan() -> RestorePlan {
        let transaction = |xid, lsn, second: u32, end| Transaction {
            xid,
            time: format!("2026-11-22T11:40:{second:02}.123456Z").parse().unwrap(),
            lsn: Lsn::new(lsn),
            end,
        };
        let marker = MarkerRef { name: "release-42".to_owned(), lsn: None };
        RestorePlan {
            lineage: crate::testing::lineage(),
            backup: manifest("2026-11-22T06:31:00Z", 0x200_0028, 0x200_0138),
            target: ResolvedTarget {
                asked: RecoveryTarget::Marker { side: MarkerSide::Before, marker },
                timeline: TimelineId::new(2).unwrap(),
                lsn: Lsn::new(0x400_2000),
                end_lsn: Lsn::new(0x400_2068),
                last_kept: Some(transaction(737, 0x400_1f00, 0, TransactionEnd::Commit)),
                first_left_out: Some(transaction(738, 0x400_2100, 1, TransactionEnd::Abort)),
            },
            wal: vec![run(1, 0x200_0028, 0x300_0000, 1, false), run(2, 0x300_0000, 0x400_2068, 2, true)],
            fetch: FetchSize {
                files: 1203,
                backup_bytes: 3 << 30,
                backup_stored_bytes: 700 << 20,
                wal_segments: 3,
                wal_bytes: 0x200_2040,
            },
            settings: manifest("2026-11-22T06:31:00Z", 1, 0x28).settings,
            basis: PlanBasis { wal_decoded_bytes: 48 << 20, wal_skipped_bytes: 3 << 30, summaries: 8 },
            warnings: vec![
                PlanWarning::CorruptPages { count: 1 },
                PlanWarning::BeyondLastCommit { last: Some("2026-11-22T11:59:00Z".parse().unwrap()) },
            ],
        }
    }

    fn run(timeline: u32, from: u64, to: u64, segments: u64, ends_in_tails: bool) -> WalRun {
        WalRun {
            timeline: TimelineId::new(timeline).unwrap(),
            from_lsn: Lsn::new(from),
            to_lsn: Lsn::new(to),
            first_segment: format!("{timeline:08X}0000000000000002"),
            last_segment: format!("{timeline:08X}0000000000000004"),
            segments,
            ends_in_tails,
        }
    }

    #[test]
    fn plan_as_text_and_json() {
        let document = PlanDocument::new(&plan(), Path::new("/srv/restored"));
        insta::assert_snapshot!("plan_text", document.text(&View::fixed()));
        insta::assert_snapshot!("plan_json", super::super::json::document(&document));
    }

    #[test]
    fn a_plan_that_replays_to_the_end_says_so() {
        let mut plan = plan();
        plan.target.asked = RecoveryTarget::Latest;
        plan.target.last_kept = None;
        plan.target.first_left_out = None;
        plan.warnings.clear();
        let document = PlanDocument::new(&plan, Path::new("/srv/restored"));
        insta::assert_snapshot!("plan_latest_text", document.text(&View::fixed()));
    }

    #[test]
    fn every_warning_is_a_sentence() {
        for kind in [
            PlanWarning::TablespaceInWal { lsn: Lsn::new(0x28), path: "/ts".to_owned() },
            PlanWarning::TimesNotMonotonic { lsn: Lsn::new(0x28) },
            PlanWarning::BeyondLastCommit { last: None },
            PlanWarning::NewestOfSeveralMarkers { count: 2 },
            PlanWarning::InPlaceTablespace { oid: 16400 },
        ] {
            assert!(warning(&kind).len() > 20);
        }
    }
}
