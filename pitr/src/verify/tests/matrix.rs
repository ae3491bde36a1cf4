//! Every kind of object, damaged in every way: a full verification finds it, or the table here says why nobody needs to;
//! and a restore of the same repository ends in an error or brings what it should.

use std::collections::BTreeSet;

use super::*;
use crate::recovery::{MarkerRef, MarkerSide, PlanRequest, RecoveryTarget};
use crate::repository::backup::BackupId;
use crate::repository::catalog::testing::size;
use crate::repository::document;
use crate::repository::{Repository, WalStore, envelope};
use crate::restore::prepare::prepare;
use crate::restore::testing::snapshot;
use crate::restore::tests::{restore, target};

/// What an object is, by its key alone.
fn kind_of(key: &ObjectKey) -> ObjectKind {
    let key = key.as_str();
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        ["repository.json"] => ObjectKind::Repository,
        [_, _, "lineage.json"] => ObjectKind::Lineage,
        [_, _, "lease"] => ObjectKind::Lease,
        [_, _, "wal", _, _, _, _] => ObjectKind::Tail,
        [_, _, "wal", _, file] if file.ends_with(".history.zst") => ObjectKind::History,
        [_, _, "wal", _, _, file] if file.len() == 24 + 4 => ObjectKind::Segment,
        [_, _, "wal", ..] => ObjectKind::WalFile,
        [_, _, "summaries", ..] => ObjectKind::Summary,
        [_, _, "backups", _, "intent.json"] => ObjectKind::Intent,
        [_, _, "backups", _, file] if file.starts_with("contents.") => ObjectKind::Contents,
        [_, _, "backups", _, "manifest.json"] => ObjectKind::Manifest,
        [_, _, "packs", ..] => ObjectKind::Pack,
        [_, _, "maps", ..] => ObjectKind::Map,
        [_, _, "markers", ..] if key.ends_with(".finish.json") => ObjectKind::Finish,
        [_, _, "markers", ..] => ObjectKind::Marker,
        [_, _, "gaps", ..] => ObjectKind::Gap,
        [_, _, "restores", ..] => ObjectKind::Certificate,
        _ => panic!("{key} is of no kind"),
    }
}

#[derive(Clone, Debug)]
enum Change {
    Flip(usize),
    Cut(usize),
    Delete,
    /// The bytes of another object of the same kind, which gets the bytes of this one.
    Swap(ObjectKey),
    /// An object of the same kind of another cluster.
    OtherCluster(Bytes),
    /// What stood there before.
    Older(Bytes),
}

/// What a full verification has to say of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The object is named as damaged.
    Found,
    /// The repository, or the lineage, cannot be opened: the error names the object.
    CannotBeOpened,
    /// Nothing is damaged; the verification says something about it.
    Told,
    /// Nothing is damaged, for this reason.
    NotNeeded(&'static str),
}

/// The table: every kind, every change.
fn expected(fixture: &Fixture, key: &ObjectKey, own: &Bytes, change: &Change) -> Expected {
    use Change::{Cut, Delete, Flip, Older, OtherCluster, Swap};
    use Expected::{CannotBeOpened, Found, NotNeeded, Told};
    let garbage_pack = key.as_str().contains("/packs/20261122T120130Z/");
    let left_behind = kind_of(key) == ObjectKind::Tail && key.as_str().contains("/wal/00000001/");
    let superfluous = kind_of(key) == ObjectKind::Tail && {
        let segment = size().segment_of(fixture.fork).name(crate::repository::catalog::testing::tli(2), size());
        key.as_str().contains(&format!("{segment}.tail/"))
    };
    match (kind_of(key), change) {
        (_, OtherCluster(other)) if own == other => NotNeeded("it has the same bytes"),
        (ObjectKind::Repository, OtherCluster(_)) => NotNeeded("nothing names the identity of a repository"),
        (ObjectKind::Repository | ObjectKind::Lineage, _) => CannotBeOpened,
        (ObjectKind::Lease, Delete | Older(_)) => Told,
        (ObjectKind::Tail, Delete) if superfluous => NotNeeded("the whole segment is there"),
        (ObjectKind::Tail, Delete) if left_behind => NotNeeded("the end of a timeline that was left is not promised"),
        (ObjectKind::WalFile, Delete) => NotNeeded("no restore needs it"),
        (ObjectKind::Summary, Delete) => Told,
        (ObjectKind::Intent, Delete) => NotNeeded("the manifest says all of it"),
        (ObjectKind::Manifest, Delete) => Told,
        (ObjectKind::Pack, Flip(_) | Cut(_) | Delete | OtherCluster(_)) if garbage_pack => {
            NotNeeded("nothing names it")
        }
        (ObjectKind::Finish, Delete) => NotNeeded("the marker is not finished, and says so"),
        (ObjectKind::Gap, Delete) => NotNeeded("it explains, and nothing follows from it"),
        (ObjectKind::Certificate, Delete) => NotNeeded("a note for people"),
        (_, Flip(_) | Cut(_) | Delete | Swap(_) | OtherCluster(_) | Older(_)) => Found,
    }
}

