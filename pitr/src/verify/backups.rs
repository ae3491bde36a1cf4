//! Backups: what their contents name, and whether all of that is there.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use super::damage::{Damage, Harm, ObjectKind};
use super::inventory::{KnownMap, KnownMaps, PackIndex, StoredPacks};
use super::named_contents::{ContentsFault, NamedContents, NamedMap};
use super::packs::PackFaults;
use super::pages::PageFault;
use super::progress::{Observe, Phase, Step};
use super::report::BackupVerdict;
use crate::repository::backup::{BackupManifest, StoredPath};
use crate::repository::hash::ContentHash;
use crate::repository::{LineageStore, Result};
use crate::storage::ObjectKey;

/// Reasons that are kept of one backup.
const MAX_REASONS: usize = 20;

/// A backup and what is known against it.
#[derive(Debug)]
pub(super) struct CheckedBackup<'a> {
    pub(super) manifest: &'a BackupManifest,
    pub(super) faults: Vec<String>,
    pub(super) more_faults: u64,
    /// Something that it names was not found: perhaps it is being removed.
    pub(super) lacks: bool,
    /// Its contents, once they are read.
    contents: Option<ObjectKey>,
}

impl<'a> CheckedBackup<'a> {
    fn new(manifest: &'a BackupManifest) -> Self {
        Self { manifest, faults: Vec::new(), more_faults: 0, lacks: false, contents: None }
    }

    pub(super) fn fault(&mut self, reason: String) {
        if self.faults.contains(&reason) {
        } else if self.faults.len() < MAX_REASONS {
            self.faults.push(reason);
        } else {
            self.more_faults += 1;
        }
    }

    pub(super) fn verdict(self) -> BackupVerdict {
        BackupVerdict {
            id: self.manifest.id.clone(),
            stop_lsn: self.manifest.stop_lsn,
            stop_time: self.manifest.stop_time,
            timeline: self.manifest.timeline,
            faults: self.faults,
            more_faults: self.more_faults,
        }
    }
}

/// Reads the contents of every backup: notes which packs and maps are named, and finds packs that are not as named.
///
/// # Errors
/// The store fails.
pub(super) async fn read_contents<'a>(
    lineage: &LineageStore,
    manifests: &[&'a BackupManifest],
    packs: &mut StoredPacks,
    damages: &mut Vec<Damage>,
    observe: Observe<'_>,
) -> Result<(Vec<CheckedBackup<'a>>, KnownMaps)> {
    let total = manifests.len() as u64;
    let mut maps = KnownMaps::new();
    let mut checked = Vec::new();
    let mut loads = stream::iter(
        manifests.iter().map(|manifest| async { (*manifest, NamedContents::load(lineage, manifest).await) }),
    )
    .buffered(2);
    let mut told = BTreeSet::new();
    while let Some((manifest, loaded)) = loads.next().await {
        let mut backup = CheckedBackup::new(manifest);
        match loaded? {
            Ok(contents) => {
                look_for_packs(lineage, &contents, packs, &mut backup, &mut told, damages);
                contents.maps.iter().for_each(|map| note_map(&mut maps, *map, manifest.data_checksums));
            }
            Err(ContentsFault { key, reason }) => {
                backup.lacks |= reason == "is missing";
                backup.fault(format!("object \"{key}\" {reason}"));
                let damage = Damage::new(&key, ObjectKind::Contents, reason.clone());
                damages.push(Damage { missing: reason == "is missing", ..damage });
            }
        }
        checked.push(backup);
        observe(Step { phase: Phase::Backups, done: checked.len() as u64, total });
    }
    Ok((checked, maps))
}

fn note_map(maps: &mut KnownMaps, named: NamedMap, checksums: bool) {
    let known = maps.entry(named.hash).or_insert(KnownMap { named, checksums, packs: Vec::new(), fault: None });
    known.checksums &= checksums;
}

fn look_for_packs(
    lineage: &LineageStore,
    contents: &NamedContents,
    packs: &mut StoredPacks,
    backup: &mut CheckedBackup<'_>,
    told: &mut BTreeSet<String>,
    damages: &mut Vec<Damage>,
) {
    for named in &contents.packs {
        let key = lineage.layout().pack(&named.id);
        let found = packs.find(&named.id);
        let damage = match found.and_then(|index| packs.get_mut(index)) {
            None => {
                backup.lacks = true;
                Damage::missing(&key, ObjectKind::Pack)
            }
            Some(stored) => {
                stored.named = true;
                if stored.bytes == named.bytes {
                    continue;
                }
                let reason = format!("has {} bytes, backup {} needs {}", stored.bytes, backup.manifest.id, named.bytes);
                Damage::new(&key, ObjectKind::Pack, reason)
            }
        };
        backup.fault(format!("object \"{key}\" {}", damage.reason));
        if told.insert(damage.key.clone()) {
            damages.push(damage);
        }
    }
}

/// What of a map cannot be restored, because of the packs that it names.
#[derive(Clone, Debug, Default)]
pub(super) struct MapHarm {
    pub(super) reasons: Vec<String>,
    pub(super) pages: Vec<(StoredPath, PageFault)>,
}

