//! Retention on a store that fails, and beside backups that run.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;
use chrono_tz::Tz;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::postgres::{Lsn, SystemIdentifier};
use crate::recovery::{MarkerRef, MarkerSide, PlanRequest, RecoveryTarget};
use crate::repository::backup::{BackupId, BackupManifest, ContentsHeader, ContentsLine, Intent, PackId};
use crate::repository::catalog::testing::{at, lease};
use crate::repository::hash::ContentHash;
use crate::repository::layout::SummaryKey;
use crate::repository::lineage::LineageId;
use crate::repository::pin::PinSubject;
use crate::repository::{LineageObject, LineageStore, Repository};
use crate::restore::prepare::prepare;
use crate::restore::prepare::testing::{Archive, History};
use crate::restore::testing::enveloped;
use crate::retention::{Order, Policy};
use crate::storage::fault::{Fault, FaultRule};
use crate::storage::{ErrorKind, KeyPrefix, ObjectStore, ObjectStoreExt as _, Operation};

const DAY: i64 = 86_400;

/// A cluster with a backup a day, WAL between them, packs and maps that are shared, and a marker.
struct Cluster {
    archive: Archive,
    backups: Vec<BackupManifest>,
    marker: Lsn,
    end: Lsn,
}

fn hash(number: u8) -> ContentHash {
    ContentHash::of(&[number])
}

impl Cluster {
    /// Backup n names its own pack 0, pack 0 of the one before, a map of its own and the map of them all.
    async fn new(days: u8) -> Self {
        let archive = Archive::new().await;
        let mut history = History::new();
        let mut backups: Vec<BackupManifest> = Vec::new();
        let mut marker = None;
        for day in 0..days {
            let second = i64::from(day) * DAY;
            let mut manifest = history.backup(second);
            manifest.parent = backups.last().map(|backup| backup.id.clone());
            archive.put_parts(&mut manifest, backups.last(), day).await;
            archive.put_intent(&manifest.id, manifest.parent.clone()).await;
            archive.put_backup(&manifest).await;
            backups.push(manifest);
            if day == 1 {
                history.fill(1);
                marker = Some(history.wal.restore_point("release-1", at(second + 600)));
            }
            history.fill(2);
            history.commit(second + 1200);
        }
        archive.put_wal(1, 0, &history.wal).await;
        archive.put_marker(1, "release-1", marker.unwrap(), at(DAY + 600)).await;
        archive.summarize().await;
        let end = history.wal.position();
        archive.put_lease(&lease(1, end.as_u64(), i64::from(days) * DAY)).await;
        archive.clock.advance(TimeDelta::days(i64::from(days) - 1));
        Self { archive, backups, marker: marker.unwrap().start, end }
    }

    fn lineage(&self) -> &LineageStore {
        &self.archive.lineage
    }

    async fn keys(&self) -> BTreeSet<String> {
        let listed: Vec<_> = self.archive.faults.list(&KeyPrefix::root()).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.key.to_string()).collect()
    }

    async fn has(&self, object: &str) -> bool {
        self.keys().await.iter().any(|key| key.contains(object))
    }

    async fn plans(&self, target: RecoveryTarget) -> bool {
        prepare(self.lineage(), &PlanRequest::new(target), &self.archive.clock).await.is_ok()
    }

    /// A backup is whole: its WAL, its contents and everything that it names.
    async fn is_whole(&self, backup: &BackupManifest) -> bool {
        let mut request = PlanRequest::new(RecoveryTarget::Immediate);
        request.backup = Some(backup.id.clone());
        let planned = prepare(self.lineage(), &request, &self.archive.clock).await;
        let held = load_holdings(self.lineage()).await.unwrap();
        let Some(parts) = held.parts.get(&backup.id) else { return false };
        let layout = self.lineage().layout();
        let keys = self.keys().await;
        planned.is_ok()
            && parts.packs().all(|pack| keys.contains(layout.pack(&pack).as_str()))
            && parts.maps().all(|map| keys.contains(layout.map(map).as_str()))
    }

    /// A day and a half, and the marker.
    fn order() -> Order {
        Order::Policy(Policy {
            window: Some(TimeDelta::hours(36)),
            daily: 0,
            weekly: 0,
            monthly: 0,
            markers: Some(TimeDelta::days(30)),
            minimum: 1,
            grace: TimeDelta::hours(12),
            zone: Tz::UTC,
        })
    }

    async fn expire(&self, order: &Order) -> Result<Expired> {
        let lineages = [self.lineage().clone()];
        run(&lineages, self.lineage(), order, &self.archive.clock).await
    }
}