/// What a flipped bit may leave as it was, to whoever reads the object: zstd has bits that mean nothing.
fn means_the_same(before: &[u8], after: &[u8]) -> bool {
    let content = |bytes: &[u8]| {
        let header = envelope::header_bytes(bytes).ok()?;
        let sealed = document::check_seal(bytes.get(8..header)?).ok()?.to_vec();
        let mut plain = Vec::new();
        let mut rest = bytes.get(header..)?;
        // With the frames where they were: extents name their places.
        while !rest.is_empty() {
            let length = zstd::zstd_safe::find_frame_compressed_size(rest).ok()?;
            let frame = rest.get(..length)?;
            plain.push((
                length,
                if envelope::skippable_bytes(frame).is_some() {
                    frame.to_vec()
                } else {
                    zstd::decode_all(frame).ok()?
                },
            ));
            rest = rest.get(length..)?;
        }
        Some((sealed, plain))
    };
    match (content(before), content(after)) {
        (Some(before), Some(after)) => before == after,
        _ => false,
    }
}

/// What a restore of the whole repository brings.
struct Truth {
    latest: crate::postgres::Lsn,
    after: crate::postgres::Lsn,
    wal: BTreeMap<ObjectKey, Bytes>,
    files: BTreeMap<BackupId, BTreeMap<std::path::PathBuf, String>>,
}

fn restored_files(directory: &std::path::Path) -> BTreeMap<std::path::PathBuf, String> {
    let mut found = snapshot(directory);
    found.retain(|path, _| path.starts_with("base") || path.ends_with("PG_VERSION"));
    found
}