/// Reads the contents once more, and settles for every backup whether what it names is whole.
///
/// # Errors
/// The store fails.
pub(super) async fn settle(
    lineage: &LineageStore,
    backups: &mut [CheckedBackup<'_>],
    packs: &StoredPacks,
    maps: &KnownMaps,
    faults: &PackFaults,
    damages: &mut Vec<Damage>,
) -> Result<()> {
    let harms = super::extents::harms(lineage, packs, maps, faults).await?;
    for backup in backups {
        let Ok(contents) = NamedContents::load(lineage, backup.manifest).await? else { continue };
        backup.contents.clone_from(&contents.key);
        let mut named: Vec<PackIndex> = contents.packs.iter().filter_map(|pack| packs.find(&pack.id)).collect();
        named.sort_unstable();
        for map in &contents.maps {
            let Some(known) = maps.get(&map.hash) else { continue };
            settle_map(lineage, backup, map, known, &named, packs, damages);
            settle_harm(lineage, backup, &map.hash, harms.get(&map.hash), damages);
        }
    }
    Ok(())
}

fn settle_map(
    lineage: &LineageStore,
    backup: &mut CheckedBackup<'_>,
    map: &NamedMap,
    known: &KnownMap,
    named: &[PackIndex],
    packs: &StoredPacks,
    damages: &mut Vec<Damage>,
) {
    let key = lineage.layout().map(&map.hash);
    if let Some(fault) = &known.fault {
        backup.lacks |= fault == "is missing";
        backup.fault(format!("object \"{key}\" {fault}"));
    }
    // Retention decides by the contents which packs a backup needs.
    if let Some(unnamed) = known.packs.iter().find(|index| named.binary_search(index).is_err())
        && let Some(pack) = packs.id(*unnamed)
    {
        let contents = backup.contents.clone().unwrap_or_else(|| lineage.layout().contents(&backup.manifest.id));
        let reason = format!("does not name pack {pack}, which map {} needs", map.hash);
        backup.fault(format!("object \"{contents}\" {reason}"));
        damages.push(Damage::new(&contents, ObjectKind::Contents, reason));
    }
}

fn settle_harm(
    lineage: &LineageStore,
    backup: &mut CheckedBackup<'_>,
    map: &ContentHash,
    harm: Option<&MapHarm>,
    damages: &mut Vec<Damage>,
) {
    let Some(harm) = harm else { return };
    for reason in &harm.reasons {
        backup.fault(reason.clone());
    }
    for (path, page) in &harm.pages {
        if page.is_excused(path, backup.manifest) {
            continue;
        }
        let pack = lineage.layout().pack(&page.pack);
        let reason = format!("holds block {} of \"{path}\" with a page checksum that does not match", page.block);
        backup.fault(format!("object \"{pack}\" {reason}"));
        let damage = Damage::new(&pack, ObjectKind::Pack, reason).at(Some(page.offset));
        if !damages.contains(&damage) {
            damages.push(damage);
        }
    }
    let _ = map;
}

/// Whether the backups that lack something are still there. One that was removed meanwhile says nothing.
///
/// # Errors
/// The store fails.
pub(super) async fn drop_removed(
    lineage: &LineageStore,
    backups: Vec<CheckedBackup<'_>>,
    damages: &mut Vec<Damage>,
) -> Result<Vec<BackupVerdict>> {
    let mut verdicts = Vec::new();
    let mut removed = Vec::new();
    for backup in backups {
        let key = lineage.layout().manifest(&backup.manifest.id);
        if backup.lacks && crate::storage::ObjectStoreExt::find(lineage.store().as_ref(), &key).await?.is_none() {
            removed.push(backup.verdict());
        } else {
            verdicts.push(backup.verdict());
        }
    }
    let blames = |verdicts: &[BackupVerdict], damage: &Damage| {
        verdicts.iter().any(|verdict| verdict.faults.iter().any(|fault| fault.contains(&damage.key)))
    };
    damages.retain(|damage| damage.harm != Harm::None || !blames(&removed, damage) || blames(&verdicts, damage));
    Ok(verdicts)
}

/// Reads all maps once.
///
/// # Errors
/// The store fails.
pub(super) async fn read_maps(
    lineage: &LineageStore,
    maps: &mut KnownMaps,
    packs: &mut StoredPacks,
    jobs: usize,
    damages: &mut Vec<Damage>,
    observe: Observe<'_>,
) -> Result<()> {
    let named: Vec<NamedMap> = maps.values().map(|map| map.named).collect();
    let total = named.len() as u64;
    let mut loads =
        stream::iter(named.into_iter().map(|map| super::maps::look_at(lineage, map))).buffer_unordered(jobs.max(1));
    let mut done = 0;
    while let Some(looked) = loads.try_next().await? {
        done += 1;
        observe(Step { phase: Phase::Maps, done, total });
        looked.note(lineage, maps, packs, damages);
    }
    Ok(())
}
