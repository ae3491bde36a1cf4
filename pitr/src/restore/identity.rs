//! Whether what was copied is the backup that was planned, before it becomes something that can start.

use std::path::Path;

use super::{Error, Result};
use crate::fs::{self, Action};
use crate::postgres::backup_label::BackupLabel;
use crate::postgres::control_file::ControlFile;
use crate::repository::backup::BackupManifest;

/// Compares the copied `backup_label`, `PG_VERSION` and `pg_control` with the manifest. Blocks.
///
/// Without its label a server would recover from another checkpoint, and without an error.
///
/// # Errors
/// [`Error::Unusable`] for the first that does not fit.
pub(super) fn check(directory: &Path, manifest: &BackupManifest, control_file: &[u8]) -> Result<ControlFile> {
    let unusable = |reason: String| Error::Unusable { backup: manifest.id.clone(), reason };
    let label = read(directory, "backup_label", manifest)?;
    let label = BackupLabel::parse(&label).map_err(|error| unusable(error.to_string()))?;
    let control = ControlFile::parse(control_file).map_err(|error| unusable(error.to_string()))?;
    let version = read(directory, "PG_VERSION", manifest)?;
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    let major = manifest.postgres_version.major().map(|major| major.to_string()).unwrap_or_default();
    let pairs = [
        ("version", version, major),
        ("start position", label.start_lsn().to_string(), manifest.start_lsn.to_string()),
        ("checkpoint", label.checkpoint_lsn().to_string(), manifest.checkpoint_lsn.to_string()),
        ("timeline", label.tli().to_string(), manifest.timeline.to_string()),
        ("system identifier", control.system_identifier.to_string(), manifest.system_identifier.to_string()),
        ("catalog version", control.catalog_version.to_string(), manifest.catalog_version.to_string()),
        (
            "WAL segment size",
            u32::from(control.wal_segment_size).to_string(),
            u32::from(manifest.wal_segment_size).to_string(),
        ),
    ];
    match pairs.into_iter().find(|(_, found, stated)| found != stated) {
        None => Ok(control),
        Some((what, found, stated)) => {
            Err(unusable(format!("its files have the {what} {found}, its manifest says {stated}")))
        }
    }
}

fn read(directory: &Path, name: &str, manifest: &BackupManifest) -> Result<Vec<u8>> {
    let path = directory.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Unusable { backup: manifest.id.clone(), reason: format!("it holds no \"{name}\"") })
        }
        Err(error) => Err(fs::Error::new(Action::Read, path, error).into()),
    }
}
