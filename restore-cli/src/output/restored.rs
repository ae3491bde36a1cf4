//! What a restore left: a directory, and with `--start` a server with its certificate.

use std::path::PathBuf;

use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::repository::backup::BackupId;
use pitr::repository::layout::ClusterName;
use pitr::repository::lineage::LineageId;
use pitr::restore::certificate::{Certificate, CertifiedServer, Check, RestoredBytes, Verdict};
use pitr::restore::{DeltaResult, RestoreId, RestoredDirectory, shell_word};
use serde::Serialize;

use super::View;
use super::human;
use super::json::Time;
use super::plan::{PlanDocument, TransactionDocument};

/// How it ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub restore: RestoreId,
    pub restored: RestoredDirectory,
    pub start_command: String,
    pub certificate: Option<Certificate>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RestoredDocument {
    pub format: u32,
    pub restore: RestoreId,
    pub directory: PathBuf,
    pub files: u64,
    pub bytes: u64,
    pub fetched_bytes: u64,
    /// With `--delta`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaResultDocument>,
    pub seconds: Vec<PhaseDocument>,
    pub notes: Vec<String>,
    pub start_command: String,
    pub plan: PlanDocument,
    pub certificate: Option<CertificateDocument>,
}

/// What an old directory was good for.
#[derive(Debug, Clone, Serialize)]
pub struct DeltaResultDocument {
    pub compared_bytes: u64,
    pub reused_bytes: u64,
    pub removed_entries: u64,
}

/// A certificate as it is printed.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateDocument {
    pub verdict: Verdict,
    pub restore: RestoreId,
    pub cluster: ClusterName,
    pub lineage: LineageId,
    pub system_identifier: SystemIdentifier,
    pub asked: String,
    pub backup: BackupId,
    pub data_directory: PathBuf,
    pub started: Time,
    pub finished: Time,
    pub timeline_before: TimelineId,
    pub timeline_after: Option<TimelineId>,
    pub target_lsn: Lsn,
    pub reached_lsn: Option<Lsn>,
    pub last_kept: Option<TransactionDocument>,
    pub first_left_out: Option<TransactionDocument>,
    pub checks: Vec<Check>,
    pub seconds: Vec<PhaseDocument>,
    pub bytes: RestoredBytes,
    pub server: Option<CertifiedServer>,
    pub notes: Vec<String>,
    pub failure: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PhaseDocument {
    pub phase: String,
    pub seconds: f64,
}

impl RestoredDocument {
    pub fn new(plan: PlanDocument, finished: Finished) -> Self {
        let Finished { restore, restored, start_command, certificate } = finished;
        let certificate = certificate.map(CertificateDocument::new);
        let seconds = match &certificate {
            Some(certificate) => certificate.seconds.clone(),
            None => restored.seconds.iter().map(|(phase, seconds)| PhaseDocument::new(phase, *seconds)).collect(),
        };
        let notes =
            certificate.as_ref().map_or_else(|| restored.notes.clone(), |certificate| certificate.notes.clone());
        Self {
            format: 1,
            restore,
            directory: restored.directory,
            files: restored.files,
            bytes: restored.bytes,
            fetched_bytes: restored.fetched_bytes,
            delta: restored.delta.as_ref().map(DeltaResultDocument::new),
            seconds,
            notes,
            start_command,
            plan,
            certificate,
        }
    }

    /// After the plan, which was printed before.
    pub fn text(&self, view: &View) -> String {
        let total: f64 = self.seconds.iter().map(|part| part.seconds).sum();
        let mut text = format!(
            "\n{} {}, {}, {} fetched, {}\n",
            view.paint.bold("restored"),
            human::count(self.files, "file"),
            human::bytes(self.bytes),
            human::bytes(self.fetched_bytes),
            human::seconds(total)
        );
        if let Some(delta) = &self.delta {
            text += &format!(
                "  {} compared, {} of it reused; {} removed that the backup lacks\n",
                human::bytes(delta.compared_bytes),
                human::bytes(delta.reused_bytes),
                match delta.removed_entries {
                    1 => "1 entry".to_owned(),
                    entries => format!("{} entries", human::grouped(entries)),
                }
            );
        }
        for note in &self.notes {
            // What the plan warned of was told.
            if !self.plan.warnings.contains(note) {
                text += &format!("  {} {note}\n", view.paint.yellow("note:"));
            }
        }
        match &self.certificate {
            Some(certificate) => text += &certificate_text(certificate, view),
            None => {
                text += &format!(
                    "\nstart it with\n  {}\nit recovers to the target; watch its log for how far it is\n",
                    view.paint.bold(&self.start_command)
                );
            }
        }
        text
    }
}

