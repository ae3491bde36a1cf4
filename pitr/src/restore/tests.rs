//! Restores of synthetic backups, whole and damaged.

mod damage;
mod delta;
mod destination;
mod server;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::testing::plan_for;
use super::*;
use crate::clock::SystemClock;
use crate::repository::LineageStore;
use crate::repository::backup::BackupManifest;

pub(crate) fn options(directory: &Path) -> RestoreOptions {
    RestoreOptions {
        restore: "20261122T101500Z-00001a2b".parse().unwrap(),
        directory: directory.to_owned(),
        tablespaces: destination_mapping(),
        delta: false,
        owner: None,
        action: TargetAction::Promote,
        restore_command: RestoreCommand::Shell("false".to_owned()),
        companion: None,
        transfer: TransferOptions { workers: 2, requests: 3, request_bytes: 512 << 10 },
        tablespaces_in_wal: TablespacePolicy::Careful,
    }
}

fn destination_mapping() -> super::destination::TablespaceMapping {
    super::destination::TablespaceMapping::default()
}

pub(crate) fn restorer(lineage: &LineageStore, cancel: &CancellationToken) -> Restorer {
    Restorer {
        lineage: lineage.clone(),
        clock: Arc::new(SystemClock),
        progress: ProgressSender::default(),
        cancel: cancel.clone(),
    }
}

pub(crate) async fn restore_with(
    lineage: &LineageStore,
    manifest: &BackupManifest,
    options: &RestoreOptions,
) -> Result<RestoredDirectory> {
    let restorer = restorer(lineage, &CancellationToken::new());
    let plan = plan_for(lineage, manifest);
    let checked = restorer.check(&plan, options).await?;
    restorer.restore(&plan, options, checked).await
}

pub(crate) async fn restore(
    lineage: &LineageStore,
    manifest: &BackupManifest,
    directory: &Path,
) -> Result<RestoredDirectory> {
    restore_with(lineage, manifest, &options(directory)).await
}

/// A directory to restore into that does not exist yet.
pub(crate) fn target() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("data");
    (scratch, directory)
}
