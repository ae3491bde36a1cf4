//! Deleting, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::TimeDelta;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::error::{ExpireError, Result};
use super::load::load_cluster;
use super::survey::{ObjectCount, ObjectKind};
use crate::clock::Clock;
use crate::repository::backup::BackupId;
use crate::repository::condemnation::Condemnation;
use crate::repository::gap::{GapCause, GapNote};
use crate::repository::layout::GapKey;
use crate::repository::lease::Lease;
use crate::repository::lineage::LineageId;
use crate::repository::{Error, LineageObject, LineageStore, NoteId};
use crate::retention::{ExpirePlan, Fate, Judge, LineagePlan, Order, plan};
use crate::storage::{ErrorKind, KeyPrefix, ObjectKey};

/// Keys of one request.
const BATCH: usize = 1000;
const EXPIRED: &str = "deleted by retention: no rule kept it";

/// A lease that was not renewed for so long is nobody's.
const ABANDONED_LEASE: TimeDelta = TimeDelta::minutes(10);

/// A run of retention.
pub struct Expiry<'a> {
    /// All of the cluster, oldest first.
    pub lineages: &'a [LineageStore],
    pub order: &'a Order,
    pub clock: &'a dyn Clock,
    /// Host and process.
    pub who: &'a str,
    /// The lineage that we archive, and what its lease must say of its holder.
    pub own: LineageId,
    pub holder: &'a str,
    /// Whether packs and maps may go: not while a backup that may name them can begin.
    pub sweep: bool,
    pub cancel: &'a CancellationToken,
}

impl std::fmt::Debug for Expiry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expiry").field("order", &self.order).field("sweep", &self.sweep).finish_non_exhaustive()
    }
}

/// What a run did in one lineage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiredLineage {
    pub backups: Vec<BackupId>,
    pub deleted: BTreeMap<ObjectKind, ObjectCount>,
    /// What goes later.
    pub later: ObjectCount,
    /// Why nothing was deleted.
    pub held_up: Option<String>,
    pub ended: bool,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub lineages: BTreeMap<LineageId, ExpiredLineage>,
}

impl Expired {
    #[must_use]
    pub fn total(&self) -> ObjectCount {
        let mut total = ObjectCount::default();
        for count in self.lineages.values().flat_map(|lineage| lineage.deleted.values()) {
            total.objects += count.objects;
            total.bytes += count.bytes;
        }
        total
    }
}