async fn run(lineages: &[LineageStore], own: &LineageStore, order: &Order, clock: &ManualClock) -> Result<Expired> {
    let cancel = CancellationToken::new();
    let own = own.lineage().lineage;
    Expiry { lineages, order, clock, who: "db1/1", own, holder: "a", sweep: true, cancel: &cancel }.run().await
}

impl Archive {
    async fn put_intent(&self, id: &BackupId, parent: Option<BackupId>) {
        self.put_intent_that(id, parent, None).await;
    }

    async fn put_intent_that(&self, id: &BackupId, parent: Option<BackupId>, resumes: Option<BackupId>) {
        let intent = Intent { id: id.clone(), parent, resumes, start_time: id.time(), host: "db1".to_owned() };
        self.lineage.create(&self.lineage.layout().intent(id), &intent).await.unwrap();
    }

    async fn put_parts(&self, manifest: &mut BackupManifest, before: Option<&BackupManifest>, number: u8) {
        let (store, layout) = (self.lineage.store(), self.lineage.layout());
        let own = PackId { backup: manifest.id.clone(), number: 0 };
        store.create_bytes(&layout.pack(&own), "pack").await.unwrap();
        for map in [0, number + 1] {
            store.create_or_match(&layout.map(&hash(map)), "map").await.unwrap();
        }
        let before = before.map(|before| PackId { backup: before.id.clone(), number: 0 });
        let packs = before.into_iter().chain([own]).map(|id| ContentsLine::Pack { id, bytes: 4, live_bytes: 4 });
        let maps = [0, number + 1].map(|map| ContentsLine::Map {
            hash: hash(map),
            files: 0,
            plain_bytes: 0,
            stored_bytes: 3,
            first: None,
        });
        let mut lines = Vec::new();
        for line in packs.chain(maps) {
            lines.extend(serde_json::to_vec(&line).unwrap());
            lines.push(b'\n');
        }
        let blake3 = ContentHash::of(&lines);
        let header = ContentsHeader { id: manifest.id.clone(), bytes: lines.len() as u64, blake3 };
        store.create_bytes(&layout.contents(&manifest.id), enveloped(&header, &lines)).await.unwrap();
        manifest.contents = blake3;
    }
}

fn before_marker() -> RecoveryTarget {
    let marker = MarkerRef { name: "release-1".to_owned(), lsn: None };
    RecoveryTarget::Marker { side: MarkerSide::Before, marker }
}

/// What must be true whatever happened in between.
async fn check_kept(cluster: &Cluster, context: &str) {
    // Of days 0 to 5: in the window, at its beginning, before the marker.
    for day in [1, 4, 5] {
        assert!(cluster.is_whole(&cluster.backups[day]).await, "{context}: backup of day {day}");
    }
    assert!(cluster.plans(before_marker()).await, "{context}: marker");
    assert!(cluster.plans(RecoveryTarget::Latest).await, "{context}: latest");
    for hours in 0..36 {
        let time = cluster.archive.clock.now() - TimeDelta::hours(hours);
        if time > at(4 * DAY) && time < at(5 * DAY + 1200) {
            assert!(cluster.plans(RecoveryTarget::Time { time }).await, "{context}: {time}");
        }
    }
}

/// Objects are as old as the clock of the store says: now. So the clock of the test runs ahead.
async fn check_gone(cluster: &Cluster, context: &str) {
    for day in [0, 2, 3] {
        let id = &cluster.backups[day].id;
        for object in [format!("backups/{id}/"), format!("maps/{}", hash(u8::try_from(day).unwrap() + 1))] {
            assert!(!cluster.has(&object).await, "{context}: {object} is there");
        }
    }
    // Packs of days 0 and 3 are needed by the days behind them.
    assert!(!cluster.has("condemned/").await, "{context}: condemnations are left");
    let left = load_holdings(cluster.lineage()).await.unwrap();
    let told: Vec<_> = left.catalog.gaps().into_iter().filter(|gap| !gap.expired).collect();
    assert_eq!(told, [], "{context}");
}

