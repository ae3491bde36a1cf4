//! Reads a [`Catalog`] from a store.
//!
//! Complete or an error: what the store cannot list or answer fails the whole. Objects that are there and cannot be read are
//! reported as damaged and hide nothing else. The lease is read first and WAL last, so whatever the lease or a manifest says
//! is durable was durable before it was looked for.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::backup::{BackupId, BackupManifest};
use super::catalog::{Catalog, CatalogTimeline, DamagedObject, DurableWal, LsnRange};
use super::document::Document;
use super::error::{Error, Result};
use super::gap::GapNote;
use super::layout::{GapKey, MarkerKey};
use super::lease::Lease;
use super::marker::{Finish, FinishedMarker, Marker};
use super::store::LineageStore;
use super::wal_store::WalStore;
use crate::postgres::history::{TimelineHistory, TimelinePath};
use crate::postgres::{Lsn, TimelineId, WalSegmentSize};
use crate::storage::{ErrorKind, ObjectKey, ObjectStoreExt as _};

/// Requests under way at once.
const PARALLEL_REQUESTS: usize = 16;
/// How often the end of the WAL is listed when it is not there as far as the lease says: an agent that stores a segment and
/// removes its tails can do so in the middle of a listing.
const LISTINGS_OF_THE_END: usize = 4;

/// Which markers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkerScope {
    All,
    /// Those of one name.
    Named(String),
    None,
}

/// Everything: backups, markers, all WAL.
///
/// # Errors
/// The store fails.
pub async fn load(lineage: &LineageStore) -> Result<Catalog> {
    let mut catalog = load_without_wal(lineage, &MarkerScope::All).await?;
    load_wal(lineage, &mut catalog, Lsn::INVALID).await?;
    Ok(catalog)
}

/// All but which WAL is durable: timelines are known, and of each it seems that there is none.
///
/// # Errors
/// The store fails.
pub async fn load_without_wal(lineage: &LineageStore, markers: &MarkerScope) -> Result<Catalog> {
    let mut damaged = Vec::new();
    let lease = readable(read_lease(lineage).await, &mut damaged)?;
    let ((mut backups, incomplete), mut markers, mut timelines, mut gap_notes) = futures::try_join!(
        load_backups(lineage),
        load_markers(lineage, markers),
        load_timelines(lineage),
        load_gap_notes(lineage)
    )?;
    damaged.append(&mut backups.damaged);
    damaged.append(&mut markers.damaged);
    damaged.append(&mut timelines.damaged);
    damaged.append(&mut gap_notes.damaged);
    Ok(Catalog {
        lineage: lineage.lineage().clone(),
        backups: backups.found,
        incomplete,
        damaged,
        timelines: timelines.found.into_iter().collect(),
        markers: markers.found,
        gap_notes: gap_notes.found,
        lease,
        listed_from: Lsn::MAX,
    })
}

/// Lists WAL from the log of `from` on into a catalog that was loaded without.
///
/// # Errors
/// The store fails.
pub async fn load_wal(lineage: &LineageStore, catalog: &mut Catalog, from: Lsn) -> Result<()> {
    let wal = WalStore::new(lineage.clone());
    let size = catalog.segment_size();
    let first_log = size.segment_of(from).name(TimelineId::FIRST, size).log();
    for (tli, timeline) in &mut catalog.timelines {
        let logs = wal.logs(*tli).await?.into_iter().filter(|log| *log >= first_log);
        let listings: Vec<_> = logs.map(|log| list_log(&wal, *tli, log, size)).collect();
        let mut listings = stream::iter(listings).buffered(PARALLEL_REQUESTS);
        timeline.wal = DurableWal::new(size);
        while let Some(log) = listings.try_next().await? {
            timeline.wal.merge(log);
        }
    }
    catalog.listed_from = from;
    list_the_end_again(&wal, catalog).await
}

async fn list_log(wal: &WalStore, tli: TimelineId, log: u32, size: WalSegmentSize) -> Result<DurableWal> {
    let listed = wal.log(tli, log).await?;
    let mut durable = DurableWal::new(size);
    for number in listed.segments.iter().filter_map(|name| name.number(size)) {
        durable.add_segment(number);
    }
    for tail in listed.tails.values().flatten() {
        let Some(number) = tail.segment.number(size) else { continue };
        durable.add_tail(number, LsnRange { from: tail.from, to: tail.to }).map_err(|misplaced| Error::Corrupt {
            key: wal.lineage().layout().tail(tail.segment, tail.from, tail.to),
            reason: misplaced.to_string(),
        })?;
    }
    Ok(durable)
}

