//! `pitr backup`: the agent takes it, this only asks and watches.

use std::time::{Duration, Instant};

use pitr::api::{ApiErrorKind, BackupJob, BackupPhase, BackupRequest, BackupState};

use super::who::who;
use crate::agent_client::{AgentClient, AgentError};
use crate::args::BackupOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::job::{JobDocument, phase};
use crate::output::progress::{Meter, Step, Unit};

/// Between two looks at the job: a tenth of what it took so far, within these, so that a backup of half a second is not
/// waited for longer than it takes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// An agent that does not answer for so many looks in a row is said to be silent, and then given up.
const SILENT: u32 = 4;
const GIVEN_UP: u32 = 40;
const STOPPED: &str = "earlier backups are unharmed; see to the agent, and order another backup when it runs";
const RESTARTED: &str = "earlier backups are unharmed; order another one with \"pitr backup\"";
const INTERRUPTED: &str = "the backup goes on, \"pitr status\" shows how far it is";

/// # Errors
/// The agent cannot begin a backup, or it failed.
pub async fn run(context: &Context, order: BackupOrder) -> Result<(), Failure> {
    let agent = context.settings()?.agent()?;
    let request = BackupRequest { who: Some(who(context.uid, &context.environment)), fresh: order.fresh };
    let started = async { Ok(agent.start_backup(&request).await?) };
    let mut job = context.interruptible(Some("a backup may have begun, \"pitr status\" tells"), started).await?;
    if order.wait {
        let mut meter = context.meter();
        job = context.interruptible(Some(INTERRUPTED), follow(&agent, job, &mut meter)).await?;
    }
    context.print(&JobDocument::new(job.clone()), JobDocument::text)?;
    if job.state == BackupState::Failed {
        let reason = job.error.unwrap_or_else(|| "the agent gave no reason".to_owned());
        let hint = Some("earlier backups are unharmed; \"pitr info\" lists them".to_owned());
        return Err(Failure::Failed { message: format!("the backup {} failed: {reason}", job.id), hint });
    }
    Ok(())
}

/// Until the job is no longer running.
async fn follow(agent: &AgentClient, mut job: BackupJob, meter: &mut Meter) -> Result<BackupJob, Failure> {
    let begin = Instant::now();
    let mut silence = 0;
    while job.state == BackupState::Running {
        meter.show(&step(&job));
        let pause = if silence > 0 { LONGEST_PAUSE } else { begin.elapsed() / 10 };
        tokio::time::sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
        match agent.current_backup().await {
            Ok(current) if current.id == job.id => {
                job = current;
                silence = 0;
            }
            Ok(current) => {
                let message = format!("the agent runs the backup {} now and no longer tells of {}", current.id, job.id);
                return Err(Failure::Failed {
                    message,
                    hint: Some("\"pitr info\" tells whether it is complete".to_owned()),
                });
            }
            Err(error @ (AgentError::Unreachable { .. } | AgentError::Broken { .. } | AgentError::NoAnswer { .. })) => {
                silence += 1;
                if silence == SILENT {
                    meter.note(&format!("the agent does not answer; waiting for it ({error})"));
                }
                if silence > GIVEN_UP {
                    return Err(lost(&job, "the agent does not answer any more", STOPPED));
                }
            }
            Err(AgentError::Refused { error, .. }) if error.kind == ApiErrorKind::NotFound => {
                return Err(lost(&job, "the agent was started anew meanwhile", RESTARTED));
            }
            Err(error) => return Err(error.into()),
        }
    }
    meter.clear();
    Ok(job)
}

/// The backup as far as can be told: a backup that its agent does not finish does not exist.
fn lost(job: &BackupJob, what: &str, hint: &str) -> Failure {
    let message = format!("the backup {} did not get to its end: {what}", job.id);
    Failure::Failed { message, hint: Some(hint.to_owned()) }
}

fn step(job: &BackupJob) -> Step {
    let note = (job.files_total > 0).then(|| format!("{} of {} files", job.files_done, job.files_total));
    let unit = if job.phase == BackupPhase::Copying { Unit::Bytes } else { Unit::None };
    Step { phase: phase(job.phase), done: job.bytes_done, total: job.bytes_total, unit, note }
}
