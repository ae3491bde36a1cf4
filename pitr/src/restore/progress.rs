//! How far a restore is, for whoever watches.

use tokio::sync::watch;

use crate::postgres::Lsn;

/// What a restore does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Checking,
    /// Files come from the repository.
    Copying,
    /// What was written is made durable.
    Syncing,
    Starting,
    /// The server replays WAL.
    Replaying,
    /// The end is reached; what the server says is compared with what was asked.
    Verifying,
    Done,
}

/// A moment of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub files_done: u64,
    pub files_total: u64,
    /// Plain bytes, as they stand on disk.
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Bytes of files that were there and were read, and those that are as they should be.
    pub compared_bytes: u64,
    pub reused_bytes: u64,
    /// Bytes that came from the repository.
    pub fetched_bytes: u64,
    /// Start of the newest WAL segment that the server was given.
    pub replayed_lsn: Option<Lsn>,
    pub replay_from: Option<Lsn>,
    pub replay_to: Option<Lsn>,
    /// For how many seconds nothing moved, once that is remarkable.
    pub stalled_seconds: Option<u64>,
}

/// Where progress is told; cheap to clone, never blocks, and nobody needs to listen.
#[derive(Clone, Debug)]
pub struct ProgressSender(watch::Sender<Progress>);

impl Default for ProgressSender {
    fn default() -> Self {
        Self(watch::Sender::new(Progress::default()))
    }
}

impl ProgressSender {
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    pub(super) fn now(&self) -> Progress {
        self.0.borrow().clone()
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.update(|progress| progress.phase = phase);
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.0.send_modify(change);
    }
}