/// Looks again at the log in which the sealed WAL ends, while it seems to end before.
async fn list_the_end_again(wal: &WalStore, catalog: &mut Catalog) -> Result<()> {
    let size = catalog.segment_size();
    let Some(sealed) = catalog.lease.as_ref().and_then(|lease| lease.sealed) else { return Ok(()) };
    let segment = size.segment_before(sealed.lsn);
    let Some(timeline) = catalog.timelines.get_mut(&sealed.timeline) else { return Ok(()) };
    for _ in 1..LISTINGS_OF_THE_END {
        if timeline.wal.covered_to(segment) >= sealed.lsn {
            break;
        }
        let log = segment.name(sealed.timeline, size).log();
        timeline.wal.merge(list_log(wal, sealed.timeline, log, size).await?);
    }
    Ok(())
}

/// The lease of this lineage and of no other.
async fn read_lease(lineage: &LineageStore) -> Result<Lease> {
    let key = lineage.layout().lease();
    let lease = lineage.get::<Lease>(&key).await?;
    if lease.is_of(lineage.lineage().lineage) {
        return Ok(lease);
    }
    Err(Error::Corrupt { key, reason: "it is the lease of another lineage".to_owned() })
}

/// What was read, and what could not be.
struct Loaded<T> {
    found: Vec<T>,
    damaged: Vec<DamagedObject>,
}