async fn expire_twice(cluster: &Cluster) {
    cluster.expire(&Cluster::order()).await.unwrap();
    cluster.archive.clock.advance(TimeDelta::hours(13));
    cluster.expire(&longer_window()).await.unwrap();
    cluster.archive.clock.advance(TimeDelta::hours(-13));
}

/// The same rules as seen 13 hours later.
fn longer_window() -> Order {
    let Order::Policy(policy) = Cluster::order() else { unreachable!("it is a policy") };
    Order::Policy(Policy { window: policy.window.map(|window| window + TimeDelta::hours(13)), ..policy })
}

#[tokio::test]
async fn what_no_rule_keeps_goes_in_two_steps() {
    let cluster = Cluster::new(6).await;
    let begun = cluster.archive.clock.now();
    let first = cluster.expire(&Cluster::order()).await.unwrap();
    let gone = &first.lineages[&cluster.lineage().lineage().lineage].backups;
    assert_eq!(*gone, [0, 2, 3].map(|day: usize| cluster.backups[day].id.clone()));
    check_kept(&cluster, "after the first run").await;
    let id = &cluster.backups[0].id;
    assert!(!cluster.has(&format!("backups/{id}/manifest")).await);
    assert!(cluster.has(&format!("backups/{id}/contents")).await, "the contents have their time of grace");
    assert!(cluster.has(&format!("maps/{}", hash(1))).await, "what it named as well");
    let incomplete = crate::repository::catalog_load::load(cluster.lineage()).await.unwrap().incomplete;
    assert_eq!(incomplete, [], "what is left of a backup is none that was interrupted");
    cluster.archive.clock.advance(TimeDelta::hours(13));
    cluster.expire(&longer_window()).await.unwrap();
    cluster.expire(&longer_window()).await.unwrap();
    cluster.archive.clock.advance(TimeDelta::hours(-13));
    assert_eq!(cluster.archive.clock.now(), begun);
    check_gone(&cluster, "after the second run").await;
    check_kept(&cluster, "after the second run").await;
    let summaries: Vec<SummaryKey> = cluster.archive.summaries().await;
    assert!(summaries.iter().all(|key| key.to > cluster.backups[1].start_lsn), "summaries of gone WAL are gone");
    assert!(cluster.marker < cluster.end);
}

/// Of each kind of request so many, one after the other.
const REQUESTS: [(Operation, usize); 4] =
    [(Operation::Put, 1), (Operation::Delete, 1), (Operation::List, 9), (Operation::Get, 13)];

/// The process dies at a request, before its effect or after it. All that change anything, and some of those that read.
#[tokio::test]
async fn a_crash_at_any_request_harms_nothing_and_the_next_run_completes() {
    let calls = {
        let cluster = Cluster::new(6).await;
        let count = |operation| cluster.archive.faults.calls_of(operation);
        let before = REQUESTS.map(|(operation, _)| count(operation));
        expire_twice(&cluster).await;
        [0, 1, 2, 3].map(|kind: usize| count(REQUESTS[kind].0) - before[kind])
    };
    assert!(calls[0] >= 2 && calls[1] >= 6, "{calls:?}");
    for ((operation, step), calls) in REQUESTS.into_iter().zip(calls) {
        for nth in (1..=calls).step_by(step) {
            die_and_go_on(operation, nth, false).await;
            // A read has no effect to come after, and says "not found" all the same.
            if operation != Operation::Get {
                die_and_go_on(operation, nth, true).await;
            }
        }
    }
}

async fn die_and_go_on(operation: Operation, nth: u64, after: bool) {
    let cluster = Cluster::new(6).await;
    let kind = ErrorKind::Unavailable;
    let fault = if after { Fault::ErrorAfter(kind) } else { Fault::ErrorBefore(kind) };
    cluster.archive.faults.add(FaultRule::new(fault).on(operation).nth(nth));
    let first = cluster.expire(&Cluster::order()).await;
    let mut second = Ok(Expired::default());
    if first.is_ok() {
        cluster.archive.clock.advance(TimeDelta::hours(13));
        second = cluster.expire(&longer_window()).await;
        cluster.archive.clock.advance(TimeDelta::hours(-13));
    }
    let context = format!("{operation} {nth}, after its effect: {after}");
    assert!(first.is_err() || second.is_err(), "{context}: it went on");
    cluster.archive.faults.heal();
    check_kept(&cluster, &context).await;
    expire_twice(&cluster).await;
    cluster.archive.clock.advance(TimeDelta::hours(26));
    cluster.expire(&much_longer_window()).await.unwrap();
    cluster.expire(&much_longer_window()).await.unwrap();
    cluster.archive.clock.advance(TimeDelta::hours(-26));
    check_kept(&cluster, &context).await;
    check_gone(&cluster, &context).await;
}

