//! A backup that runs, or that ended.

use pitr::api::{BackupJob, BackupPhase, BackupState};
use pitr::postgres::TimelineId;
use pitr::repository::backup::BackupId;
use serde::Serialize;

use super::View;
use super::human;
use super::json::Time;

#[derive(Debug, Clone, Serialize)]
pub struct JobDocument {
    pub format: u32,
    pub id: BackupId,
    pub state: BackupState,
    pub phase: BackupPhase,
    pub started: Time,
    pub finished: Option<Time>,
    pub timeline: Option<TimelineId>,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub new_bytes: u64,
    pub corrupt_pages: u64,
    pub resumes: Option<BackupId>,
    pub resumed_bytes: u64,
    pub error: Option<String>,
}

impl JobDocument {
    pub fn new(job: BackupJob) -> Self {
        Self {
            format: 1,
            id: job.id,
            state: job.state,
            phase: job.phase,
            started: job.started.into(),
            finished: job.finished.map(Time),
            timeline: job.timeline,
            files_done: job.files_done,
            files_total: job.files_total,
            bytes_done: job.bytes_done,
            bytes_total: job.bytes_total,
            new_bytes: job.new_bytes,
            corrupt_pages: job.corrupt_pages,
            resumes: job.resumes,
            resumed_bytes: job.resumed_bytes,
            error: job.error,
        }
    }

    /// While it runs.
    pub fn line(&self) -> String {
        let phase = phase(self.phase);
        if self.phase == BackupPhase::Copying && self.bytes_total > 0 {
            let percent = self.bytes_done.saturating_mul(100) / self.bytes_total;
            let mut line = format!("{} runs: {phase}, {percent}% of {}", self.id, human::bytes(self.bytes_total));
            if let Some(interrupted) = &self.resumes {
                line += &format!(", taking up {interrupted}");
            }
            return line;
        }
        format!("{} runs: {phase}", self.id)
    }

    /// When it is over, or was only begun.
    pub fn text(&self, view: &View) -> String {
        let id = view.paint.bold(&self.id.to_string());
        match self.state {
            BackupState::Running => format!("{id} has begun; \"pitr status\" shows how far it is\n"),
            BackupState::Failed => {
                format!("{id} {}: {}\n", view.paint.red("failed"), self.error.as_deref().unwrap_or("no reason given"))
            }
            BackupState::Complete => {
                let took = self
                    .finished
                    .map_or_else(String::new, |finished| format!(" in {}", human::span(finished.0 - self.started.0)));
                let mut text = format!(
                    "{id} {}{took}: {}, {}, {} new in the repository\n",
                    view.paint.green("complete"),
                    human::count(self.files_done, "file"),
                    human::bytes(self.bytes_done),
                    human::bytes(self.new_bytes)
                );
                if let Some(interrupted) = &self.resumes {
                    let bytes = human::bytes(self.resumed_bytes);
                    text += &format!("{bytes} were taken over from {interrupted}, which was interrupted\n");
                }
                if self.corrupt_pages > 0 {
                    let pages = human::count(self.corrupt_pages, "page");
                    text += &view.paint.red(&format!("{pages} of the server did not match their checksum\n"));
                }
                text
            }
        }
    }
}

pub fn phase(phase: BackupPhase) -> &'static str {
    match phase {
        BackupPhase::Starting => "starting, waiting for a checkpoint",
        BackupPhase::Copying => "copying",
        BackupPhase::Stopping => "stopping",
        BackupPhase::WaitingForWal => "waiting until its WAL is sealed",
        BackupPhase::Finishing => "finishing",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn job(state: BackupState, phase: BackupPhase) -> BackupJob {
        let started = "2026-11-22T11:55:00Z".parse().unwrap();
        BackupJob {
            id: BackupId::new(started, 1),
            state,
            phase,
            started,
            finished: (state != BackupState::Running).then(|| "2026-11-22T11:57:03Z".parse().unwrap()),
            timeline: Some(TimelineId::FIRST),
            files_done: 1203,
            files_total: 1203,
            bytes_done: 1 << 30,
            bytes_total: 3 << 30,
            new_bytes: 300 << 20,
            corrupt_pages: 0,
            resumes: None,
            resumed_bytes: 0,
            error: None,
        }
    }

    #[test]
    fn jobs_as_text_and_json() {
        let view = View::fixed();
        let running = JobDocument::new(job(BackupState::Running, BackupPhase::Copying));
        let complete =
            JobDocument::new(BackupJob { corrupt_pages: 2, ..job(BackupState::Complete, BackupPhase::Finishing) });
        let error = Some("the server closed the connection".to_owned());
        let failed = JobDocument::new(BackupJob { error, ..job(BackupState::Failed, BackupPhase::Copying) });
        let resumes = Some(BackupId::new("2026-11-22T11:40:00Z".parse().unwrap(), 1));
        let resumed = |job| JobDocument::new(BackupJob { resumes: resumes.clone(), resumed_bytes: 200 << 20, ..job });
        let again = resumed(job(BackupState::Running, BackupPhase::Copying));
        let done = resumed(job(BackupState::Complete, BackupPhase::Finishing));
        let text = [format!("{}\n", running.line()), running.text(&view), complete.text(&view), failed.text(&view)];
        let text = [text.concat(), format!("{}\n", again.line()), done.text(&view)];
        insta::assert_snapshot!("backup_text", text.concat());
        insta::assert_snapshot!("backup_json", super::super::json::document(&complete));
    }
}
