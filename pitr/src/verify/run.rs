//! A verification of one lineage, from the catalog to the report.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::backups::{self, CheckedBackup};
use super::damage::{Damage, Harm, ObjectKind};
use super::inventory::{KnownMaps, PackIndex, StoredPacks};
use super::options::{Depth, VerifyOptions};
use super::packs::{self, PackFaults};
use super::progress::{Observe, Phase, Step};
use super::report::{BackupVerdict, Figures, LineageReport};
use super::wal::WalCheck;
use super::wal_tasks::{self, WalTask};
use super::{archived_files, documents, loss};
use crate::lookup::window_ends;
use crate::postgres::Lsn;
use crate::repository::backup::BackupManifest;
use crate::repository::catalog::{Catalog, Gap, LsnRange};
use crate::repository::catalog_load;
use crate::repository::layout::SummaryKey;
use crate::repository::{LineageStore, Result, WalStore};
use crate::summarize::verify::{Order, verify_summaries};
use crate::summarize::{Survey, VerifiedTimeline};

/// Damages that are told one by one.
const MAX_DAMAGES: usize = 10_000;

/// Verifies one lineage. Nothing is written.
///
/// # Errors
/// The store fails: nothing is said then.
pub async fn verify_lineage(
    lineage: &LineageStore,
    options: &VerifyOptions,
    observe: &(dyn Fn(Step) + Send + Sync),
) -> Result<LineageReport> {
    observe(Step { phase: Phase::Documents, done: 0, total: 0 });
    let catalog = catalog_load::load(lineage).await?;
    let scope = Scope::new(&catalog, options);
    let mut verification = Verification {
        lineage,
        options,
        observe,
        damages: documents::of_catalog(lineage.layout(), &catalog),
        figures: Figures::default(),
        notes: Vec::new(),
    };
    verification.documents(&catalog).await?;
    let verdicts = verification.backups(&catalog, &scope).await?;
    let summaries = verification.wal(&catalog, &scope).await?;
    verification.conclude(&catalog, &scope, verdicts, summaries).await
}

/// What of a catalog is looked at.
struct Scope<'a> {
    manifests: Vec<&'a BackupManifest>,
    /// WAL before is not looked at.
    from: Lsn,
    /// Nor behind.
    to: Lsn,
    everything: bool,
}

impl<'a> Scope<'a> {
    fn new(catalog: &'a Catalog, options: &VerifyOptions) -> Self {
        let wanted = |backup: &&BackupManifest| {
            options.backup.as_ref().is_none_or(|id| *id == backup.id)
                && options.since.is_none_or(|since| backup.stop_time >= since)
        };
        let manifests: Vec<_> = catalog.backups.iter().filter(wanted).collect();
        let everything = options.backup.is_none() && options.since.is_none();
        let from = manifests.iter().map(|backup| backup.start_lsn).min().unwrap_or(Lsn::MAX);
        let to = manifests.iter().map(|backup| backup.stop_lsn).max().filter(|_| options.backup.is_some());
        Self { manifests, from: if everything { Lsn::INVALID } else { from }, to: to.unwrap_or(Lsn::MAX), everything }
    }

    fn concerns(&self, from: Lsn, to: Option<Lsn>) -> bool {
        from < self.to && to.is_none_or(|to| to > self.from)
    }
}

struct Verification<'a> {
    lineage: &'a LineageStore,
    options: &'a VerifyOptions,
    observe: Observe<'a>,
    damages: Vec<Damage>,
    figures: Figures,
    notes: Vec<String>,
}

