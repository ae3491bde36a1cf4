//! Packs: every byte of those that were chosen, each pack once.
//!
//! Packs are taken in groups of which all extents of all maps fit into memory; for each group the maps that concern it are
//! read once more. Maps are a few thousandths of the data, and those of one backup have their packs close together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};

use super::damage::{Damage, ObjectKind, fault_of, internal};
use super::extents;
use super::inventory::{KnownMaps, PackIndex, StoredPacks};
use super::pages::PageFault;
use super::progress::{Observe, Phase, Step};
use super::stored_pack::{ExpectedRun, FoundFault, PackChecker};
use crate::repository::backup::PackId;
use crate::repository::backup::pack::PACK_BYTES;
use crate::repository::{LineageStore, Result};
use crate::storage::ObjectStoreExt as _;

/// Extents in memory: 56 bytes each.
const MAX_EXTENTS: u64 = 400_000;
/// No writer makes larger ones: a pack is closed at [`PACK_BYTES`].
const MAX_PACK_BYTES: u64 = 4 * PACK_BYTES as u64;
/// Faults that are kept; the packs beyond count as damaged as a whole.
const MAX_FAULTS_OF_PACK: usize = 200;

/// How much of a pack a fault concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FaultScope {
    Whole,
    Frame {
        offset: u64,
    },
    /// The bytes are those that the hash says, and the page is not whole.
    Page(PageFault),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackFault {
    pub(super) pack: PackId,
    pub(super) scope: FaultScope,
    pub(super) reason: String,
}

/// What was found wrong, by pack.
#[derive(Debug, Default)]
pub(super) struct PackFaults(BTreeMap<PackIndex, Vec<PackFault>>);

impl PackFaults {
    pub(super) fn concern(&self, pack: PackIndex) -> bool {
        self.0.contains_key(&pack)
    }

    pub(super) fn of(&self, pack: PackIndex) -> &[PackFault] {
        self.0.get(&pack).map(Vec::as_slice).unwrap_or_default()
    }

    fn note(&mut self, index: PackIndex, fault: PackFault) {
        let faults = self.0.entry(index).or_default();
        if faults.len() == MAX_FAULTS_OF_PACK {
            let reason = "is damaged in many places".to_owned();
            *faults = vec![PackFault { scope: FaultScope::Whole, reason, ..fault }];
        } else if !matches!(faults.as_slice(), [PackFault { scope: FaultScope::Whole, .. }]) {
            faults.push(fault);
        }
    }
}

/// Reads the packs that `chosen` names, in order.
///
/// # Errors
/// The store fails.
pub(super) async fn check(
    lineage: &LineageStore,
    packs: &StoredPacks,
    maps: &KnownMaps,
    chosen: &[PackIndex],
    jobs: usize,
    damages: &mut Vec<Damage>,
    observe: Observe<'_>,
) -> Result<(PackFaults, u64)> {
    let bytes_of = |index: &PackIndex| packs.get(*index).map_or(0, |pack| pack.bytes);
    let total = chosen.iter().map(bytes_of).sum();
    let mut done = 0;
    let mut faults = PackFaults::default();
    let checkers = Checkers::default();
    let mut rest = chosen;
    while !rest.is_empty() {
        let (group, after) = rest.split_at(group_length(packs, rest));
        rest = after;
        let mut expected = extents::expected(lineage, packs, maps, group).await?;
        let reads = stream::iter(group).map(|index| {
            let runs = expected.remove(index).unwrap_or_default();
            let id = packs.id(*index);
            let checkers = checkers.clone();
            async move {
                let found = match id {
                    Some(id) => check_pack(lineage, &id, runs, checkers).await?.map(|found| (id, found)),
                    None => None,
                };
                Ok::<_, crate::repository::Error>((*index, found))
            }
        });
        let mut reads = std::pin::pin!(reads.buffer_unordered(jobs.max(1)));
        while let Some((index, found)) = reads.try_next().await? {
            done += bytes_of(&index);
            observe(Step { phase: Phase::Packs, done, total });
            let Some((id, found)) = found else { continue };
            let key = lineage.layout().pack(&id);
            for FoundFault { offset, scope, reason } in found {
                // Whether a page is a damage is told by the backups that need it.
                if !matches!(scope, FaultScope::Page(_)) {
                    damages.push(Damage::new(&key, ObjectKind::Pack, reason.clone()).at(offset));
                }
                faults.note(index, PackFault { pack: id.clone(), scope, reason });
            }
        }
    }
    Ok((faults, done))
}

fn group_length(packs: &StoredPacks, rest: &[PackIndex]) -> usize {
    let mut extents = 0;
    let fitting = rest.iter().take_while(|index| {
        extents += packs.get(**index).map_or(0, |pack| u64::from(pack.extents));
        extents <= MAX_EXTENTS
    });
    fitting.count().max(1)
}

/// One for each thread that checks, made when it is needed.
type Checkers = Arc<Mutex<Vec<PackChecker>>>;

/// None where the pack was removed since it was listed.
async fn check_pack(
    lineage: &LineageStore,
    id: &PackId,
    expected: Vec<ExpectedRun>,
    checkers: Checkers,
) -> Result<Option<Vec<FoundFault>>> {
    let key = lineage.layout().pack(id);
    let whole = |reason| Ok(Some(vec![FoundFault { offset: None, scope: FaultScope::Whole, reason }]));
    let bytes = match lineage.store().get_bytes(&key, MAX_PACK_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return whole(fault_of(error.into())?),
    };
    let id = id.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let kept = checkers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut checker = kept.unwrap_or_else(PackChecker::new);
        let found = checker.check(&id, &bytes, &expected);
        checkers.lock().unwrap_or_else(PoisonError::into_inner).push(checker);
        found
    });
    Ok(Some(checked.await.map_err(|error| internal(&error.to_string()))?))
}
