//! Sealed documents: those that the catalog reads, and those that nothing but a person reads.

use futures::{StreamExt, TryStreamExt, stream};

use super::damage::{Damage, Harm, ObjectKind, fault_of};
use crate::postgres::TimelineId;
use crate::repository::backup::{BackupId, Intent};
use crate::repository::catalog::Catalog;
use crate::repository::layout::LineageLayout;
use crate::repository::{Error, LineageStore, Result, document};
use crate::restore::certificate::Certificate;
use crate::storage::{ObjectKey, ObjectStoreExt as _};

/// Requests under way at once.
const PARALLEL: usize = 16;
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;
/// What stands in a lineage, by the first part of the key.
const KNOWN: [&str; 8] = ["wal", "summaries", "backups", "packs", "maps", "markers", "gaps", "restores"];

/// What is wrong with the documents that the catalog holds.
pub(super) fn of_catalog(layout: &LineageLayout, catalog: &Catalog) -> Vec<Damage> {
    let mut damages = Vec::new();
    for damaged in &catalog.damaged {
        let Ok(key) = ObjectKey::new(&damaged.key) else { continue };
        let (kind, harm) = classify(layout, &key);
        damages.push(Damage::new(&key, kind, damaged.reason.clone()).harming(harm));
    }
    damages.extend(histories(layout, catalog, &damages));
    damages
}

/// What the object is that the catalog could not read, and what is lost with it.
fn classify(layout: &LineageLayout, key: &ObjectKey) -> (ObjectKind, Harm) {
    if *key == layout.lease() {
        return (ObjectKind::Lease, Harm::None);
    }
    if let Some(marker) = layout.parse_marker(key) {
        let kind = if marker.finish { ObjectKind::Finish } else { ObjectKind::Marker };
        return (kind, Harm::Marker(marker));
    }
    if layout.parse_gap(key).is_some() {
        return (ObjectKind::Gap, Harm::None);
    }
    let rest = key.as_str().strip_prefix(layout.root().as_str()).unwrap_or_default();
    match rest.split('/').collect::<Vec<_>>().as_slice() {
        ["backups", id, "manifest.json"] => match id.parse::<BackupId>() {
            Ok(id) => (ObjectKind::Manifest, Harm::Manifest(id)),
            Err(_) => (ObjectKind::Manifest, Harm::None),
        },
        ["wal", tli, file] if file.ends_with(".history.zst") => match TimelineId::from_hex(tli) {
            Ok(tli) => (ObjectKind::History, Harm::History(tli)),
            Err(_) => (ObjectKind::History, Harm::None),
        },
        _ => (ObjectKind::Other, Harm::None),
    }
}

/// History files that are missing, and those that tell another past than that of their parent.
fn histories(layout: &LineageLayout, catalog: &Catalog, known: &[Damage]) -> Vec<Damage> {
    let mut damages = Vec::new();
    for (tli, timeline) in &catalog.timelines {
        let key = layout.history(*tli);
        let Some(path) = &timeline.path else {
            if !known.iter().any(|damage| damage.key == key.as_str()) {
                damages.push(Damage::missing(&key, ObjectKind::History).harming(Harm::History(*tli)));
            }
            continue;
        };
        let parents = path.steps().len().saturating_sub(1);
        let Some(parent) = parents.checked_sub(1).and_then(|at| path.steps().get(at)) else { continue };
        let Ok(parents_path) = catalog.path(parent.tli) else { continue };
        let own = path.steps().iter().take(parents).map(|step| (step.tli, step.begin));
        if !own.eq(parents_path.steps().iter().map(|step| (step.tli, step.begin))) {
            let reason = format!("tells another past than the history of timeline {}, its parent", parent.tli);
            damages.push(Damage::new(&key, ObjectKind::History, reason).harming(Harm::History(*tli)));
        }
    }
    damages
}

/// Documents of which nothing but their seal is looked at: no restore reads them.
const SEALED: [&str; 2] = ["pins", "condemned"];

/// What was found in a look at the documents that the catalog does not hold.
#[derive(Debug, Default)]
pub(super) struct OtherDocuments {
    pub(super) damages: Vec<Damage>,
    pub(super) read: u64,
    /// Objects that this version does not know.
    pub(super) unknown: u64,
}

/// Reads intents, certificates, and documents of kinds that this version does not know.
///
/// # Errors
/// The store fails.
pub(super) async fn others(lineage: &LineageStore, ids: &[BackupId]) -> Result<OtherDocuments> {
    let mut found = OtherDocuments::default();
    let intents = ids.iter().map(|id| async move {
        let key = lineage.layout().intent(id);
        let read = lineage.get::<Intent>(&key).await.map(|intent| (intent.id != *id).then_some(OTHER_BACKUP));
        (key, ObjectKind::Intent, read)
    });
    let mut reads = stream::iter(intents).buffered(PARALLEL);
    while let Some((key, kind, read)) = reads.next().await {
        found.note(&key, kind, read)?;
    }
    certificates(lineage, &mut found).await?;
    unknown(lineage, &mut found).await?;
    Ok(found)
}

const OTHER_BACKUP: &str = "is that of another backup";
const OTHER_RESTORE: &str = "is that of another restore, or of another cluster";

async fn certificates(lineage: &LineageStore, found: &mut OtherDocuments) -> Result<()> {
    let prefix = lineage.layout().restores();
    let mut listed = lineage.store().list(&prefix);
    while let Some(meta) = listed.try_next().await? {
        let read = lineage.get::<Certificate>(&meta.key).await.map(|certificate| {
            let own = lineage.layout().restore(&certificate.restore.to_string()).is_some_and(|key| key == meta.key)
                && certificate.lineage == lineage.lineage().lineage
                && certificate.cluster == lineage.lineage().cluster;
            (!own).then_some(OTHER_RESTORE)
        });
        found.note(&meta.key, ObjectKind::Certificate, read)?;
    }
    Ok(())
}

/// Whatever a newer version keeps beside what is known here: its documents can be told to be whole all the same.
async fn unknown(lineage: &LineageStore, found: &mut OtherDocuments) -> Result<()> {
    for child in lineage.store().list_children(&lineage.layout().root()).await? {
        if KNOWN.contains(&child.name()) {
            continue;
        }
        let mut listed = lineage.store().list(&child);
        while let Some(meta) = listed.try_next().await? {
            found.unknown += u64::from(!SEALED.contains(&child.name()));
            if !meta.key.as_str().ends_with(".json") {
                continue;
            }
            let read = match lineage.store().get_bytes(&meta.key, MAX_DOCUMENT_BYTES).await {
                Ok(bytes) => document::check_seal(&bytes)
                    .map(|_| None)
                    .map_err(|source| Error::Document { key: meta.key.clone(), source }),
                Err(error) => Err(error.into()),
            };
            found.note(&meta.key, ObjectKind::Other, read)?;
        }
    }
    Ok(())
}

impl OtherDocuments {
    fn note(&mut self, key: &ObjectKey, kind: ObjectKind, read: Result<Option<&'static str>>) -> Result<()> {
        self.read += 1;
        match read {
            Ok(None) => {}
            Ok(Some(reason)) => self.damages.push(Damage::new(key, kind, reason)),
            // Nothing needs it; or it was removed since it was listed.
            Err(error) if error.is_not_found() => self.read -= 1,
            Err(error) => self.damages.push(Damage::new(key, kind, fault_of(error)?)),
        }
        Ok(())
    }
}
