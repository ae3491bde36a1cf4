//! What a backup takes over from earlier ones, and how it found out what changed since.

use std::collections::BTreeMap;
use std::sync::Arc;

use pitr::lookup::{BackupFiles, InterruptedFiles};
use pitr::postgres::ControlFile;
use pitr::repository::LineageStore;
use pitr::repository::backup::{BackupId, CopyMethod, CorruptPage, PackId, Resumed, Sharing};
use pitr::restore;
use tracing::{error, info, warn};

use super::claim::ClaimedBackup;
use super::copy::CopyError;
use super::error::{BackupError, Result};
use super::incremental::cursor::{Parent, ParentFiles};
use super::incremental::method::{Origin, Since};
use super::incremental::parent::{self, ParentChoice};
use super::session::StartedBackup;

/// What earlier backups have.
#[derive(Debug)]
pub struct EarlierFiles {
    /// Of the parent; as an error in words, why there is nothing to share.
    complete: std::result::Result<Arc<BackupFiles>, String>,
    interrupted: Option<Arc<InterruptedFiles>>,
}

impl EarlierFiles {
    /// Of what is damaged nothing is shared.
    ///
    /// # Errors
    /// The repository fails.
    pub async fn load(lineage: &LineageStore, claimed: &ClaimedBackup) -> Result<Self> {
        let interrupted = async {
            let Some(backup) = &claimed.interrupted else { return Ok(None) };
            match InterruptedFiles::load(lineage, backup).await {
                Ok(files) => Ok(Some(Arc::new(files))),
                Err(restore::Error::Damaged { object, reason }) => {
                    warn!(interrupted = %backup.id, object, reason, "an interrupted backup cannot be taken up");
                    Ok(None)
                }
                Err(error) => Err(BackupError::from(CopyError::Parent(error))),
            }
        };
        let (complete, interrupted) = tokio::try_join!(complete_files(lineage, &claimed.parent), interrupted)?;
        Ok(Self { complete, interrupted })
    }
}

async fn complete_files(
    lineage: &LineageStore,
    parent: &ParentChoice,
) -> Result<std::result::Result<Arc<BackupFiles>, String>> {
    let manifest = match parent {
        ParentChoice::None { reason } => return Ok(Err(reason.clone())),
        ParentChoice::Backup(manifest) => manifest,
    };
    match BackupFiles::load(lineage, manifest).await {
        Ok(files) => Ok(Ok(Arc::new(files))),
        Err(restore::Error::Damaged { object, reason }) => {
            error!(object, reason, "an earlier backup is damaged: nothing of it is shared");
            Ok(Err(format!("backup {} is damaged: {object} {reason}", manifest.id)))
        }
        Err(error) => Err(CopyError::Parent(error).into()),
    }
}

/// What a backup takes over, and how it found out.
#[derive(Debug)]
pub struct Shared {
    /// That which was interrupted comes first.
    pub parents: Vec<Parent>,
    pub sharing: Sharing,
}

impl Shared {
    /// How the pages that changed are found. `since` knows all but the parent.
    ///
    /// # Errors
    /// The repository fails.
    pub async fn find(
        files: EarlierFiles,
        choice: &ParentChoice,
        started: &StartedBackup,
        control: &ControlFile,
        since: Since<'_>,
    ) -> Result<Self> {
        let mut shared = Self { parents: Vec::new(), sharing: Sharing::default() };
        let mut origins = Vec::new();
        if let Some(files) = files.interrupted.filter(|files| is_of_this_server(files, started, control)) {
            origins.push(Origin::interrupted(&files.header, &files.corrupt_pages));
            shared.parents.push(Parent { files: ParentFiles::Interrupted(files), changes: None });
        }
        match (files.complete, choice) {
            (Ok(files), ParentChoice::Backup(manifest)) => {
                origins.push(Origin::from(&**manifest));
                shared.parents.push(Parent { files: ParentFiles::Complete(files), changes: None });
                shared.sharing.base = Some(parent::base(manifest).clone());
            }
            (Err(reason), _) if shared.parents.is_empty() => shared.sharing.reason = Some(reason),
            _ => {}
        }
        if shared.parents.is_empty() {
            return Ok(shared);
        }
        shared.sharing.method = CopyMethod::Summaries;
        let share = shared.parents.len();
        for (parent, origin) in shared.parents.iter_mut().zip(&origins) {
            match since.changes(origin, share).await? {
                Ok(changes) => parent.changes = Some(Arc::new(changes)),
                Err(reason) => {
                    shared.sharing.method = CopyMethod::Scan;
                    shared.sharing.reason.get_or_insert(reason);
                }
            }
        }
        Ok(shared)
    }