/// None where there is no object, or a damaged one, which is noted.
fn readable<T>(read: Result<T>, damaged: &mut Vec<DamagedObject>) -> Result<Option<T>> {
    match read {
        Ok(document) => Ok(Some(document)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(Error::Document { key, source }) => {
            damaged.push(DamagedObject { key: key.to_string(), reason: chain(&source) });
            Ok(None)
        }
        Err(Error::Envelope { key, source }) => {
            damaged.push(DamagedObject { key: key.to_string(), reason: chain(&source) });
            Ok(None)
        }
        Err(Error::Corrupt { key, reason }) => {
            damaged.push(DamagedObject { key: key.to_string(), reason });
            Ok(None)
        }
        Err(Error::Storage(error)) if error.kind() == ErrorKind::Corrupt => {
            damaged.push(DamagedObject { key: error.key().to_owned(), reason: error.reason().to_owned() });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn get_all<T: Document + Send>(lineage: &LineageStore, keys: Vec<ObjectKey>) -> Vec<Result<T>> {
    let reads: Vec<_> = keys.into_iter().map(async |key| lineage.get::<T>(&key).await).collect();
    stream::iter(reads).buffered(PARALLEL_REQUESTS).collect().await
}

/// Complete backups by name, damaged ones, and those without a manifest.
async fn load_backups(lineage: &LineageStore) -> Result<(Loaded<BackupManifest>, Vec<BackupId>)> {
    let layout = lineage.layout();
    let children = lineage.store().list_children(&layout.backups()).await?;
    let mut ids: Vec<BackupId> = children.iter().filter_map(|child| child.name().parse().ok()).collect();
    ids.sort();
    let manifests = get_all::<BackupManifest>(lineage, ids.iter().map(|id| layout.manifest(id)).collect()).await;
    let (mut found, mut damaged, mut incomplete) = (Vec::new(), Vec::new(), Vec::new());
    for (id, manifest) in ids.into_iter().zip(manifests) {
        if manifest.as_ref().is_err_and(Error::is_not_found) {
            // Without an intent it is what is left of a backup that was deleted.
            if lineage.store().exists(&layout.intent(&id)).await? {
                incomplete.push(id);
            }
            continue;
        }
        let Some(manifest) = readable(manifest, &mut damaged)? else { continue };
        match contradiction(&manifest, &id, lineage) {
            None => found.push(manifest),
            Some(reason) => {
                damaged.push(DamagedObject { key: layout.manifest(&id).to_string(), reason: reason.to_owned() });
            }
        }
    }
    Ok((Loaded { found, damaged }, incomplete))
}

/// What in a manifest cannot be, though its seal is right.
fn contradiction(manifest: &BackupManifest, id: &BackupId, lineage: &LineageStore) -> Option<&'static str> {
    let lineage = lineage.lineage();
    if manifest.id != *id {
        return Some("it is the manifest of another backup");
    }
    if manifest.system_identifier != lineage.lineage.system_identifier() {
        return Some("it is a backup of another cluster");
    }
    if manifest.wal_segment_size != lineage.wal_segment_size {
        return Some("its segment size is not the lineage's");
    }
    if !manifest.start_lsn.is_valid() || manifest.start_lsn >= manifest.stop_lsn {
        return Some("it ends before it begins");
    }
    if manifest.postgres_version.major().is_none() {
        return Some("it is of a version of PostgreSQL that is not supported");
    }
    None
}

/// Markers by position, each with its finish.
async fn load_markers(lineage: &LineageStore, scope: &MarkerScope) -> Result<Loaded<FinishedMarker>> {
    let wanted = |key: &MarkerKey| match scope {
        MarkerScope::All => true,
        MarkerScope::Named(name) => key.name == *name,
        MarkerScope::None => false,
    };
    let mut loaded = Loaded { found: Vec::new(), damaged: Vec::new() };
    if *scope == MarkerScope::None {
        return Ok(loaded);
    }
    let listed = lineage.list(&lineage.layout().markers()).await?;
    let keys = listed.iter().filter_map(|meta| lineage.layout().parse_marker(&meta.key)).filter(wanted);
    let (finishes, markers): (Vec<MarkerKey>, Vec<MarkerKey>) = keys.partition(|key| key.finish);
    let object_keys = |keys: &[MarkerKey]| keys.iter().map(|key| lineage.layout().marker(key)).collect::<Vec<_>>();
    let mut finish_of: BTreeMap<MarkerKey, Finish> = BTreeMap::new();
    let read_finishes = get_all::<Finish>(lineage, object_keys(&finishes)).await;
    for (key, finish) in finishes.into_iter().zip(read_finishes) {
        let Some(finish) = readable(finish, &mut loaded.damaged)? else { continue };
        if !finish.closes(&key) {
            let reason = "it is the finish of another marker than its name says".to_owned();
            loaded.damaged.push(DamagedObject { key: lineage.layout().marker(&key).to_string(), reason });
            continue;
        }
        finish_of.insert(MarkerKey { finish: false, ..key }, finish);
    }
    let read_markers = get_all::<Marker>(lineage, object_keys(&markers)).await;
    for (key, marker) in markers.into_iter().zip(read_markers) {
        let Some(marker) = readable(marker, &mut loaded.damaged)? else { continue };
        if (marker.timeline, marker.lsn, &marker.name) != (key.tli, key.lsn, &key.name) {
            let reason = "it is another marker than its name says".to_owned();
            loaded.damaged.push(DamagedObject { key: lineage.layout().marker(&key).to_string(), reason });
            continue;
        }
        loaded.found.push(FinishedMarker { marker, finish: finish_of.remove(&key) });
    }
    loaded.found.sort_by_key(|finished| (finished.marker.lsn, finished.marker.timeline));
    Ok(loaded)
}

/// What explains holes, by position.
async fn load_gap_notes(lineage: &LineageStore) -> Result<Loaded<GapNote>> {
    let layout = lineage.layout();
    let listed = lineage.list(&layout.gaps()).await?;
    let mut keys: Vec<GapKey> = listed.iter().filter_map(|meta| layout.parse_gap(&meta.key)).collect();
    keys.sort_unstable();
    let notes = get_all::<GapNote>(lineage, keys.iter().map(|key| layout.gap(key)).collect()).await;
    let mut loaded = Loaded { found: Vec::new(), damaged: Vec::new() };
    for (key, note) in keys.into_iter().zip(notes) {
        let Some(note) = readable(note, &mut loaded.damaged)? else { continue };
        if (note.timeline, note.from_lsn, note.to_lsn) != (key.tli, key.from, key.to) {
            let reason = "it is of another gap than its name says".to_owned();
            loaded.damaged.push(DamagedObject { key: layout.gap(&key).to_string(), reason });
            continue;
        }
        loaded.found.push(note);
    }
    Ok(loaded)
}

/// Each timeline with the way to it.
async fn load_timelines(lineage: &LineageStore) -> Result<Loaded<(TimelineId, CatalogTimeline)>> {
    let wal = WalStore::new(lineage.clone());
    let timelines = wal.timelines().await?;
    let reads: Vec<_> = timelines.into_iter().map(async |tli| (tli, wal.read_history(tli).await)).collect();
    let mut reads = stream::iter(reads).buffered(PARALLEL_REQUESTS);
    let mut loaded = Loaded { found: Vec::new(), damaged: Vec::new() };
    while let Some((tli, read)) = reads.next().await {
        let parsed = read.and_then(|contents| {
            TimelineHistory::parse(tli, &contents)
                .map_err(|error| Error::Corrupt { key: lineage.layout().history(tli), reason: error.to_string() })
        });
        let path = match readable(parsed, &mut loaded.damaged)? {
            Some(history) => Some(TimelinePath::new(&history)),
            None if tli == TimelineId::FIRST => Some(TimelinePath::without_history(tli)),
            None => None,
        };
        loaded.found.push((tli, CatalogTimeline { path, wal: DurableWal::new(lineage.lineage().wal_segment_size) }));
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests;