fn much_longer_window() -> Order {
    let Order::Policy(policy) = Cluster::order() else { unreachable!("it is a policy") };
    Order::Policy(Policy { window: policy.window.map(|window| window + TimeDelta::hours(26)), ..policy })
}

#[tokio::test]
async fn a_backup_that_is_being_taken_keeps_its_parent_and_all_that_nothing_names() {
    let cluster = Cluster::new(6).await;
    // A backup that began a moment ago, and shares from the one of day 2.
    let now = cluster.archive.clock.now();
    let (running, parent) = (BackupId::new(now, 1), cluster.backups[2].id.clone());
    cluster.archive.put_intent(&running, Some(parent.clone())).await;
    assert!(!is_condemned(cluster.lineage(), &parent).await.unwrap());
    expire_twice(&cluster).await;
    assert!(cluster.is_whole(&cluster.backups[2]).await, "the parent stays");
    assert!(!is_condemned(cluster.lineage(), &parent).await.unwrap());
    let gone = &cluster.backups[0].id;
    assert!(is_condemned(cluster.lineage(), gone).await.unwrap());
    assert!(cluster.has(&format!("maps/{}", hash(1))).await, "nothing is swept while a backup is being taken");
}

/// The intent and the condemnation cross each other.
#[tokio::test]
async fn an_intent_that_comes_between_condemnation_and_deletion_saves_its_parent() {
    let cluster = Cluster::new(6).await;
    let parent = cluster.backups[2].id.clone();
    let lineages = [cluster.lineage().clone()];
    let held = load_cluster(&lineages).await.unwrap();
    let planned = crate::retention::plan(&held, &Cluster::order(), cluster.archive.clock.now()).unwrap();
    assert!(planned.lineages[0].going().any(|backup| backup.id == parent));
    // Another host's run, stopped right behind its condemnation.
    let note = crate::repository::condemnation::Condemnation {
        id: crate::repository::NoteId::new(cluster.archive.clock.now(), 1),
        time: cluster.archive.clock.now(),
        who: "db2/2".to_owned(),
        backups: planned.lineages[0].going().map(|backup| backup.id.clone()).collect(),
    };
    cluster.lineage().create(&cluster.lineage().layout().condemnation(&note.id), &note).await.unwrap();
    let running = BackupId::new(cluster.archive.clock.now(), 1);
    cluster.archive.put_intent(&running, Some(parent.clone())).await;
    assert!(is_condemned(cluster.lineage(), &parent).await.unwrap(), "the backup sees it, and shares nothing");
    cluster.expire(&Cluster::order()).await.unwrap();
    assert!(cluster.is_whole(&cluster.backups[2]).await, "and the deletion sees the backup");
}

#[tokio::test]
async fn an_interrupted_backup_goes_when_a_later_one_is_complete_and_it_is_silent() {
    let cluster = Cluster::new(6).await;
    let dead = BackupId::new(at(DAY / 2), 1);
    cluster.archive.put_intent(&dead, None).await;
    let pack = PackId { backup: dead.clone(), number: 0 };
    cluster.lineage().store().create_bytes(&cluster.lineage().layout().pack(&pack), "pack").await.unwrap();
    cluster.expire(&Cluster::order()).await.unwrap();
    assert!(cluster.has(&pack.to_string()).await, "it put something a moment ago");
    expire_twice(&cluster).await;
    assert!(!cluster.has(&format!("/{dead}/")).await);
}

