//! The servers that a backup talks to: the primary, and a standby where the files of one are read.

use std::sync::Arc;

use pitr::postgres::{SystemIdentifier, TimelineId};

use super::{ANSWER_TIMEOUT, ControlSession, Result, ServerFacts, ServerRole, SessionError, StartedBackup, column};
use crate::postgres::ConnInfo;

#[derive(Clone, Debug)]
pub struct BackupServers {
    /// Holds the backup open.
    pub primary: Arc<ControlSession>,
    standby: Option<Arc<ControlSession>>,
}

impl BackupServers {
    /// # Errors
    /// A server cannot be reached, or is of a version that is not supported.
    pub async fn connect(primary: &ConnInfo, standby: Option<&ConnInfo>) -> Result<Self> {
        let Some(standby) = standby else {
            let primary = ControlSession::connect(primary, ServerRole::Primary).await?;
            return Ok(Self { primary: Arc::new(primary), standby: None });
        };
        let primary = Arc::new(ControlSession::connect(primary, ServerRole::DistantPrimary).await?);
        let standby = Arc::new(ControlSession::connect(standby, ServerRole::Standby).await?);
        Ok(Self { primary, standby: Some(standby) })
    }

    /// Looks at the servers, and at the data directory whose files are to be read.
    ///
    /// # Errors
    /// [`SessionError::Unfit`] with what is wrong and what to do.
    pub async fn preflight(&self, expected: SystemIdentifier) -> Result<ServerFacts> {
        let Some(standby) = &self.standby else { return self.primary.preflight(expected).await };
        self.primary.preflight_distant(expected).await?;
        let facts = standby.preflight(expected).await?;
        if self.primary.version().major() != facts.version.major() {
            let reason = format!("the primary has version {}, the standby {}", self.primary.version(), facts.version);
            return Err(SessionError::Unfit { reason, hint: None });
        }
        Ok(facts)
    }

    /// Begins the backup; the files that are to be read hold all that came before its start when this returns.
    ///
    /// # Errors
    /// The primary refuses, a session ends, or the standby does not come so far.
    pub async fn start(&self, label: &str) -> Result<StartedBackup> {
        let started = self.primary.start(label).await?;
        if let Some(standby) = &self.standby {
            let timeline = self.primary.timeline().await?;
            let written = self.primary.flush_lsn().await?;
            standby.await_restartpoint(&started, written, timeline).await?;
        }
        Ok(started)
    }

    /// Never returns while the servers are what they were.
    pub async fn watch(&self) -> SessionError {
        match &self.standby {
            None => self.primary.watch().await,
            Some(standby) => tokio::select! {
                lost = self.primary.watch() => lost,
                lost = standby.watch() => lost,
            },
        }
    }

    /// All files were read: they are of use only if their server still is what it was at the start.
    ///
    /// # Errors
    /// It is not.
    pub async fn confirm_source(&self) -> Result<()> {
        match &self.standby {
            None => Ok(()),
            Some(standby) => standby.heartbeat().await,
        }
    }

    /// Ends what the primary does for the backup.
    pub async fn abort(&self) {
        self.primary.abort().await;
    }
}

impl ControlSession {
    /// The timeline of the last checkpoint.
    async fn timeline(&self) -> Result<TimelineId> {
        let query = self.sql.query_one("SELECT timeline_id FROM pg_control_checkpoint()", &[]);
        let id: i32 = column(&self.within(ANSWER_TIMEOUT, "answer", query).await?, 0)?;
        let timeline = u32::try_from(id).ok().and_then(TimelineId::new);
        timeline.ok_or_else(|| SessionError::Answer(format!("{id} is no timeline")))
    }
}
