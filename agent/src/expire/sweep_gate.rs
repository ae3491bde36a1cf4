//! Packs and maps that no backup names do not go while a backup runs: it may find one of them in the store and name it.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Shared by backups and by whoever deletes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SweepGate(Arc<RwLock<()>>);

/// A backup runs.
#[derive(Debug)]
pub struct InBackup {
    _guard: OwnedRwLockReadGuard<()>,
}

/// No backup runs, and none begins.
#[derive(Debug)]
pub struct InSweep {
    _guard: OwnedRwLockWriteGuard<()>,
}

impl SweepGate {
    /// For as long as a backup takes; waits until a sweep is over.
    pub async fn backup(&self) -> InBackup {
        InBackup { _guard: Arc::clone(&self.0).read_owned().await }
    }

    /// None while a backup runs.
    #[must_use]
    pub fn sweep(&self) -> Option<InSweep> {
        Some(InSweep { _guard: Arc::clone(&self.0).try_write_owned().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_sweep_beside_a_backup_and_no_backup_beside_a_sweep() {
        let gate = SweepGate::default();
        let backup = gate.backup().await;
        assert!(gate.sweep().is_none());
        drop(backup);
        let sweep = gate.sweep();
        assert!(sweep.is_some());
        let mut next = std::pin::pin!(gate.backup());
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(sweep);
        assert!(futures::poll!(next).is_ready());
    }
}