impl DeltaResultDocument {
    const fn new(result: &DeltaResult) -> Self {
        let DeltaResult { compared_bytes, reused_bytes, removed_entries } = *result;
        Self { compared_bytes, reused_bytes, removed_entries }
    }
}

impl PhaseDocument {
    /// To the millisecond.
    fn new(phase: &str, seconds: f64) -> Self {
        Self { phase: phase.to_owned(), seconds: (seconds * 1000.0).round() / 1000.0 }
    }
}

impl CertificateDocument {
    fn new(certificate: Certificate) -> Self {
        Self {
            verdict: certificate.verdict,
            restore: certificate.restore,
            cluster: certificate.cluster,
            lineage: certificate.lineage,
            system_identifier: certificate.system_identifier,
            asked: certificate.asked.to_string(),
            backup: certificate.backup,
            data_directory: certificate.data_directory,
            started: certificate.started.into(),
            finished: certificate.finished.into(),
            timeline_before: certificate.timeline_before,
            timeline_after: certificate.timeline_after,
            target_lsn: certificate.target_lsn,
            reached_lsn: certificate.reached_lsn,
            last_kept: certificate.last_kept.as_ref().map(TransactionDocument::new),
            first_left_out: certificate.first_left_out.as_ref().map(TransactionDocument::new),
            checks: certificate.checks,
            seconds: certificate.seconds.iter().map(|part| PhaseDocument::new(&part.phase, part.seconds)).collect(),
            bytes: certificate.bytes,
            server: certificate.server,
            notes: certificate.notes,
            failure: certificate.failure,
        }
    }
}