fn targets() -> [(&'static str, RecoveryTarget); 2] {
    let marker = "one".parse::<MarkerRef>().unwrap();
    [("latest", RecoveryTarget::Latest), ("after", RecoveryTarget::Marker { side: MarkerSide::After, marker })]
}

/// Plans and carries out what a restore reads; gives what it brought, or the error.
async fn attempt(fixture: &Fixture, with_files: bool) -> std::result::Result<Truth, String> {
    let text = |error: &dyn std::error::Error| super::super::damage::chain(error);
    let store = fixture.lineage().store();
    let repository = Repository::open(std::sync::Arc::clone(store)).await.map_err(|error| text(&error))?;
    let lineages = repository.lineages(&"main".parse().unwrap()).await.map_err(|error| text(&error))?;
    let lineage = lineages.last().ok_or("there is no such cluster")?;
    let wal = WalStore::new(lineage.clone());
    let mut truth = Truth {
        latest: crate::postgres::Lsn::INVALID,
        after: crate::postgres::Lsn::INVALID,
        wal: BTreeMap::new(),
        files: BTreeMap::new(),
    };
    for (name, wanted) in targets() {
        let plan = prepare(lineage, &PlanRequest::new(wanted), &fixture.archive.clock).await;
        let plan = plan.map_err(|error| text(&error))?;
        match name {
            "latest" => truth.latest = plan.target.end_lsn,
            _ => truth.after = plan.target.end_lsn,
        }
        for run in &plan.wal {
            let (first, last) = (size().segment_of(run.from_lsn), size().segment_before(run.to_lsn));
            for number in first.as_u64()..=last.as_u64() {
                let number = crate::postgres::SegmentNumber::new(number);
                let segment = number.name(run.timeline, size());
                let stored = wal.read_segment(segment).await.map_err(|error| text(&error))?;
                let bytes = stored.ok_or("a segment is not there")?.bytes().clone();
                // Of the last segment only what is replayed counts.
                let end = run.to_lsn.min(size().end_of(number)).distance_from(size().start_of(number)).unwrap();
                let bytes = bytes.get(..end as usize).ok_or("a segment is too short")?.to_vec();
                truth.wal.insert(lineage.layout().segment(segment), bytes.into());
            }
        }
        if with_files {
            let (_scratch, directory) = target();
            restore(lineage, &plan.backup, &directory).await.map_err(|error| text(&error))?;
            truth.files.insert(plan.backup.id.clone(), restored_files(&directory));
        }
    }
    Ok(truth)
}

/// Every segment as far as it is stored.
async fn all_wal(fixture: &Fixture) -> BTreeMap<ObjectKey, Bytes> {
    let (layout, wal) = (fixture.lineage().layout(), &fixture.archive.wal);
    let mut all = BTreeMap::new();
    for tli in wal.timelines().await.unwrap() {
        for number in 0..16 {
            let segment = crate::postgres::SegmentNumber::new(number).name(tli, size());
            if let Some(stored) = wal.read_segment(segment).await.unwrap() {
                all.insert(layout.segment(segment), stored.bytes().clone());
            }
        }
    }
    all
}

/// The files of every backup.
async fn restore_each(fixture: &Fixture, truth: &mut Truth) {
    for manifest in &fixture.backups {
        let (_scratch, directory) = target();
        restore(fixture.lineage(), manifest, &directory).await.unwrap();
        truth.files.insert(manifest.id.clone(), restored_files(&directory));
    }
}

/// Flips spread over the object, and at both of its ends.
fn changes(kind: ObjectKind, bytes: &Bytes) -> Vec<Change> {
    let flips = match kind {
        ObjectKind::Pack => 36,
        ObjectKind::Segment | ObjectKind::Tail | ObjectKind::Map | ObjectKind::Contents => 14,
        _ => 10,
    };
    let step = (bytes.len() / flips).max(1);
    let mut positions: BTreeSet<usize> = (0..bytes.len()).step_by(step).collect();
    positions.extend([bytes.len().saturating_sub(1), bytes.len().saturating_sub(9), 9, 4]);
    let mut changes: Vec<Change> =
        positions.into_iter().filter(|position| *position < bytes.len()).map(Change::Flip).collect();
    changes.extend([0, 1, bytes.len() / 2, bytes.len() - 1].map(Change::Cut));
    changes.push(Change::Delete);
    changes
}

/// An object, its bytes, and what is done to them.
type Cell = (ObjectKey, Bytes, Change);

async fn all_changes(fixture: &Fixture, others: &BTreeMap<ObjectKey, Bytes>) -> Vec<Cell> {
    let all = objects(fixture.lineage().store().as_ref()).await;
    let mut cells = Vec::new();
    for (key, bytes) in &all {
        let kind = kind_of(key);
        let mut own = changes(kind, bytes);
        let same_kind = |other: &&ObjectKey| kind_of(other) == kind;
        own.extend(all.keys().filter(same_kind).filter(|other| *other != key).take(2).cloned().map(Change::Swap));
        let suffix =
            key.as_str().split_once('/').map_or("", |(_, rest)| rest).split_once('/').map_or("", |(_, rest)| rest);
        let foreign = others
            .iter()
            .find(|(other, _)| !suffix.is_empty() && other.as_str().ends_with(suffix))
            .or_else(|| others.iter().find(|(other, _)| kind_of(other) == kind));
        let (_, foreign) = foreign.expect("the other repository has one of every kind");
        own.push(Change::OtherCluster(foreign.clone()));
        if kind == ObjectKind::Lease {
            own.push(Change::Older(document::seal(&fixture.old_lease).into()));
        }
        cells.extend(own.into_iter().map(|change| (key.clone(), bytes.clone(), change)));
    }
    cells
}

async fn apply(store: &dyn ObjectStore, key: &ObjectKey, bytes: &Bytes, change: &Change) -> bool {
    match change {
        Change::Flip(position) => {
            let mut damaged = bytes.to_vec();
            damaged[*position] ^= 1 << (position % 8);
            let same = means_the_same(bytes, &damaged);
            replace(store, key, Some(damaged.into())).await;
            return same;
        }
        Change::Cut(length) => replace(store, key, Some(bytes.slice(..*length))).await,
        Change::Delete => replace(store, key, None).await,
        Change::Swap(other) => {
            let others = store.get_bytes(other, u64::MAX).await.unwrap();
            replace(store, other, Some(bytes.clone())).await;
            replace(store, key, Some(others)).await;
        }
        Change::OtherCluster(other) | Change::Older(other) => replace(store, key, Some(other.clone())).await,
    }
    false
}

/// Runs all cells of the kinds.
async fn run(kinds: &[ObjectKind]) {
    let fixture = Fixture::new().await;
    let store = std::sync::Arc::clone(fixture.lineage().store());
    let others = objects(Fixture::other().await.lineage().store().as_ref()).await;
    let mut truth = attempt(&fixture, true).await.expect("nothing is damaged");
    truth.wal = all_wal(&fixture).await;
    restore_each(&fixture, &mut truth).await;
    assert_eq!((truth.latest, truth.after), (fixture.end, fixture.finish.end));
    let before = objects(store.as_ref()).await;
    let mut cells = 0;
    let mut wrong = Vec::new();
    for (key, bytes, change) in all_changes(&fixture, &others).await {
        if !kinds.contains(&kind_of(&key)) {
            continue;
        }
        cells += 1;
        let same = apply(store.as_ref(), &key, &bytes, &change).await;
        let name = match &change {
            Change::OtherCluster(_) => format!("{key}: that of another cluster"),
            Change::Older(_) => format!("{key}: an older one"),
            change => format!("{key}: {change:?}"),
        };
        let cell = (key, bytes, change);
        wrong.extend(judge(&fixture, &cell, Depth::Full, same, &name).await);
        let (key, bytes, change) = cell;
        wrong.extend(hold_against_truth(&fixture, &key, &change, &truth, &name).await);
        if let Change::Swap(other) = &change {
            replace(store.as_ref(), other, before.get(other).cloned()).await;
        }
        replace(store.as_ref(), &key, Some(bytes)).await;
    }
    assert!(cells >= 10, "{cells}");
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// Of two that were swapped either is at fault; and a tail that is gone is missing in its segment.
fn blames(damage: &Damage, key: &ObjectKey, change: &Change) -> bool {
    let segment = key.as_str().split(".tail/").next().map(|segment| format!("{segment}.zst"));
    match change {
        Change::Swap(other) => damage.key == key.as_str() || damage.key == other.as_str(),
        Change::Delete => damage.key == key.as_str() || (damage.missing && Some(&damage.key) == segment.as_ref()),
        _ => damage.key == key.as_str(),
    }
}

/// What the verification says, against the table.
async fn judge(fixture: &Fixture, cell: &Cell, depth: Depth, same: bool, name: &str) -> Option<String> {
    let (key, bytes, change) = cell;
    let expected = expected(fixture, key, bytes, change);
    let store = std::sync::Arc::clone(fixture.lineage().store());
    let opened = match Repository::open(store).await {
        Ok(repository) => repository.lineages(&"main".parse().unwrap()).await,
        Err(error) => Err(error),
    };
    let lineage = match opened {
        Ok(lineages) if lineages.is_empty() => return Some(format!("{name}: the lineage is gone and nobody says so")),
        Ok(mut lineages) => lineages.remove(0),
        Err(_) if expected == Expected::CannotBeOpened => return None,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    if expected == Expected::CannotBeOpened {
        return (!same).then(|| format!("{name}: opened all the same"));
    }
    let report = verify(&lineage, depth).await;
    let named = report.damages.iter().any(|damage| blames(damage, key, change));
    let told = format!(
        "{:?} {:?} {:?}",
        report.notes,
        report.incomplete,
        report.summaries.iter().map(|t| &t.missing).collect::<Vec<_>>()
    );
    match expected {
        Expected::Found if named || same => None,
        Expected::Found => Some(format!("{name}: not found; {:?} {told}", report.damages)),
        Expected::Told => {
            let id = key.as_str().split('/').nth(3).unwrap_or("-");
            let says = !report.notes.is_empty()
                || report.incomplete.iter().any(|incomplete| incomplete.to_string() == id)
                || report.summaries.iter().any(|timeline| !timeline.missing.is_empty());
            (!report.is_whole() || !says).then(|| format!("{name}: {:?} {told}", report.damages))
        }
        Expected::NotNeeded(why) => {
            (!report.is_whole()).then(|| format!("{name}: told as damage, though {why}: {:?}", report.damages))
        }
        Expected::CannotBeOpened => None,
    }
}

/// What a restore brings, against what it should.
async fn hold_against_truth(
    fixture: &Fixture,
    key: &ObjectKey,
    change: &Change,
    truth: &Truth,
    name: &str,
) -> Option<String> {
    let with_files =
        matches!(kind_of(key), ObjectKind::Contents | ObjectKind::Manifest | ObjectKind::Pack | ObjectKind::Map);
    let Ok(found) = attempt(fixture, with_files).await else { return None };
    // The end of the timeline that was live then: nothing tells a lease that is old from one that is true.
    let latest = if matches!(change, Change::Older(_)) { found.latest } else { truth.latest };
    if (found.latest, found.after) != (latest, truth.after) {
        return Some(format!("{name}: a restore ends at {} and {}", found.latest, found.after));
    }
    let is_own = |segment: &ObjectKey, bytes: &Bytes| truth.wal.get(segment).is_some_and(|own| own.starts_with(bytes));
    if let Some((segment, _)) = found.wal.iter().find(|(segment, bytes)| !is_own(segment, bytes)) {
        return Some(format!("{name}: a restore gets other bytes of {segment}"));
    }
    let files = found.files.iter().find(|(id, files)| truth.files.get(*id) != Some(files));
    files.map(|(id, _)| format!("{name}: a restore of {id} brings other files"))
}

macro_rules! matrix {
    ($($name:ident: $($kind:ident),+;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                run(&[$(ObjectKind::$kind),+]).await;
            }
        )+
    };
}

matrix! {
    damage_to_repository_and_lineage: Repository, Lineage, Lease;
    damage_to_segments: Segment;
    damage_to_tails: Tail;
    damage_to_histories_and_archived_files: History, WalFile;
    damage_to_summaries: Summary;
    damage_to_intents_and_contents: Intent, Contents;
    damage_to_manifests: Manifest;
    damage_to_packs: Pack;
    damage_to_maps: Map;
    damage_to_markers: Marker, Finish;
    damage_to_gaps_and_certificates: Gap, Certificate;
}

/// Whether a verification that reads no pack and no WAL can see the change: what is gone, what is shorter,
/// and damage to what it reads.
fn is_for_fast(key: &ObjectKey, change: &Change) -> bool {
    use ObjectKind::{Marker, Pack, Segment, Summary, Tail, WalFile};
    match (kind_of(key), change) {
        // That there was one only the WAL tells.
        (Marker, Change::Delete) => false,
        (_, Change::Delete) => true,
        // Only what is inside of a WAL object says how long it has to be.
        (Segment | Tail | Summary | WalFile, _) => false,
        (_, Change::Cut(_)) => true,
        (Pack, _) => false,
        (_, Change::Flip(_)) => true,
        (_, Change::Swap(_) | Change::OtherCluster(_) | Change::Older(_)) => false,
    }
}

#[tokio::test]
async fn a_fast_verification_finds_what_is_gone_or_short_and_damage_to_what_it_reads() {
    let fixture = Fixture::new().await;
    let store = std::sync::Arc::clone(fixture.lineage().store());
    let others = objects(Fixture::other().await.lineage().store().as_ref()).await;
    let (mut cells, mut wrong) = (0, Vec::new());
    for (key, bytes, change) in all_changes(&fixture, &others).await {
        if !is_for_fast(&key, &change) {
            continue;
        }
        cells += 1;
        let same = apply(store.as_ref(), &key, &bytes, &change).await;
        let name = format!("{key}: {change:?}");
        let cell = (key, bytes, change);
        wrong.extend(judge(&fixture, &cell, Depth::Fast, same, &name).await);
        replace(store.as_ref(), &cell.0, Some(cell.1)).await;
    }
    assert!(cells > 300, "{cells}");
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong.join("\n"));
}
