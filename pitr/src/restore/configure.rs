//! What makes the copied files a cluster that recovers to the target: settings, signal, tablespaces, and at last the control
//! file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contents::Contents;
use super::destination::PreparedDestination;
use super::execute::{CheckedRestore, major_version};
use super::options::{CompanionFile, RestoreOptions};
use super::settings::{ConfigurationWriter, RecoverySettings};
use super::{Error, Result, identity, owned_file};
use crate::fs::{Action, Directory, Error as FileError, Publish, create_dir_all_durable};
use crate::postgres::control_file::invalidate_checkpoint;
use crate::postgres::tablespace_map::{MappedTablespace, TablespaceMap};
use crate::recovery::{PlanWarning, RestorePlan};

/// Everything that is written after the copy and before the control file.
#[derive(Debug)]
pub(super) struct Configuration {
    plan: RestorePlan,
    contents: Arc<Contents>,
    settings: RecoverySettings,
    companion: Option<CompanionFile>,
    directories_for_replay: Vec<PathBuf>,
}

impl Configuration {
    /// # Errors
    /// The backup is of a version that is not supported.
    pub(super) fn new(plan: &RestorePlan, options: &RestoreOptions, checked: &CheckedRestore) -> Result<Self> {
        Ok(Self {
            settings: recovery_settings(plan, options)?,
            plan: plan.clone(),
            contents: Arc::clone(&checked.contents),
            companion: options.companion.clone(),
            directories_for_replay: checked.tablespaces_in_wal.to_make.clone(),
        })
    }

    /// Proves that the copy is the planned backup, then writes. Returns what a person should know. Blocks.
    ///
    /// # Errors
    /// The files are not those of the backup, or cannot be written.
    pub(super) fn apply(&self, prepared: &PreparedDestination, control_file: &[u8]) -> Result<Vec<String>> {
        identity::check(prepared.data_directory().path(), &self.plan.backup, control_file)?;
        rewrite_tablespace_map(prepared, &self.plan)?;
        let configured = ConfigurationWriter {
            directory: prepared.data_directory(),
            owner: prepared.owner(),
            origin: Path::new(&self.plan.backup.data_directory),
            externals: &self.contents.externals,
            settings: &self.settings,
            minimum: self.plan.settings,
        }
        .write()?;
        if let Some(companion) = &self.companion {
            write_companion(&companion.path, &companion.content, prepared.owner())?;
        }
        for path in &self.directories_for_replay {
            make_tablespace_directory(path, prepared.owner())?;
        }
        Ok(configured.notes)
    }
}

fn recovery_settings(plan: &RestorePlan, options: &RestoreOptions) -> Result<RecoverySettings> {
    Ok(RecoverySettings {
        restore: options.restore.clone(),
        version: major_version(plan)?,
        restore_command: options.restore_command.text(),
        timeline: plan.target.timeline,
        target_lsn: plan.target.lsn,
        action: options.action,
        in_place_tablespaces: plan.backup.tablespaces.iter().any(|tablespace| tablespace.in_place)
            || plan.warnings.iter().any(|warning| matches!(warning, PlanWarning::InPlaceTablespace { .. })),
    })
}

/// The server makes its links from this file, whatever links there are: a tablespace that moved must stand in it.
fn rewrite_tablespace_map(prepared: &PreparedDestination, plan: &RestorePlan) -> Result<()> {
    let unusable = |reason: String| Error::Unusable { backup: plan.backup.id.clone(), reason };
    let path = prepared.data_directory().path_of("tablespace_map");
    let original = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::new(Action::Read, path, error).into()),
    };
    let map = TablespaceMap::parse(&original).map_err(|error| unusable(error.to_string()))?;
    let targets = &prepared.destination().tablespaces;
    let moved = map
        .tablespaces()
        .iter()
        .map(|tablespace| {
            let target = targets.iter().find(|target| target.oid == tablespace.oid).ok_or_else(|| {
                unusable(format!("its manifest lacks the tablespace {}, which its map has", tablespace.oid))
            })?;
            Ok(MappedTablespace { oid: tablespace.oid, path: target.path.clone() })
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = TablespaceMap::new(moved).map_err(|error| unusable(error.to_string()))?.to_bytes();
    if bytes != original {
        let (directory, mode) = (prepared.data_directory(), prepared.file_mode());
        owned_file::publish(directory, "tablespace_map", &bytes, mode, prepared.owner(), Publish::Over)?;
    }
    Ok(())
}

fn write_companion(path: &Path, content: &[u8], owner: Option<(u32, u32)>) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::Settings { reason: format!("\"{}\" cannot be written", path.display()) });
    };
    if !parent.exists() {
        create_dir_all_durable(parent, 0o700)?;
        owned_file::give(&Directory::open(parent)?, owner)?;
    }
    Ok(owned_file::publish(&Directory::open(parent)?, name, content, 0o600, owner, Publish::Over)?)
}

fn make_tablespace_directory(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    create_dir_all_durable(path, 0o700)?;
    Ok(owned_file::give(&Directory::open(path)?, owner)?)
}

/// Makes the directory one that can start. A server there recovers by its `backup_label`, or not at all.
pub(super) fn publish_control_file(prepared: &PreparedDestination, control_file: &[u8]) -> Result<()> {
    // Checked before: it parses, so its checkpoint can be changed.
    let control_file =
        invalidate_checkpoint(control_file).map_err(|error| Error::Internal { reason: error.to_string() })?;
    let global = prepared.data_directory().open_dir("global")?;
    owned_file::publish(&global, "pg_control", &control_file, prepared.file_mode(), prepared.owner(), Publish::New)?;
    Ok(prepared.data_directory().sync()?)
}