impl Verification<'_> {
    async fn documents(&mut self, catalog: &Catalog) -> Result<()> {
        let finished = catalog.markers.iter().filter(|marker| marker.finish.is_some()).count();
        self.figures.documents = (catalog.backups.len() + catalog.markers.len() + finished + catalog.gap_notes.len())
            as u64
            + u64::from(catalog.lease.is_some());
        let complete = catalog.backups.iter().map(|backup| &backup.id);
        let ids: Vec<_> = complete.chain(&catalog.incomplete).cloned().collect();
        let others = documents::others(self.lineage, &ids).await?;
        self.damages.extend(others.damages);
        self.figures.documents += others.read;
        self.figures.unknown_objects += others.unknown;
        let stored = catalog.timelines.values().any(|timeline| !timeline.wal.is_empty());
        let lease = self.lineage.layout().lease();
        if catalog.lease.is_none() && stored && !self.damages.iter().any(|damage| damage.key == lease.as_str()) {
            self.notes.push("there is no lease: no agent archives here".to_owned());
        }
        self.notes.extend(timeline_behind(catalog));
        Ok(())
    }

    /// Backups with all that they name.
    async fn backups(&mut self, catalog: &Catalog, scope: &Scope<'_>) -> Result<Vec<BackupVerdict>> {
        let (lineage, jobs, observe) = (self.lineage, self.options.jobs, self.observe);
        let mut stored = StoredPacks::list(lineage).await?;
        let (mut checked, mut maps) =
            backups::read_contents(lineage, &scope.manifests, &mut stored, &mut self.damages, observe).await?;
        backups::read_maps(lineage, &mut maps, &mut stored, jobs, &mut self.damages, observe).await?;
        self.figures.backups = checked.len() as u64;
        self.figures.maps = maps.len() as u64;
        let faults = self.packs(&stored, &maps).await?;
        backups::settle(lineage, &mut checked, &stored, &maps, &faults, &mut self.damages).await?;
        for backup in &mut checked {
            check_wal_of(catalog, backup);
        }
        let unread = |damage: &Damage| matches!(damage.kind, ObjectKind::Contents | ObjectKind::Manifest);
        if scope.everything && self.damages.iter().any(unread) {
            self.notes.push("garbage is not told: a backup cannot be read that may name it".to_owned());
        } else if scope.everything {
            self.unnamed(&stored, &maps).await?;
        }
        backups::drop_removed(lineage, checked, &mut self.damages).await
    }

    async fn packs(&mut self, stored: &StoredPacks, maps: &KnownMaps) -> Result<PackFaults> {
        let named: Vec<PackIndex> = stored.iter().filter(|(_, pack)| pack.named).map(|(index, _)| index).collect();
        self.figures.packs = named.len() as u64;
        let chosen = match self.options.depth {
            Depth::Fast => return Ok(PackFaults::default()),
            Depth::Full => named,
            Depth::Sample { bytes, seed } => {
                sample(named, bytes / 2, seed, |index| stored.get(*index).map_or(0, |pack| pack.bytes))
            }
        };
        let (jobs, observe) = (self.options.jobs, self.observe);
        let (faults, bytes) =
            packs::check(self.lineage, stored, maps, &chosen, jobs, &mut self.damages, observe).await?;
        self.figures.packs_read = chosen.len() as u64;
        self.figures.pack_bytes_read = bytes;
        Ok(faults)
    }

    /// What no backup names.
    async fn unnamed(&mut self, stored: &StoredPacks, maps: &KnownMaps) -> Result<()> {
        for (_, pack) in stored.iter().filter(|(_, pack)| !pack.named) {
            self.figures.unnamed_objects += 1;
            self.figures.unnamed_bytes += pack.bytes;
        }
        self.figures.unknown_objects += stored.foreign.len() as u64;
        let prefix = self.lineage.layout().maps();
        let mut listed = self.lineage.store().list(&prefix);
        while let Some(meta) = listed.try_next().await? {
            let name = meta.key.as_str().strip_prefix(prefix.as_str()).and_then(|name| name.strip_suffix(".zst"));
            match name.and_then(|name| name.parse().ok()) {
                Some(hash) if maps.contains_key(&hash) => {}
                Some(_) => {
                    self.figures.unnamed_objects += 1;
                    self.figures.unnamed_bytes += meta.size_bytes;
                }
                None => self.figures.unknown_objects += 1,
            }
        }
        Ok(())
    }

    async fn wal(&mut self, catalog: &Catalog, scope: &Scope<'_>) -> Result<Vec<VerifiedTimeline>> {
        let store = WalStore::new(self.lineage.clone());
        for timeline in catalog.timelines.values() {
            self.figures.segments += timeline.wal.whole_segments();
            self.figures.tails += timeline.wal.tails().map(|(_, tails)| tails.len() as u64).sum::<u64>();
        }
        let archived = archived_files::check(&store, self.options.depth.is_full() && scope.everything).await?;
        self.damages.extend(archived.damages);
        self.figures.documents += archived.read;
        self.figures.unknown_objects += archived.unknown;
        let summaries = if scope.everything { self.summaries(&store).await? } else { Vec::new() };
        let range = LsnRange { from: scope.from, to: scope.to };
        let tasks = match self.options.depth {
            Depth::Fast => return Ok(summaries),
            Depth::Full => {
                let stored = stored_summaries(&store).await?;
                wal_tasks::tasks(catalog, &stored, range)
            }
            Depth::Sample { bytes, seed } => {
                let tasks = wal_tasks::tasks(catalog, &[], range);
                let single = tasks.iter().flat_map(one_by_one).collect();
                sample(single, bytes / 2, seed, |_| catalog.segment_size().as_u64())
            }
        };
        let check = WalCheck::new(self.lineage, catalog);
        self.read_wal(&check, &tasks).await?;
        let tails = check.tails(range, self.options.jobs).await?;
        self.damages.extend(tails.damages);
        self.figures.wal_bytes_read += tails.bytes;
        Ok(summaries)
    }

    async fn read_wal(&mut self, check: &WalCheck<'_>, tasks: &[WalTask]) -> Result<()> {
        let size = self.lineage.lineage().wal_segment_size.as_u64();
        let total = tasks.iter().map(WalTask::segments).sum::<u64>().saturating_mul(size);
        let (observe, done) = (self.observe, AtomicU64::new(0));
        let read = |bytes: u64| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            observe(Step { phase: Phase::Wal, done, total });
        };
        let mut found =
            stream::iter(tasks.iter().map(|task| check.task(task, &read))).buffer_unordered(self.options.jobs.max(1));
        while let Some(found) = found.try_next().await? {
            self.damages.extend(found.damages);
            self.figures.segments_read += found.segments;
            self.figures.wal_bytes_read += found.bytes;
            self.figures.summaries_compared += found.summaries_compared;
        }
        Ok(())
    }

    async fn summaries(&mut self, store: &WalStore) -> Result<Vec<VerifiedTimeline>> {
        let order = Order { repair: false, jobs: self.options.jobs, now: self.options.now };
        let verified = match verify_summaries(store, order, |_| ()).await {
            Ok(verified) => verified,
            // A history file, which is told already.
            Err(error) if error.is_corruption() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        for timeline in &verified {
            for unusable in timeline.unusable.iter().filter(|unusable| !unusable.outdated) {
                let key = SummaryKey { tli: timeline.timeline, from: unusable.stretch.from, to: unusable.stretch.to };
                let object = self.lineage.layout().summary(key);
                let damage = Damage::new(&object, ObjectKind::Summary, unusable.reason.clone());
                self.damages.push(damage.at_lsn(key.from));
            }
        }
        Ok(verified)
    }

    async fn conclude(
        mut self,
        catalog: &Catalog,
        scope: &Scope<'_>,
        backups: Vec<BackupVerdict>,
        summaries: Vec<VerifiedTimeline>,
    ) -> Result<LineageReport> {
        (self.observe)(Step { phase: Phase::Losses, done: 0, total: 0 });
        let (gaps, mut holes) = loss::holes(catalog);
        if !holes.is_empty() {
            // An agent may have stored or removed something while we listed.
            let again = catalog_load::load(self.lineage).await?;
            let (_, still) = loss::holes(&again);
            holes.retain(|hole| {
                still.iter().any(|other| (other.timeline, other.from_lsn) == (hole.timeline, hole.from_lsn))
            });
        }
        for hole in holes.iter().filter(|hole| scope.concerns(hole.from_lsn, hole.to_lsn)) {
            self.damages.extend(missing_wal(self.lineage, hole));
        }
        self.sort_damages();
        let (left, mut loss) = loss::assess(catalog, &holes, &self.damages, &backups);
        if !loss.is_none() {
            self.tell_times(&left, &mut loss).await;
        }
        let more_damages = self.damages.len().saturating_sub(MAX_DAMAGES) as u64;
        self.damages.truncate(MAX_DAMAGES);
        Ok(LineageReport {
            lineage: self.lineage.lineage().lineage,
            damages: self.damages,
            more_damages,
            backups,
            incomplete: catalog.incomplete.clone(),
            gaps,
            windows: left.windows(),
            loss,
            summaries,
            figures: self.figures,
            notes: self.notes,
        })
    }

    /// By key and place, each once.
    fn sort_damages(&mut self) {
        let place = |damage: &Damage| (damage.key.clone(), damage.lsn, damage.offset, damage.reason.clone());
        self.damages.sort_by_key(place);
        let mut seen = BTreeSet::new();
        self.damages.retain(|damage| seen.insert(place(damage)));
    }

    /// When the last transactions before a loss ended; that helps a person, and nothing depends on it.
    async fn tell_times(&self, left: &Catalog, loss: &mut loss::Loss) {
        let Ok(ends) = window_ends(self.lineage, left).await else { return };
        for end in ends {
            if let Some(last) = end.last {
                loss::tell_end(&mut loss.ranges, end.window.to.lsn, last.time);
            }
        }
    }
}