#[tokio::test]
async fn what_a_running_backup_takes_up_stays_with_all_that_it_took_up_itself() {
    let cluster = Cluster::new(6).await;
    let last = cluster.backups[5].clone();
    let interrupted = [1, 2].map(|n| BackupId::new(at(5 * DAY + n * 3600), 1));
    let (store, layout) = (cluster.lineage().store(), cluster.lineage().layout());
    for (id, resumes) in interrupted.iter().zip([None, Some(interrupted[0].clone())]) {
        cluster.archive.put_intent_that(id, Some(last.id.clone()), resumes).await;
        let pack = layout.pack(&PackId { backup: id.clone(), number: 0 });
        store.create_bytes(&pack, "pack").await.unwrap();
        store.create_bytes(&layout.progress(id, 0), "record").await.unwrap();
    }
    // Nobody would take them up any more; but just now somebody does.
    cluster.archive.clock.advance(TimeDelta::days(8));
    let running = BackupId::new(cluster.archive.clock.now(), 1);
    cluster.archive.put_intent_that(&running, None, Some(interrupted[1].clone())).await;
    let order = Order::Policy(Policy { minimum: 0, ..policy_of(&Cluster::order()) });
    for _ in 0..2 {
        cluster.expire(&order).await.unwrap();
        for id in &interrupted {
            assert!(!is_condemned(cluster.lineage(), id).await.unwrap(), "{id}");
            let kept = [format!("packs/{id}/"), format!("backups/{id}/intent"), format!("backups/{id}/progress")];
            for object in kept {
                assert!(cluster.has(&object).await, "{object}");
            }
        }
        assert!(cluster.is_whole(&last).await, "it shares pages of this one");
        cluster.archive.clock.advance(TimeDelta::minutes(50));
        store.create_bytes(&layout.progress(&running, 0), "record").await.ok();
    }
    cluster.archive.clock.advance(TimeDelta::days(8));
    for _ in 0..2 {
        cluster.expire(&order).await.unwrap();
        cluster.archive.clock.advance(TimeDelta::days(1));
    }
    for id in interrupted.iter().chain([&running]) {
        assert!(!cluster.has(&format!("/{id}/")).await, "{id}: {:?}", cluster.keys().await);
    }
}

#[tokio::test]
async fn records_of_a_complete_backup_are_outdated() {
    let cluster = Cluster::new(2).await;
    let (store, layout) = (cluster.lineage().store(), cluster.lineage().layout());
    let record = layout.progress(&cluster.backups[1].id, 3);
    store.create_bytes(&record, "record").await.unwrap();
    cluster.expire(&Cluster::order()).await.unwrap();
    assert!(!cluster.has(record.as_str()).await);
    assert!(cluster.is_whole(&cluster.backups[1]).await);
}

fn policy_of(order: &Order) -> Policy {
    match order {
        Order::Policy(policy) => policy.clone(),
        Order::Named { .. } => unreachable!("it is a policy"),
    }
}

#[tokio::test]
async fn pins_keep_until_they_are_released() {
    let cluster = Cluster::new(6).await;
    let id = cluster.backups[0].id.clone();
    let subject = PinSubject::Backup { id: id.clone() };
    let set = pin(cluster.lineage(), subject, None, None, &cluster.archive.clock).await.unwrap();
    let named = |forced| Order::Named { backups: vec![id.clone()], forced, grace: TimeDelta::zero() };
    assert!(matches!(cluster.expire(&named(false)).await, Err(ExpireError::Refused(_))));
    expire_twice(&cluster).await;
    assert!(cluster.is_whole(&cluster.backups[0]).await);
    release(cluster.lineage(), &set, None, &cluster.archive.clock).await.unwrap();
    assert_eq!(load_pins(cluster.lineage()).await.unwrap().0, []);
    expire_twice(&cluster).await;
    assert!(!cluster.has(&format!("backups/{id}/manifest")).await);
}

#[tokio::test]
async fn a_named_backup_goes_and_nothing_else() {
    let cluster = Cluster::new(3).await;
    let id = cluster.backups[1].id.clone();
    let before = cluster.keys().await;
    let order = Order::Named { backups: vec![id.clone()], forced: false, grace: TimeDelta::hours(12) };
    cluster.expire(&order).await.unwrap();
    let gone: Vec<String> = before.difference(&cluster.keys().await).cloned().collect();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(gone.iter().all(|key| key.contains(&format!("backups/{id}/"))), "{gone:?}");
    let all: Vec<BackupId> = cluster.backups.iter().map(|backup| backup.id.clone()).collect();
    let last = Order::Named { backups: vec![all[0].clone(), all[2].clone()], forced: false, grace: TimeDelta::zero() };
    let refused = cluster.expire(&last).await;
    assert!(matches!(refused, Err(ExpireError::Refused(crate::retention::Refusal::LastBackup(_)))), "{refused:?}");
}

