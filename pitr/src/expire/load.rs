//! Reads what retention has to know. Complete or an error: what cannot be listed fails the whole, and what cannot be read is
//! told, so that nothing is deleted that it may need.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::condemned::{condemnations, damage};
use super::pins::load_pins;
use crate::postgres::TimelineId;
use crate::repository::backup::{BackupId, ContentsHeader, ContentsLine, Intent};
use crate::repository::catalog::DamagedObject;
use crate::repository::wal_store::WalStore;
use crate::repository::{Error, LineageObject, LineageStore, Result, catalog_load};
use crate::restore;
use crate::restore::enveloped_lines::{self, LineSink, json};
use crate::retention::{BackupParts, Holdings, OpenBackup};
use crate::storage::ObjectMeta;

/// Requests under way at once.
const PARALLEL: usize = 8;

/// Of every lineage, in their order.
///
/// # Errors
/// The store fails.
pub async fn load_cluster(lineages: &[LineageStore]) -> Result<Vec<Holdings>> {
    let mut all = Vec::with_capacity(lineages.len());
    for lineage in lineages {
        all.push(load_holdings(lineage).await?);
    }
    Ok(all)
}

/// # Errors
/// The store fails.
pub async fn load_holdings(lineage: &LineageStore) -> Result<Holdings> {
    // Before the catalog: a backup that becomes whole in between is open here, and complete there.
    let listed = Listed::read(lineage).await?;
    let mut catalog = catalog_load::load(lineage).await?;
    let (pins, mut damaged) = load_pins(lineage).await?;
    catalog.damaged.append(&mut damaged);
    let condemned = match condemnations(lineage).await {
        Ok(condemned) => condemned,
        Err(error) => match damage(&error) {
            Some(reason) => {
                let key = lineage.layout().condemnations().to_string();
                catalog.damaged.push(DamagedObject { key, reason });
                Vec::new()
            }
            None => return Err(error),
        },
    };
    let known = catalog.backups.iter().map(|backup| backup.id.clone());
    let with_contents: BTreeSet<BackupId> = listed.contents.keys().cloned().chain(known).collect();
    let (parts, unreadable) = load_parts(lineage, with_contents).await?;
    let complete = |id: &BackupId| listed.manifests.contains(id) || catalog.backup(id).is_some();
    let mut open = Vec::new();
    for (id, since) in listed.intents.iter().filter(|(id, _)| !complete(id)) {
        open.push(open_backup(lineage, id, listed.put_last(id, *since)).await?);
    }
    let wal_stored = wal_stored(lineage, catalog.timelines.keys().copied()).await?;
    Ok(Holdings { catalog, parts, unreadable, open, pins, condemned, wal_stored })
}

/// What stands below `backups/`, with when it was put.
#[derive(Default)]
struct Listed {
    manifests: BTreeSet<BackupId>,
    intents: BTreeMap<BackupId, DateTime<Utc>>,
    contents: BTreeMap<BackupId, DateTime<Utc>>,
    /// The newest record of each.
    progress: BTreeMap<BackupId, DateTime<Utc>>,
}

impl Listed {
    async fn read(lineage: &LineageStore) -> Result<Self> {
        let mut found = Self::default();
        let prefix = lineage.layout().backups();
        let mut listed = lineage.store().list(&prefix);
        while let Some(ObjectMeta { key, modified, .. }) = listed.try_next().await? {
            match lineage.layout().classify(&key) {
                Some(LineageObject::Manifest(id)) => {
                    found.manifests.insert(id);
                }
                Some(LineageObject::Intent(id)) => {
                    found.intents.insert(id, modified);
                }
                Some(LineageObject::Contents(id)) => {
                    found.contents.insert(id, modified);
                }
                Some(LineageObject::Progress { backup, .. }) => {
                    let newest = found.progress.entry(backup).or_insert(modified);
                    *newest = modified.max(*newest);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

impl Listed {
    /// When a backup that has begun put the last object below `backups/`.
    fn put_last(&self, id: &BackupId, begun: DateTime<Utc>) -> DateTime<Utc> {
        [self.contents.get(id), self.progress.get(id)].into_iter().flatten().copied().fold(begun, DateTime::max)
    }
}

/// Takes the lines of contents that name packs and maps.
impl LineSink for BackupParts {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match json(line)? {
            ContentsLine::Pack { id, .. } => self.add_pack(id),
            ContentsLine::Map { hash, .. } => self.add_map(hash),
            ContentsLine::Directory { .. } | ContentsLine::Link { .. } | ContentsLine::External { .. } => {}
        }
        Ok(())
    }
}

async fn load_parts(
    lineage: &LineageStore,
    ids: BTreeSet<BackupId>,
) -> Result<(BTreeMap<BackupId, BackupParts>, BTreeSet<BackupId>)> {
    let reads: Vec<_> = ids
        .into_iter()
        .map(async |id| {
            let key = lineage.layout().contents(&id);
            let read = enveloped_lines::read::<ContentsHeader, _>(lineage.store(), &key, BackupParts::default()).await;
            (id, read)
        })
        .collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL);
    let (mut parts, mut unreadable) = (BTreeMap::new(), BTreeSet::new());
    while let Some((id, read)) = reads.next().await {
        match read {
            Ok((_, named)) => {
                parts.insert(id, named);
            }
            Err(restore::Error::Repository(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(backup_id = %id, %error, "the contents of a backup cannot be read");
                unreadable.insert(id);
            }
        }
    }
    Ok((parts, unreadable))
}

/// A backup is as active as what it put last.
async fn open_backup(lineage: &LineageStore, id: &BackupId, mut active: DateTime<Utc>) -> Result<OpenBackup> {
    let (parent, resumes) = match lineage.get::<Intent>(&lineage.layout().intent(id)).await {
        Ok(intent) => (intent.parent, intent.resumes),
        Err(error) if error.is_not_found() => (None, None),
        // What it shares from is not known: its age alone protects that.
        Err(error) if damage(&error).is_some() => (None, None),
        Err(error) => return Err(error),
    };
    let prefix = lineage.layout().packs(id);
    let mut packs = lineage.store().list(&prefix);
    while let Some(pack) = packs.try_next().await? {
        active = active.max(pack.modified);
    }
    Ok(OpenBackup { id: id.clone(), parent, resumes, active })
}

/// When the newest WAL of each timeline was stored: what stands in its last log.
async fn wal_stored(
    lineage: &LineageStore,
    timelines: impl Iterator<Item = TimelineId>,
) -> Result<BTreeMap<TimelineId, DateTime<Utc>>> {
    let wal = WalStore::new(lineage.clone());
    let mut stored = BTreeMap::new();
    for tli in timelines {
        let Some(last) = wal.logs(tli).await?.pop() else { continue };
        let prefix = lineage.layout().wal_log(tli, last);
        let mut listed = lineage.store().list(&prefix);
        while let Some(meta) = listed.try_next().await.map_err(Error::from)? {
            let newest = stored.entry(tli).or_insert(meta.modified);
            *newest = meta.modified.max(*newest);
        }
    }
    Ok(stored)
}