fn certificate_text(certificate: &CertificateDocument, view: &View) -> String {
    let verdict = match certificate.verdict {
        Verdict::Reached => view.paint.green("reached: every check holds"),
        Verdict::NotReached => view.paint.red("NOT REACHED"),
    };
    let mut text = format!("\n{} {}\n\n", view.paint.bold("certificate"), certificate.restore);
    let mut line = |name: &str, value: String| {
        text += &format!("  {}  {value}\n", view.paint.dim(&format!("{name:<9}")));
    };
    line("verdict", verdict);
    line(
        "asked",
        format!("{}, LSN {} on timeline {}", certificate.asked, certificate.target_lsn, certificate.timeline_before),
    );
    let after = certificate.timeline_after.map_or_else(String::new, |timeline| format!(", now on timeline {timeline}"));
    let reached = certificate.reached_lsn.map_or_else(|| "unknown".to_owned(), |lsn| format!("LSN {lsn}"));
    line("reached", format!("{reached}{after}"));
    line("backup", certificate.backup.to_string());
    for (name, transaction) in [("last kept", &certificate.last_kept), ("left out", &certificate.first_left_out)] {
        if let Some(transaction) = transaction {
            line(name, transaction.line(view));
        }
    }
    for (index, check) in certificate.checks.iter().enumerate() {
        let found = if check.ok {
            format!("{} {}: {}", view.paint.green("ok"), check.name, check.found)
        } else {
            view.paint.red(&format!("FAILED {}: {} expected, {} found", check.name, check.expected, check.found))
        };
        line(if index == 0 { "checks" } else { "" }, found);
    }
    let parts = certificate.seconds.iter().map(|part| format!("{} {}", part.phase, human::seconds(part.seconds)));
    line("took", parts.collect::<Vec<_>>().join(", "));
    if let Some(server) = &certificate.server {
        line("server", format!("{}, process {}", server.version, server.pid));
        line("connect", format!("psql -h {} -p {}", shell_word(&server.socket_directory), server.port));
        line("stop", server.stop_command.clone());
        line("log", server.log.display().to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use pitr::restore::certificate::PhaseSeconds;
    use pitr::restore::destination::{Account, Ownership};

    use super::*;
    use crate::output::json;
    use crate::output::plan::tests::plan;

    fn restored() -> RestoredDirectory {
        RestoredDirectory {
            directory: "/srv/restored".into(),
            ownership: Ownership {
                account: Account { uid: 105, gid: 105, name: "postgres".to_owned() },
                gid: 105,
                give_away: true,
            },
            started: "2026-11-22T12:00:00Z".parse().unwrap(),
            files: 1203,
            bytes: 3 << 30,
            fetched_bytes: 700 << 20,
            delta: None,
            seconds: vec![("copy", 41.25), ("sync", 2.5)],
            notes: vec!["the link pg_wal was not kept".to_owned()],
        }
    }

    fn certificate() -> Certificate {
        let plan = plan();
        let check = |name: &str, found: &str, ok| Check {
            name: name.to_owned(),
            expected: "0/4002000".to_owned(),
            found: found.to_owned(),
            ok,
        };
        Certificate {
            restore: "20261122T120000Z-00001a2b".parse().unwrap(),
            cluster: "main".parse().unwrap(),
            lineage: plan.lineage.lineage,
            system_identifier: SystemIdentifier::new(7_450_000_000_000_000_000),
            asked: plan.target.asked,
            backup: plan.backup.id,
            data_directory: "/srv/restored".into(),
            started: "2026-11-22T12:00:00Z".parse().unwrap(),
            finished: "2026-11-22T12:01:00Z".parse().unwrap(),
            timeline_before: TimelineId::new(2).unwrap(),
            timeline_after: TimelineId::new(3),
            target_lsn: Lsn::new(0x400_2000),
            reached_lsn: Some(Lsn::new(0x400_2000)),
            last_kept: plan.target.last_kept,
            first_left_out: plan.target.first_left_out,
            checks: vec![check("last record replayed", "0/4002000", true)],
            seconds: [("copy", 41.25), ("sync", 2.5), ("replay", 12.0), ("verify", 0.3)]
                .map(|(phase, seconds)| PhaseSeconds { phase: phase.to_owned(), seconds })
                .into(),
            bytes: RestoredBytes { files: 1203, restored: 3 << 30, fetched: 700 << 20, wal: 0x200_2040 },
            server: Some(CertifiedServer {
                version: "15.18".to_owned(),
                pid: 4711,
                port: 5433,
                socket_directory: "/srv/restored.pitr".into(),
                log: "/srv/restored.pitr/server.log".into(),
                stop_command: "pg_ctl stop -D '/srv/restored'".to_owned(),
            }),
            notes: vec!["the certificate is not kept in the repository".to_owned()],
            failure: None,
            verdict: Verdict::Reached,
        }
    }

    fn document(certificate: Option<Certificate>) -> RestoredDocument {
        let plan = PlanDocument::new(&plan(), std::path::Path::new("/srv/restored"));
        let finished = Finished {
            restore: "20261122T120000Z-00001a2b".parse().unwrap(),
            restored: restored(),
            start_command: "runuser -u postgres -- pg_ctl start -D '/srv/restored'".to_owned(),
            certificate,
        };
        RestoredDocument::new(plan, finished)
    }

    #[test]
    fn a_directory_comes_with_the_command_that_starts_it() {
        insta::assert_snapshot!("restored_text", document(None).text(&View::fixed()));
        insta::assert_snapshot!("restored_json", json::document(&document(None)));
    }

    #[test]
    fn a_server_comes_with_its_certificate() {
        insta::assert_snapshot!("certificate_text", document(Some(certificate())).text(&View::fixed()));
        insta::assert_snapshot!("certificate_json", json::document(&document(Some(certificate()))));
    }

    #[test]
    fn a_failed_check_stands_out() {
        let mut failed = certificate();
        failed.verdict = Verdict::NotReached;
        failed.checks.push(Check {
            name: "new timeline".to_owned(),
            expected: "after 2".to_owned(),
            found: "2".to_owned(),
            ok: false,
        });
        let text = document(Some(failed)).text(&View::fixed());
        assert!(text.contains("NOT REACHED"), "{text}");
        assert!(text.contains("FAILED new timeline: after 2 expected, 2 found"), "{text}");
    }
}