impl Expiry<'_> {
    /// Deletes what may go. Run again after whatever ended it, it completes.
    ///
    /// # Errors
    /// The order is refused, the repository fails, or the lineage is not ours any more.
    pub async fn run(&self) -> Result<Expired> {
        let first = self.plan().await?;
        let mut unwritten = BTreeSet::new();
        for (lineage, planned) in self.lineages.iter().zip(&first.lineages) {
            if self.is_ours(lineage).await? {
                unwritten.append(&mut self.condemn(lineage, planned).await?);
            }
        }
        // Whoever began to share from a condemned backup, or pinned it, before the condemnation stood, is seen by this.
        let second = self.plan().await?;
        let mut expired = Expired::default();
        for (lineage, planned) in self.lineages.iter().zip(&second.lineages) {
            if self.is_ours(lineage).await? {
                let done = self.execute(lineage, planned, &unwritten).await?;
                expired.lineages.insert(planned.lineage, done);
            }
        }
        Ok(expired)
    }

    async fn plan(&self) -> Result<ExpirePlan> {
        let cluster = load_cluster(self.lineages).await?;
        Ok(plan(&cluster, self.order, self.clock.now())?)
    }

    /// Whether we may delete here: the lease of the lineage is ours, or, of another lineage of the cluster, nobody's. Asked
    /// before every request, so that an agent which was stopped and goes on finds out that another has taken over.
    async fn is_ours(&self, lineage: &LineageStore) -> Result<bool> {
        let lease = match lineage.get::<Lease>(&lineage.layout().lease()).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => return Ok(lineage.lineage().lineage != self.own),
            Err(error) => return Err(error.into()),
        };
        if lineage.lineage().lineage == self.own {
            return Ok(lease.holder == self.holder);
        }
        Ok(lease.expires + ABANDONED_LEASE < self.clock.now())
    }

    /// Says what is about to go. What a full store has no room to say goes unsaid, where no backup can be about to share from
    /// it: given back.
    async fn condemn(&self, lineage: &LineageStore, planned: &LineagePlan) -> Result<BTreeSet<BackupId>> {
        let damaged = match self.order {
            Order::Named { backups, .. } => backups.iter().filter(|id| planned.deletes(id)).cloned().collect(),
            Order::Policy(_) => Vec::new(),
        };
        let going = planned.going().map(|backup| backup.id.clone());
        let backups: BTreeSet<BackupId> = going.chain(planned.abandoned.iter().cloned()).chain(damaged).collect();
        if backups.is_empty() {
            return Ok(backups);
        }
        let time = self.clock.now();
        let id = NoteId::new(time, rand::random());
        let note = Condemnation { id, time, who: self.who.to_owned(), backups: backups.iter().cloned().collect() };
        match lineage.create(&lineage.layout().condemnation(&note.id), &note).await {
            Ok(_) => Ok(BTreeSet::new()),
            Err(error) if is_full(&error) && self.sweep && planned.waits_for.is_none() => {
                tracing::warn!("the repository is full: backups are deleted without the time of grace");
                Ok(backups)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn execute(
        &self,
        lineage: &LineageStore,
        planned: &LineagePlan,
        unwritten: &BTreeSet<BackupId>,
    ) -> Result<ExpiredLineage> {
        let notes = super::condemned::condemnations(lineage).await?;
        let mut condemned: BTreeSet<BackupId> = notes.into_iter().flat_map(|note| note.backups).collect();
        condemned.extend(unwritten.iter().cloned());
        let mut done = ExpiredLineage {
            backups: planned.going().map(|backup| backup.id.clone()).filter(|id| condemned.contains(id)).collect(),
            held_up: planned.held_up.clone(),
            ended: planned.ends,
            ..ExpiredLineage::default()
        };
        let noted = match self.note_holes(lineage, planned).await {
            Err(error) if error.is_full() => false,
            noted => noted.map(|()| true)?,
        };
        let layout = lineage.layout();
        let judge = planned.judge();
        // What came after the condemnation was written goes with the next run.
        let named = |object: &LineageObject| match object {
            LineageObject::Intent(id) | LineageObject::Manifest(id) => condemned.contains(id),
            _ => false,
        };
        // The intent first: without its manifest a backup would seem to be one that was interrupted.
        let intents = |object: &LineageObject| matches!(object, LineageObject::Intent(_)) && named(object);
        let manifests = |object: &LineageObject| matches!(object, LineageObject::Manifest(_)) && named(object);
        let any = |_: &LineageObject| true;
        let contents =
            |object: &LineageObject| matches!(object, LineageObject::Contents(_) | LineageObject::Progress { .. });
        let pins = |object: &LineageObject| matches!(object, LineageObject::Pin(_));
        self.delete(lineage, judge, &layout.backups(), &intents, &mut done).await?;
        self.delete(lineage, judge, &layout.backups(), &manifests, &mut done).await?;
        for prefix in [layout.wal(), layout.summaries(), layout.markers(), layout.gaps()] {
            self.delete(lineage, judge, &prefix, &any, &mut done).await?;
        }
        if !noted {
            // There is room now.
            self.note_holes(lineage, planned).await?;
        }
        if self.sweep {
            self.delete(lineage, judge, &layout.backups(), &contents, &mut done).await?;
            for prefix in [layout.maps(), layout.all_packs()] {
                self.delete(lineage, judge, &prefix, &any, &mut done).await?;
            }
        }
        // A pin without its release would be in force again.
        self.delete(lineage, judge, &layout.pins(), &pins, &mut done).await?;
        for prefix in [layout.pins(), layout.condemnations()] {
            self.delete(lineage, judge, &prefix, &any, &mut done).await?;
        }
        if planned.ends && self.sweep {
            self.delete(lineage, judge, &layout.restores(), &any, &mut done).await?;
            for key in [layout.lease(), layout.lineage()] {
                self.flush(lineage, &mut vec![key]).await?;
            }
        }
        Ok(done)
    }

    /// Each hole that is about to be is explained before it is.
    async fn note_holes(&self, lineage: &LineageStore, planned: &LineagePlan) -> Result<()> {
        for hole in planned.holes.iter().filter(|_| !planned.ends) {
            let note = GapNote {
                timeline: hole.timeline,
                from_lsn: hole.from_lsn,
                to_lsn: hole.to_lsn,
                cause: GapCause::Expired,
                reason: EXPIRED.to_owned(),
                noticed: self.clock.now(),
                who: self.who.to_owned(),
            };
            let key = GapKey { tli: note.timeline, from: note.from_lsn, to: note.to_lsn };
            match lineage.create(&lineage.layout().gap(&key), &note).await {
                Err(Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => {}
                created => drop(created?),
            }
        }
        Ok(())
    }

    /// Deletes what is listed below `prefix`, judged to go, and `wanted` in this step.
    async fn delete(
        &self,
        lineage: &LineageStore,
        judge: &Judge,
        prefix: &KeyPrefix,
        wanted: &(dyn Fn(&LineageObject) -> bool + Send + Sync),
        done: &mut ExpiredLineage,
    ) -> Result<()> {
        let mut batch = Vec::new();
        let store = Arc::clone(lineage.store());
        let mut listed = store.list(prefix);
        while let Some(meta) = listed.try_next().await? {
            let judged = judge.judge(&meta);
            let Some(object) = judged.object.filter(wanted) else { continue };
            match judged.fate {
                Fate::Keep => {}
                Fate::Later => done.later.add(meta.size_bytes),
                Fate::Delete => {
                    done.deleted.entry(ObjectKind::of(Some(&object))).or_default().add(meta.size_bytes);
                    batch.push(meta.key);
                    if batch.len() == BATCH {
                        self.flush(lineage, &mut batch).await?;
                    }
                }
            }
        }
        self.flush(lineage, &mut batch).await
    }

    async fn flush(&self, lineage: &LineageStore, batch: &mut Vec<ObjectKey>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.cancel.is_cancelled() {
            return Err(ExpireError::Cancelled);
        }
        if !self.is_ours(lineage).await? {
            return Err(ExpireError::NotOurs { lineage: lineage.lineage().lineage.to_string() });
        }
        lineage.store().delete(batch).await?;
        batch.clear();
        Ok(())
    }
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Storage(error) if error.kind() == ErrorKind::Full)
}
