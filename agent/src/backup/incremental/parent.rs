//! Which earlier backup a new one shares pages with.
//!
//! Against deletion: the intent names the parent before anything of it is read. Whoever deletes a backup first says so, then
//! looks for intents that name it; and [`still_there`] is asked after the intent was written. So at least one of both sees
//! the other.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr::expire::is_condemned;
use pitr::postgres::TimelineId;
use pitr::repository::backup::{BackupId, BackupManifest};
use pitr::repository::catalog::Catalog;
use pitr::repository::{LineageStore, Result};
use pitr::storage::ObjectStoreExt;

/// What a backup may share with.
#[derive(Clone, Debug)]
pub enum ParentChoice {
    /// Nothing: it is to store everything, and why.
    None {
        reason: String,
    },
    Backup(Box<BackupManifest>),
}

impl ParentChoice {
    #[must_use]
    pub fn none(reason: impl Into<String>) -> Self {
        Self::None { reason: reason.into() }
    }

    #[must_use]
    pub fn id(&self) -> Option<&BackupId> {
        match self {
            Self::None { .. } => None,
            Self::Backup(manifest) => Some(&manifest.id),
        }
    }
}

/// The backup that shared nothing, from which `manifest` comes.
#[must_use]
pub fn base(manifest: &BackupManifest) -> &BackupId {
    manifest.sharing.base.as_ref().unwrap_or(&manifest.id)
}

/// Picks the newest backup on the way to `timeline`, the live one; where there is none, the newest of all, whose pages are
/// compared. Pure.
#[must_use]
pub fn choose(
    catalog: &Catalog,
    timeline: Option<TimelineId>,
    fresh_every: Option<Duration>,
    now: DateTime<Utc>,
) -> ParentChoice {
    let path = timeline.and_then(|timeline| catalog.path(timeline).ok());
    let by_end = || catalog.backups.iter();
    let on_path = |backup: &&BackupManifest| path.is_some_and(|path| path.contains(backup.timeline, backup.stop_lsn));
    let newest = by_end().filter(on_path).max_by_key(|backup| (backup.stop_lsn, backup.id.clone()));
    let Some(newest) = newest.or_else(|| by_end().max_by_key(|backup| backup.id.clone())) else {
        return ParentChoice::none("it is the first backup of this lineage");
    };
    let base = base(newest);
    let age = now.signed_duration_since(base.time()).to_std().unwrap_or_default();
    match fresh_every {
        Some(limit) if age >= limit => {
            ParentChoice::none(format!("the newest backup that shares nothing, {base}, is older than fresh_every"))
        }
        _ => ParentChoice::Backup(Box::new(newest.clone())),
    }
}

/// Whether the parent may be used, now that an intent names it.
///
/// # Errors
/// The store fails.
pub async fn still_there(lineage: &LineageStore, parent: &BackupId) -> Result<bool> {
    Ok(!is_condemned(lineage, parent).await? && lineage.store().exists(&lineage.layout().manifest(parent)).await?)
}