#[tokio::test]
async fn nothing_is_deleted_under_anothers_lease_or_while_a_manifest_cannot_be_read() {
    let cluster = Cluster::new(6).await;
    let before = cluster.keys().await;
    let mut other = lease(1, cluster.end.as_u64(), 6 * DAY);
    other.holder = "b".to_owned();
    cluster.archive.put_lease(&other).await;
    assert_eq!(cluster.expire(&Cluster::order()).await.unwrap(), Expired::default());
    assert_eq!(cluster.keys().await, before);
    cluster.archive.put_lease(&lease(1, cluster.end.as_u64(), 6 * DAY)).await;
    let damaged = BackupId::new(at(DAY * 2 + 7), 1);
    let key = cluster.lineage().layout().manifest(&damaged);
    cluster.lineage().store().create_bytes(&key, "{}\n").await.unwrap();
    let held = cluster.expire(&Cluster::order()).await.unwrap();
    let done = held.lineages.values().next().unwrap();
    assert!(done.held_up.as_ref().is_some_and(|why| why.contains(&damaged.to_string())), "{done:?}");
    assert!(done.deleted.is_empty() && done.backups.is_empty());
    let order = Order::Named { backups: vec![damaged.clone()], forced: true, grace: TimeDelta::zero() };
    cluster.expire(&order).await.unwrap();
    assert!(!cluster.has(&format!("backups/{damaged}/manifest")).await, "a person decides");
}

#[tokio::test]
async fn an_old_lineage_ages_out_and_goes_as_a_whole() {
    let old = Cluster::new(3).await;
    let store: Arc<dyn ObjectStore> = Arc::clone(&old.archive.faults) as Arc<dyn ObjectStore>;
    let repository = Repository::open(store).await.unwrap();
    let mut lineage = old.lineage().lineage().clone();
    lineage.lineage = LineageId::new(SystemIdentifier::new(99), 1);
    lineage.created = at(3 * DAY);
    let young = repository.ensure_lineage(&lineage).await.unwrap();
    let clock = &old.archive.clock;
    let new = repository.lineages(&lineage.cluster).await.unwrap().pop().unwrap();
    assert_eq!(new.lineage().lineage, lineage.lineage);
    let document = crate::repository::document::seal(&lease(1, 0x20_0000, 4 * DAY));
    young.store().create_bytes(&new.layout().lease(), document).await.unwrap();
    let lineages = repository.lineages(&lineage.cluster).await.unwrap();
    let policy = Policy { markers: None, minimum: 0, ..policy_of(&Cluster::order()) };
    // In the window: all of it can be restored.
    run(&lineages, &new, &Order::Policy(policy.clone()), clock).await.unwrap();
    assert!(old.plans(RecoveryTarget::Latest).await);
    // The new one has no backup of its own yet, so the last ones of the old stay.
    clock.advance(TimeDelta::days(400));
    let kept = Policy { minimum: 1, ..policy.clone() };
    run(&lineages, &new, &Order::Policy(kept), clock).await.unwrap();
    assert!(old.is_whole(&old.backups[2]).await);
    let archive = Archive {
        faults: Arc::clone(&old.archive.faults),
        wal: crate::repository::WalStore::new(new.clone()),
        lineage: new.clone(),
        clock: clock.clone(),
    };
    let mut history = History::new();
    let mut manifest = history.backup(401 * DAY);
    history.fill(1);
    manifest.system_identifier = lineage.lineage.system_identifier();
    archive.put_parts(&mut manifest, None, 7).await;
    archive.put_backup(&manifest).await;
    archive.put_wal(1, 0, &history.wal).await;
    for _ in 0..4 {
        clock.advance(TimeDelta::days(2));
        let left = repository.lineages(&lineage.cluster).await.unwrap();
        run(&left, &new, &Order::Policy(policy.clone()), clock).await.unwrap();
    }
    let root = old.lineage().layout().root();
    let left: Vec<_> = new.store().list(&root).map_ok(|meta| meta.key).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(left, []);
    assert_eq!(repository.lineages(&lineage.cluster).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_object_of_a_cluster_is_of_a_known_kind() {
    let cluster = Cluster::new(3).await;
    let layout = cluster.lineage().layout();
    for key in cluster.keys().await.iter().filter(|key| key.starts_with(layout.root().as_str())) {
        let known: Option<LineageObject> = layout.classify(&crate::storage::ObjectKey::new(key.clone()).unwrap());
        assert!(known.is_some(), "{key}");
    }
}
