//! Reads what retention has to know. Complete or an error: what cannot be listed fails the whole, and what cannot be read is
//! told, so that nothing is deleted that it may need.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::condemned::{condemnations, damage};
use super::pins::load_pins;
use crate::postgres::TimelineId;
use crate::repository::backup::{BackupId, ContentsHeader, ContentsLine, FIRST_GENERATION, Intent};
use crate::repository::catalog::DamagedObject;
use crate::repository::wal_store::WalStore;
use crate::repository::{Error, LineageObject, LineageStore, Result, catalog_load};
use crate::restore;
use crate::restore::enveloped_lines::{self, LineSink, json};
use crate::retention::{BackupParts, Holdings, OpenBackup, PackUse, Superseded};
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
    let mut wanted = listed.contents.clone();
    for backup in &catalog.backups {
        wanted.entry(backup.id.clone()).or_insert_with(|| BTreeMap::from([(FIRST_GENERATION, 0)]));
    }
    let LoadedParts { parts, unreadable, superseded } = load_parts(lineage, &wanted).await?;
    let complete = |id: &BackupId| listed.manifests.contains(id) || catalog.backup(id).is_some();
    let mut open = Vec::new();
    for (id, since) in listed.intents.iter().filter(|(id, _)| !complete(id)) {
        open.push(open_backup(lineage, id, listed.put_last(id, *since)).await?);
    }
    let wal_stored = wal_stored(lineage, catalog.timelines.keys().copied()).await?;
    Ok(Holdings { catalog, parts, unreadable, superseded, open, pins, condemned, wal_stored })
}

/// What stands below `backups/`, with when it was put.
#[derive(Default)]
struct Listed {
    manifests: BTreeSet<BackupId>,
    intents: BTreeMap<BackupId, DateTime<Utc>>,
    contents_put: BTreeMap<BackupId, DateTime<Utc>>,
    /// Sizes of all generations.
    contents: BTreeMap<BackupId, Generations>,
    /// When the newest record of each was put.
    progress: BTreeMap<BackupId, DateTime<Utc>>,
}

/// Generations of the contents of one backup, with the sizes of their objects.
type Generations = BTreeMap<u32, u64>;

impl Listed {
    async fn read(lineage: &LineageStore) -> Result<Self> {
        let mut found = Self::default();
        let prefix = lineage.layout().backups();
        let mut listed = lineage.store().list(&prefix);
        while let Some(ObjectMeta { key, modified, size_bytes, .. }) = listed.try_next().await? {
            match lineage.layout().classify(&key) {
                Some(LineageObject::Manifest(id)) => {
                    found.manifests.insert(id);
                }
                Some(LineageObject::Intent(id)) => {
                    found.intents.insert(id, modified);
                }
                Some(LineageObject::Contents { id, generation }) => {
                    let put = found.contents_put.entry(id.clone()).or_insert(modified);
                    *put = modified.max(*put);
                    found.contents.entry(id).or_default().insert(generation, size_bytes);
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
        [self.contents_put.get(id), self.progress.get(id)].into_iter().flatten().copied().fold(begun, DateTime::max)
    }
}

/// Takes the lines of contents that name packs and maps.
impl LineSink for BackupParts {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        match json(line)? {
            ContentsLine::Pack { id, bytes, live_bytes, frame_bytes } => {
                self.add_pack(id, PackUse::new(bytes, live_bytes, frame_bytes));
            }
            ContentsLine::Map { hash, stored_bytes, .. } => self.add_map(hash, stored_bytes),
            ContentsLine::Directory { .. } | ContentsLine::Link { .. } | ContentsLine::External { .. } => {}
        }
        Ok(())
    }
}

/// What the contents of all backups say.
#[derive(Default)]
struct LoadedParts {
    parts: BTreeMap<BackupId, BackupParts>,
    unreadable: BTreeSet<BackupId>,
    superseded: Vec<Superseded>,
}

/// One generation of the contents of a backup.
struct LoadedContents {
    generation: u32,
    /// When it was made, of a later generation.
    time: Option<DateTime<Utc>>,
    /// None where it cannot be read.
    parts: Option<BackupParts>,
}

async fn load_parts(lineage: &LineageStore, wanted: &BTreeMap<BackupId, Generations>) -> Result<LoadedParts> {
    let reads: Vec<_> = wanted
        .iter()
        .map(async |(id, generations)| {
            let mut loaded = Vec::new();
            for (generation, bytes) in generations.iter().rev() {
                loaded.push(load_contents(lineage, id, *generation, *bytes).await?);
            }
            Ok::<_, Error>((id.clone(), loaded))
        })
        .collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL);
    let mut all = LoadedParts::default();
    while let Some((id, loaded)) = reads.try_next().await? {
        all.add(id, loaded);
    }
    Ok(all)
}

impl LoadedParts {
    /// All generations of a backup, newest first.
    fn add(&mut self, id: BackupId, loaded: Vec<LoadedContents>) {
        let mut generations = loaded.into_iter();
        let Some(newest) = generations.next() else { return };
        let Some(parts) = newest.parts else {
            // What it names may be all that the earlier ones name.
            self.unreadable.insert(id);
            return;
        };
        self.parts.insert(id.clone(), parts);
        let mut since = newest.time;
        for older in generations {
            if let Some(since) = since {
                let (backup, generation) = (id.clone(), older.generation);
                self.superseded.push(Superseded { backup, generation, since, parts: older.parts });
            }
            since = older.time.or(since);
        }
    }
}

async fn load_contents(lineage: &LineageStore, id: &BackupId, generation: u32, bytes: u64) -> Result<LoadedContents> {
    let key = lineage.layout().contents_of(id, generation);
    let sink = BackupParts::of_contents(generation, bytes);
    match enveloped_lines::read::<ContentsHeader, _>(lineage.store(), &key, sink).await {
        Ok((header, parts)) if header.id == *id && header.generation() == generation => {
            let time = header.rewritten.map(|rewritten| rewritten.time);
            Ok(LoadedContents { generation, time, parts: Some(parts) })
        }
        Err(restore::Error::Repository(error)) => Err(error),
        read => {
            let error = read.err().map(|error| error.to_string());
            tracing::warn!(object = %key, error, "the contents of a backup cannot be read");
            Ok(LoadedContents { generation, time: None, parts: None })
        }
    }
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
