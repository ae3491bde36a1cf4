//! The name of a backup, and which earlier ones it may share with.

use chrono::{DateTime, Utc};
use pitr::expire::is_condemned;
use pitr::lookup::InterruptedBackup;
use pitr::repository::backup::{BackupId, Intent};
use pitr::repository::catalog::Catalog;
use pitr::repository::catalog_load::{MarkerScope, load_without_wal};
use pitr::storage::ErrorKind;

use super::error::{BackupError, Result};
use super::incremental::interrupted;
use super::incremental::parent::{self, ParentChoice};
use super::options::BackupOptions;
use super::run::BackupContext;

/// Backups that start within the same second, at most.
const MAX_ORDINAL: u32 = 100;

/// A backup that has a name, and what it may share.
#[derive(Debug)]
pub struct ClaimedBackup {
    pub id: BackupId,
    pub(super) parent: ParentChoice,
    pub(super) interrupted: Option<InterruptedBackup>,
    pub(super) catalog: Catalog,
}

/// Takes the name of a backup that starts now, by writing its intent, which also names its parent and the interrupted backup
/// that it takes up. A `fresh` one has neither.
///
/// # Errors
/// The repository fails.
pub async fn claim(context: &BackupContext, options: &BackupOptions, fresh: bool) -> Result<ClaimedBackup> {
    let (lineage, start_time) = (&context.lineage, context.clock.now());
    let catalog = load_without_wal(lineage, &MarkerScope::None).await?;
    let sealed = context.archive.now().sealed.map(|sealed| sealed.timeline);
    let timeline = sealed.or_else(|| catalog.default_timeline());
    let (mut parent, mut interrupted) = if fresh {
        (ParentChoice::none("it was to share nothing"), None)
    } else {
        let parent = parent::choose(&catalog, timeline, options.fresh_every, start_time);
        let interrupted = interrupted::find(lineage, &catalog, timeline, parent.id(), start_time).await?;
        (parent, interrupted)
    };
    let resumes = interrupted.as_ref().map(|interrupted| interrupted.id.clone());
    let id = write_intent(context, start_time, parent.id(), resumes.as_ref()).await?;
    if let Some(named) = parent.id().cloned()
        && !parent::still_there(lineage, &named).await?
    {
        parent = ParentChoice::none(format!("backup {named} was deleted just now"));
        interrupted = interrupted.filter(|interrupted| interrupted.parent.is_none());
    }
    if let Some(named) = &resumes
        && is_condemned(lineage, named).await?
    {
        interrupted = None;
    }
    Ok(ClaimedBackup { id, parent, interrupted, catalog })
}

async fn write_intent(
    context: &BackupContext,
    start_time: DateTime<Utc>,
    parent: Option<&BackupId>,
    resumes: Option<&BackupId>,
) -> Result<BackupId> {
    let mut ordinal = 1;
    loop {
        let id = BackupId::new(start_time, ordinal);
        let (parent, resumes) = (parent.cloned(), resumes.cloned());
        let intent = Intent { id: id.clone(), parent, resumes, start_time, host: context.host.clone() };
        match context.lineage.create(&context.lineage.layout().intent(&id), &intent).await {
            Ok(_) => return Ok(id),
            Err(pitr::repository::Error::Storage(error))
                if error.kind() == ErrorKind::AlreadyExists && ordinal < MAX_ORDINAL =>
            {
                ordinal += 1;
            }
            Err(pitr::repository::Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(BackupError::NoName { last: id });
            }
            Err(error) => return Err(error.into()),
        }
    }
}
