//! Mostly dead packs are rewritten: what is needed of them goes into new packs, and every backup that names one gets new
//! maps and a new generation of its contents.
//!
//! ```text
//! maps ─▶ live frames ─▶ new packs ─▶ new maps ─▶ contents, backup by backup … time of grace … old contents, maps, packs
//! ```
//! Everything is complete before something names it, and what was there stays until its time of grace is over. So whoever
//! reads the old generation goes on, and a crash leaves backups of the old generation, backups of the new one, and at worst
//! packs and maps that nothing names.

mod contents;
mod frames;
mod live;
mod maps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub(super) use contents::NewContents;
pub(super) use frames::Moved;
pub(super) use live::LiveFrames;
pub(super) use maps::NewMaps;

use super::Expiry;
use super::error::{ExpireError, Result};
use crate::repository::LineageStore;
use crate::repository::backup::{BackupManifest, PackId};
use crate::restore;
use crate::retention::LineagePlan;
use crate::storage::ObjectStoreExt as _;

/// What was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewrittenPacks {
    /// Packs of which nothing is needed any more, and the sizes of their objects.
    pub packs: u64,
    pub bytes: u64,
    /// What was copied out of them.
    pub copied_bytes: u64,
    /// Backups with a new generation of contents.
    pub backups: u64,
}

impl Expiry<'_> {
    /// Rewrites what `planned` says. Where something that is needed for it is damaged nothing is done: verification tells
    /// of it.
    pub(super) async fn rewrite(&self, lineage: &LineageStore, planned: &LineagePlan) -> Result<RewrittenPacks> {
        if planned.rewrite.is_empty() {
            return Ok(RewrittenPacks::default());
        }
        match self.rewrite_packs(lineage, planned).await {
            Err(Failure::Expire(error)) if error.is_full() => {
                tracing::warn!("the repository is full: mostly dead packs are not rewritten");
                Ok(RewrittenPacks::default())
            }
            Err(Failure::Expire(error)) => Err(error),
            Err(Failure::Unusable(reason)) => {
                tracing::warn!(reason, "mostly dead packs are not rewritten");
                Ok(RewrittenPacks::default())
            }
            Ok(done) => Ok(done),
        }
    }

    async fn rewrite_packs(&self, lineage: &LineageStore, planned: &LineagePlan) -> Attempt<RewrittenPacks> {
        let plan = &planned.rewrite;
        let backups: Vec<&BackupManifest> = plan.backups.iter().filter_map(|id| planned.after.backup(id)).collect();
        let Some(owner) = backups.first() else { return Ok(RewrittenPacks::default()) };
        let mut live = LiveFrames::of(&plan.packs);
        for backup in &backups {
            live.read(self, lineage, backup).await?;
        }
        let moved = Moved::copy(self, lineage, &owner.id, live.settle()).await?;
        if moved.is_empty() {
            return Ok(RewrittenPacks::default());
        }
        let mut done = RewrittenPacks { copied_bytes: moved.copied_bytes(), ..RewrittenPacks::default() };
        let mut maps = NewMaps::default();
        for backup in &backups {
            self.may_write(lineage).await?;
            if NewContents::put(self, lineage, backup, &moved, &mut maps).await? {
                done.backups += 1;
            }
        }
        let sizes: BTreeMap<&PackId, u64> = plan.packs.iter().map(|pack| (&pack.id, pack.bytes)).collect();
        for pack in moved.old_packs() {
            done.packs += 1;
            done.bytes += sizes.get(pack).copied().unwrap_or_default();
        }
        Ok(done)
    }

    async fn is_stored(lineage: &LineageStore, pack: &PackId, bytes: u64) -> Attempt<()> {
        let found = lineage.store().find(&lineage.layout().pack(pack)).await?;
        match found {
            Some(meta) if meta.size_bytes == bytes => Ok(()),
            _ => Err(Failure::Unusable(format!("pack {pack} was stored and is not there"))),
        }
    }
}

/// Why packs were not rewritten.
#[derive(Debug)]
pub(super) enum Failure {
    Expire(ExpireError),
    /// What was read cannot be used.
    Unusable(String),
}

pub(super) type Attempt<T> = std::result::Result<T, Failure>;

impl From<ExpireError> for Failure {
    fn from(error: ExpireError) -> Self {
        Self::Expire(error)
    }
}

impl From<crate::storage::Error> for Failure {
    fn from(error: crate::storage::Error) -> Self {
        Self::Expire(error.into())
    }
}

impl From<restore::Error> for Failure {
    fn from(error: restore::Error) -> Self {
        match error {
            restore::Error::Repository(error) => Self::Expire(error.into()),
            error => Self::Unusable(error.to_string()),
        }
    }
}

impl From<crate::codec::Error> for Failure {
    fn from(error: crate::codec::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}