/// The lease says which timeline is live. Where WAL goes on on one that left it, the lease may be an old one.
fn timeline_behind(catalog: &Catalog) -> Option<String> {
    let sealed = catalog.lease.as_ref()?.sealed?;
    let later = catalog.timelines.iter().rev().find(|(tli, timeline)| {
        let branched = timeline.path.as_ref().and_then(|path| path.step(sealed.timeline)).and_then(|step| step.end);
        **tli != sealed.timeline
            && branched.is_some_and(|end| timeline.wal.end().is_some_and(|last| last > end.max(sealed.lsn)))
    });
    later.map(|(tli, _)| {
        let live = sealed.timeline;
        format!(
            "timeline {tli} left timeline {live} and holds later WAL, and by the lease timeline {live} is the live one"
        )
    })
}

/// WAL that a backup cannot do without.
fn check_wal_of(catalog: &Catalog, backup: &mut CheckedBackup<'_>) {
    match catalog.path(backup.manifest.timeline) {
        Ok(path) => {
            if let Err(fault) = catalog.check_backup(backup.manifest, path) {
                backup.fault(fault.to_string());
            }
        }
        Err(error) => backup.fault(error.to_string()),
    }
}

fn missing_wal(lineage: &LineageStore, hole: &Gap) -> Option<Damage> {
    let segment = hole.segment.parse().ok()?;
    let key = lineage.layout().segment(segment);
    let reason = match hole.to_lsn {
        Some(to) => {
            format!("is missing, or the end of it: {}; there is no WAL from {} to {to}", hole.reason, hole.from_lsn)
        }
        None => format!("is missing: {}", hole.reason),
    };
    let damage = Damage::missing(&key, ObjectKind::Segment).at_lsn(hole.from_lsn).harming(Harm::None);
    Some(Damage { reason, ..damage })
}

async fn stored_summaries(store: &WalStore) -> Result<Vec<SummaryKey>> {
    let survey = match Survey::take(store, |_| true).await {
        Ok(survey) => survey,
        Err(error) if error.is_corruption() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(survey.timelines.iter().flat_map(|timeline| timeline.stored.iter().map(|listed| listed.key)).collect())
}

fn one_by_one(task: &WalTask) -> impl Iterator<Item = WalTask> + '_ {
    (task.first.as_u64()..=task.last.as_u64()).map(|number| {
        let number = crate::postgres::SegmentNumber::new(number);
        WalTask { first: number, last: number, lead_in: None, summaries: Vec::new(), ..task.clone() }
    })
}

/// So many at random that they fill the budget, in their order.
fn sample<T: Ord>(mut all: Vec<T>, bytes: u64, seed: u64, size: impl Fn(&T) -> u64) -> Vec<T> {
    all.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut left = bytes;
    let mut chosen = Vec::new();
    for one in all {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(size(&one));
        chosen.push(one);
    }
    chosen.sort();
    chosen
}