    /// Begins anew, where it is an earlier backup or what is known of it that was of no use.
    ///
    /// # Errors
    /// It was something else.
    pub fn fall_back(&mut self, backup_id: &BackupId, failure: CopyError) -> Result<()> {
        match failure {
            CopyError::Unlike { path, block } => {
                error!(
                    %backup_id, %path, block,
                    "a page has changed that the WAL summaries call unchanged: everything is compared now"
                );
                self.parents.iter_mut().for_each(|parent| parent.changes = None);
                self.sharing.method = CopyMethod::Scan;
                self.sharing.reason = Some(format!("block {block} of {path} had changed without a word in the WAL"));
                self.sharing.unlike = Some(CorruptPage { path, block });
            }
            CopyError::Parent(restore::Error::Damaged { object, reason })
                if self.parents.len() > 1 && self.interrupted().is_some() =>
            {
                error!(%backup_id, object, reason, "an earlier backup is damaged: nothing of an interrupted one is shared");
                self.parents.retain(|parent| !parent.is_interrupted());
            }
            CopyError::Parent(restore::Error::Damaged { object, reason }) if !self.parents.is_empty() => {
                error!(%backup_id, object, reason, "an earlier backup is damaged: nothing of it is shared");
                self.parents.clear();
                self.sharing.method = CopyMethod::Whole;
                self.sharing.reason = Some(format!("the parent is damaged: {object} {reason}"));
                self.sharing.base = None;
            }
            failure => return Err(failure.into()),
        }
        Ok(())
    }

    /// The interrupted backup that is taken up.
    #[must_use]
    pub fn interrupted(&self) -> Option<&InterruptedFiles> {
        self.parents.iter().find_map(|parent| match &parent.files {
            ParentFiles::Interrupted(files) => Some(&**files),
            ParentFiles::Complete(_) => None,
        })
    }

    #[must_use]
    pub fn has_complete(&self) -> bool {
        self.parents.iter().any(|parent| !parent.is_interrupted())
    }

    /// All packs of other backups that may be named, and their sizes.
    #[must_use]
    pub fn packs(&self) -> BTreeMap<PackId, u64> {
        self.parents.iter().flat_map(|parent| parent.packs().clone()).collect()
    }

    /// What is taken over from the interrupted backup that is not the parent's, by how much of each pack is needed.
    #[must_use]
    pub fn resumed<'a>(&self, own: &BackupId, live: impl Iterator<Item = (&'a PackId, &'a u64)>) -> Option<Resumed> {
        let id = self.interrupted()?.header.id.clone();
        let complete = || self.parents.iter().filter(|parent| !parent.is_interrupted());
        let bytes = live
            .filter(|(pack, _)| pack.backup != *own && !complete().any(|parent| parent.packs().contains_key(*pack)))
            .map(|(_, bytes)| bytes)
            .sum();
        Some(Resumed { id, bytes })
    }
}

/// On another timeline, or beyond where this backup begins, nothing says that it is of the same past.
fn is_of_this_server(files: &InterruptedFiles, started: &StartedBackup, control: &ControlFile) -> bool {
    let header = &files.header;
    let same = header.timeline == control.tli && header.end_lsn <= started.start_lsn;
    if same {
        info!(
            interrupted = %header.id,
            recorded_bytes = header.file_bytes,
            start_lsn = %header.start_lsn,
            "an interrupted backup is taken up"
        );
    } else {
        warn!(interrupted = %header.id, "an interrupted backup is of another past, and is not taken up");
    }
    same
}
