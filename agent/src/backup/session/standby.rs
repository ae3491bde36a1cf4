//! The standby whose files are read, while the primary keeps the backup open.
//!
//! Recovery from the backup begins at the redo position of the primary's checkpoint, so the files must hold all that came
//! before it. That a standby has replayed so far says nothing of its disk: pages wait in its buffers, and only a restartpoint
//! writes them (`CreateRestartPoint`). So a restartpoint at or behind that checkpoint is waited for, and asked for where the
//! role may do so.

use std::time::Duration;

use pitr::postgres::{Lsn, TimelineId};
use tracing::{info, warn};

use super::{ANSWER_TIMEOUT, ControlSession, Result, START_TIMEOUT, SessionError, StartedBackup, column, lsn};

const POLL: Duration = Duration::from_millis(200);
/// A standby whose recovery is behind is told of, so often.
const REMIND: Duration = Duration::from_secs(60);

const POSITION: &str = "
SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')::text, pg_is_in_recovery(), redo_lsn::text, timeline_id
FROM pg_control_checkpoint()";

/// How far a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StandbyPosition {
    replayed: Lsn,
    /// The redo position of its last restartpoint.
    restartpoint: Lsn,
    timeline: TimelineId,
}

impl ControlSession {
    /// Waits until the files of this standby hold all that the primary wrote before the backup's start. `written` is a position
    /// behind the record of the primary's checkpoint.
    ///
    /// # Errors
    /// The standby was promoted, is on another timeline, or does not come so far.
    pub async fn await_restartpoint(&self, started: &StartedBackup, written: Lsn, timeline: TimelineId) -> Result<()> {
        let wait = async {
            let mut may_ask = true;
            let mut waits = 0_u32;
            loop {
                let position = self.standby_position().await?;
                if position.restartpoint >= started.start_lsn {
                    return check_timeline(position.timeline, timeline);
                }
                if position.replayed >= written && may_ask {
                    may_ask = self.ask_for_restartpoint().await?;
                    continue;
                }
                let reminds = u32::try_from(REMIND.as_millis() / POLL.as_millis()).unwrap_or(u32::MAX);
                if waits.is_multiple_of(reminds) {
                    let (replayed, restartpoint) = (position.replayed, position.restartpoint);
                    info!(%replayed, %restartpoint, awaited = %started.start_lsn, "waiting for the standby");
                }
                waits += 1;
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(START_TIMEOUT, wait).await {
            Ok(reached) => reached,
            Err(_) => Err(SessionError::unfit(
                format!(
                    "the standby made no restartpoint at {} within {} s",
                    started.start_lsn,
                    START_TIMEOUT.as_secs()
                ),
                "see whether its replay is paused, or so far behind; [backup] standby can be left out for the time being",
            )),
        }
    }

    /// # Errors
    /// The session ends, or the server is no standby any more.
    async fn standby_position(&self) -> Result<StandbyPosition> {
        let row = self.within(ANSWER_TIMEOUT, "answer", self.sql.query_one(POSITION, &[])).await?;
        if !column::<bool>(&row, 1)? {
            return Err(SessionError::promoted());
        }
        let timeline: i32 = column(&row, 3)?;
        let timeline = u32::try_from(timeline).ok().and_then(TimelineId::new);
        Ok(StandbyPosition {
            replayed: lsn(&row, 0)?,
            restartpoint: lsn(&row, 2)?,
            timeline: timeline.ok_or_else(|| SessionError::Answer("a timeline that is none".to_owned()))?,
        })
    }

    /// A `CHECKPOINT` in recovery is a restartpoint at the last checkpoint that was replayed. Returns whether it may be asked for
    /// again.
    async fn ask_for_restartpoint(&self) -> Result<bool> {
        let asked = self.within(START_TIMEOUT, "make a restartpoint", self.sql.simple("CHECKPOINT")).await;
        match asked {
            Ok(_) => {
                tokio::time::sleep(POLL).await;
                Ok(true)
            }
            Err(SessionError::Server(crate::postgres::Error::MissingPrivilege(_))) => {
                warn!(
                    "the role may not ask the standby for a restartpoint, so the backup waits for its next one; grant pg_checkpoint to it"
                );
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn check_timeline(found: TimelineId, wanted: TimelineId) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(SessionError::unfit(
        format!("the standby is on timeline {found}, the primary on {wanted}"),
        "let the standby follow the primary that is archived",
    ))
}
