//! What the agent says of itself.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use pitr::api::{AgentStatus, BackupJob, StreamingState};
use pitr::clock::Clock;
use pitr::postgres::{ServerVersion, SystemIdentifier};
use pitr::repository::layout::ClusterName;

use super::prepare::Memory;
use crate::archiver::{ArchiveProgress, Progress};
use crate::backup::BackupDesk;
use crate::expire::ExpireDesk;
use crate::http::{BackupDoor, StatusSource};

/// What is known once server and repository were reached.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub system_identifier: SystemIdentifier,
    pub postgres_version: ServerVersion,
}

/// Tells about backups: the one that runs or ran last, and when the next is due.
pub trait BackupOutlook: std::fmt::Debug + Send + Sync + 'static {
    fn current(&self) -> Option<BackupJob>;
    fn next(&self) -> Option<DateTime<Utc>>;
    /// What is wrong, though the last backup is complete.
    fn problem(&self) -> Option<String>;
}

#[derive(Debug, Default)]
struct Known {
    identity: Option<Identity>,
    backups: Option<Arc<dyn BackupOutlook>>,
    expiry: Option<Arc<ExpireDesk>>,
    /// Why server or repository are not reached yet.
    waiting_for: Option<String>,
}

impl BackupOutlook for BackupDesk {
    fn current(&self) -> Option<BackupJob> {
        BackupDoor::current(self)
    }

    fn next(&self) -> Option<DateTime<Utc>> {
        self.next_backup()
    }

    fn problem(&self) -> Option<String> {
        Self::problem(self)
    }
}

/// Gathers the status from those who know.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    cluster: ClusterName,
    started: DateTime<Utc>,
    progress: ArchiveProgress,
    memory: Memory,
    known: Arc<Mutex<Known>>,
}

impl StatusBoard {
    #[must_use]
    pub fn new(cluster: ClusterName, progress: ArchiveProgress, memory: Memory, clock: &dyn Clock) -> Self {
        Self { cluster, started: clock.now(), progress, memory, known: Arc::default() }
    }

    pub fn waits_for(&self, problem: Option<String>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).waiting_for = problem;
    }

    pub fn is_ready(&self, identity: Identity, backups: Arc<dyn BackupOutlook>, expiry: Arc<ExpireDesk>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { identity: Some(identity), backups: Some(backups), expiry: Some(expiry), waiting_for: None };
    }
}

impl StatusSource for StatusBoard {
    fn status(&self) -> AgentStatus {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.progress.now();
        let backup = known.backups.as_ref().and_then(|backups| backups.current());
        let failed =
            backup.as_ref().and_then(|job| job.error.clone()).map(|error| format!("the last backup failed: {error}"));
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.cluster.to_string(),
            system_identifier: known.identity.map(|identity| identity.system_identifier),
            postgres_version: known.identity.map(|identity| identity.postgres_version),
            started: self.started,
            streaming: streaming(&now),
            lag_bytes: lag_bytes(&now),
            next_backup: known.backups.as_ref().and_then(|backups| backups.next()),
            problems: [
                known.waiting_for.clone(),
                self.memory.gaps.problem(),
                self.memory.guard.problem(),
                now.problem,
                now.findings_problem,
                failed,
                known.expiry.as_ref().and_then(|expiry| expiry.problem()),
                known.backups.as_ref().and_then(|backups| backups.problem()),
            ]
            .into_iter()
            .flatten()
            .collect(),
            backup,
            server: now.server,
            received: now.received,
            sealed: now.sealed,
            sealed_commit_time: now.sealed_commit_time,
        }
    }
}

const fn streaming(progress: &Progress) -> StreamingState {
    match (progress.stalled, progress.connected, progress.pushed) {
        (true, ..) => StreamingState::Stalled,
        (false, true, false) => StreamingState::Streaming,
        (false, true, true) => StreamingState::Archiving,
        (false, false, _) => StreamingState::Connecting,
    }
}

fn lag_bytes(progress: &Progress) -> Option<u64> {
    let (server, sealed) = (progress.server?, progress.sealed?);
    Some(server.lsn.distance_from(sealed.lsn).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use pitr::clock::ManualClock;
    use pitr::postgres::{Lsn, TimelineId};
    use pitr::repository::lease::WalPosition;

    use super::*;

    #[test]
    fn lag_is_what_the_server_is_ahead() {
        let clock = ManualClock::new("2026-11-22T06:31:00Z".parse().unwrap());
        let progress = ArchiveProgress::default();
        let board = StatusBoard::new("main".parse().unwrap(), progress.clone(), Memory::default(), &clock);
        assert_eq!((board.status().lag_bytes, board.status().streaming), (None, StreamingState::Connecting));
        let at = |lsn| Some(WalPosition { timeline: TimelineId::FIRST, lsn: Lsn::new(lsn) });
        progress.update(|p| (p.server, p.sealed, p.connected) = (at(300), at(100), true));
        assert_eq!((board.status().lag_bytes, board.status().streaming), (Some(200), StreamingState::Streaming));
        board.waits_for(Some("the server is down".to_owned()));
        assert_eq!(board.status().problems, ["the server is down"]);
    }
}
