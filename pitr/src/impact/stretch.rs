//! WAL from one position to another, as its summaries tell it: stored ones where a whole one lies in it, else such that are
//! made from the WAL.

use std::collections::{BTreeMap, HashMap};

use futures::{Stream, StreamExt, stream};

use super::book::CatalogCommit;
use super::pulse::{Pulse, PulseTaker};
use super::{ImpactError, Observe, Reading};
use crate::lookup::{PathSummaries, Witness};
use crate::postgres::relation::{Fork, RelationLocator};
use crate::postgres::system_catalog::NamingCatalog;
use crate::postgres::wal::{Outcome, Record, ResourceManager};
use crate::postgres::{Lsn, MajorVersion, TransactionId, WalSegmentSize};
use crate::recovery::Leg;
use crate::repository::catalog::LsnRange;
use crate::wal_summary::catalog::row_change;
use crate::wal_summary::{CatalogChange, ChangedBlocks, MomentKind, WalSummary, compose};

/// Summaries under way at once.
const PARALLEL_READS: usize = 4;
/// So many parts are put together at a time.
const BATCH: usize = 32;
/// A stretch that wrote to a catalog that moved is decoded up to this size.
const MAX_MOVED_BYTES: u64 = 4 << 30;

/// Catalogs in other files than `initdb` gave them, which summaries do not follow.
pub(super) type MovedCatalogs = HashMap<RelationLocator, NamingCatalog>;

/// What one part of the WAL says.
#[derive(Debug)]
pub(super) struct Part {
    pub summary: WalSummary,
    pub pulse: Pulse,
}

/// What a part says of catalogs.
#[derive(Clone, Debug, Default)]
pub(super) struct CatalogPart {
    pub changes: Vec<CatalogChange>,
    pub commits: Vec<CatalogCommit>,
    pub oldest_xid: Option<TransactionId>,
}

/// Reads parts along a path.
pub(super) struct Reader<'a> {
    pub summaries: &'a PathSummaries<'a>,
    pub major: MajorVersion,
    /// Up to where WAL may be read.
    pub limit: Lsn,
    pub observe: Observe<'a>,
}

impl Reader<'_> {
    /// What starts in `range`, in order.
    pub fn parts(&self, range: LsnRange) -> impl Stream<Item = Result<Part, ImpactError>> {
        let reads = stream::iter(self.summaries.legs(range)).map(move |leg| async move {
            let part = self.part(leg).await?;
            (self.observe)(Reading { from: range.from, position: leg.to, to: range.to });
            Ok(part)
        });
        reads.buffered(PARALLEL_READS)
    }

    /// What starts in a leg.
    pub async fn part(&self, leg: Leg) -> Result<Part, ImpactError> {
        let stored = match whole(leg) {
            true => self.stored(leg).await?,
            false => None,
        };
        if let Some(summary) = stored {
            let mut pulse = Pulse::default();
            summary.segments.iter().for_each(|times| pulse.add_segment(times));
            return Ok(Part { summary, pulse });
        }
        let range = LsnRange { from: leg.from, to: leg.to };
        let witness = PulseTaker { major: self.major, pulse: Pulse::default() };
        let made = self.summaries.make_witnessed(range, self.limit, witness).await?;
        let (summary, witness) = made.ok_or(ImpactError::Unreadable { from: leg.from, to: leg.to })?;
        Ok(Part { summary, pulse: witness.pulse })
    }

    async fn stored(&self, leg: Leg) -> Result<Option<WalSummary>, ImpactError> {
        match leg.summary {
            Some(key) => Ok(self.summaries.read(key).await?),
            None => Ok(None),
        }
    }

    /// What a leg says of catalogs that moved: only where it wrote to them is it decoded. None where that would be too much.
    pub async fn moved_part(&self, leg: Leg, moved: &MovedCatalogs) -> Result<Option<CatalogPart>, ImpactError> {
        let touched = match self.stored(leg).await? {
            Some(summary) => moved.keys().any(|file| summary.blocks.relation(*file, Fork::Main).is_some()),
            None => true,
        };
        if !touched {
            return Ok(Some(CatalogPart::default()));
        }
        if leg.to.distance_from(leg.from).unwrap_or(0) > MAX_MOVED_BYTES {
            return Ok(None);
        }
        let witness = MovedWitness { major: self.major, moved: moved.clone(), part: CatalogPart::default() };
        let range = LsnRange { from: leg.from, to: leg.to };
        let made = self.summaries.make_witnessed(range, self.limit, witness).await?;
        Ok(Some(made.ok_or(ImpactError::Unreadable { from: leg.from, to: leg.to })?.1.part))
    }

    /// What a leg says of catalogs. Of a stored summary that tells of more, what is in the leg counts.
    pub async fn catalog_part(&self, leg: Leg) -> Result<CatalogPart, ImpactError> {
        let mut summary = match self.stored(leg).await? {
            Some(summary) => summary,
            None => self.part(leg).await?.summary,
        };
        let mut part = CatalogPart::of(&mut summary);
        let within = |lsn: Lsn| leg.from <= lsn && lsn < leg.to;
        part.changes.retain(|change| within(change.lsn));
        part.commits.retain(|commit| within(commit.lsn));
        if summary.to > leg.to {
            part.oldest_xid = None;
        }
        Ok(part)
    }
}

/// Sees changes of catalogs that stand in other files than summaries follow, and all commits that sessions had to hear of.
struct MovedWitness {
    major: MajorVersion,
    moved: MovedCatalogs,
    part: CatalogPart,
}

impl Witness for MovedWitness {
    fn record(&mut self, record: &Record<'_>) {
        // What cannot be read ends the summary that is built beside.
        match record.resource_manager() {
            ResourceManager::HEAP if record.xid().is_normal() => {
                let mut file = None;
                let read = record.visit_blocks(self.major, |tag| {
                    file.get_or_insert(tag.relation);
                });
                let known = read.ok().and(file).and_then(|file| Some((file, *self.moved.get(&file)?)));
                if let Some((file, catalog)) = known {
                    self.part.changes.extend(row_change(record, self.major, file, catalog).ok().flatten());
                }
            }
            ResourceManager::TRANSACTION => {
                let Ok(Some(end)) = record.transaction_end(self.major) else { return };
                if end.outcome == Outcome::Commit && !end.invalidations.is_empty() {
                    let xids = std::iter::once(end.xid).chain(end.subtransactions.iter()).collect();
                    self.part.commits.push(CatalogCommit { lsn: record.start_lsn(), xids });
                }
            }
            _ => {}
        }
    }
}

/// The summary of a leg speaks of nothing else.
pub(super) fn whole(leg: Leg) -> bool {
    leg.summary.is_some_and(|key| key.from == leg.from && key.to == leg.to)
}

impl CatalogPart {
    /// Takes in what else is known of the same stretch.
    pub fn merge(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.changes.sort_by_key(|change| change.lsn);
        // Where both know of a commit, what the first of them makes true is done.
        self.commits.extend(other.commits);
        self.commits.sort_by_key(|commit| commit.lsn);
    }

    /// Takes it out of a summary.
    pub fn of(summary: &mut WalSummary) -> Self {
        let mut commits: BTreeMap<Lsn, CatalogCommit> = BTreeMap::new();
        let mut add = |lsn: Lsn, top: TransactionId, members: &mut dyn Iterator<Item = u32>| {
            let commit = commits.entry(lsn).or_insert_with(|| CatalogCommit { lsn, xids: vec![top] });
            commit.xids.extend(members.map(TransactionId::new).filter(|xid| *xid != top));
        };
        for moment in &summary.moments {
            if let MomentKind::SchemaChange(change) = &moment.kind {
                add(moment.lsn, change.xid, &mut change.members.iter());
            }
        }
        for commit in &summary.transactions.schema_commits {
            add(commit.lsn, commit.change.xid, &mut commit.subtransactions.iter());
        }
        Self {
            changes: std::mem::take(&mut summary.catalog),
            commits: commits.into_values().collect(),
            oldest_xid: summary.transactions.running.map(|running| running.oldest_xid),
        }
    }
}

/// Without what grows with the data.
pub(super) fn light(mut summary: WalSummary) -> WalSummary {
    summary.blocks = ChangedBlocks::default();
    summary.catalog.clear();
    summary
}

/// Parts put together, without what grows with the data.
#[derive(Debug, Default)]
pub(super) struct Whole {
    parts: Vec<WalSummary>,
}

impl Whole {
    /// The next part; what it says of blocks is left out.
    pub fn push(&mut self, summary: WalSummary) -> Result<(), ImpactError> {
        self.parts.push(light(summary));
        if self.parts.len() >= BATCH {
            let whole = compose(&self.parts)?;
            self.parts = vec![whole];
        }
        Ok(())
    }

    /// A part that comes before all others.
    pub fn push_front(&mut self, summary: WalSummary) -> Result<(), ImpactError> {
        self.parts.insert(0, light(summary));
        if self.parts.len() >= BATCH {
            let whole = compose(&self.parts)?;
            self.parts = vec![whole];
        }
        Ok(())
    }

    /// None where nothing was pushed.
    pub fn finish(mut self) -> Result<Option<WalSummary>, ImpactError> {
        match self.parts.len() {
            0 | 1 => Ok(self.parts.pop()),
            _ => Ok(Some(compose(&self.parts)?)),
        }
    }

    pub fn whole(&mut self) -> Result<Option<&WalSummary>, ImpactError> {
        if self.parts.len() > 1 {
            let whole = compose(&self.parts)?;
            self.parts = vec![whole];
        }
        Ok(self.parts.first())
    }
}

/// Legs backwards, those without a summary of their own segment by segment.
pub(super) fn backwards(legs: Vec<Leg>, size: WalSegmentSize) -> impl Iterator<Item = Leg> {
    legs.into_iter().rev().flat_map(move |leg| {
        let (first, last) = (size.segment_of(leg.from).as_u64(), size.segment_before(leg.to).as_u64());
        let pieces = if whole(leg) { first..=first } else { first..=last };
        pieces.rev().map(move |number| {
            if whole(leg) {
                return leg;
            }
            let segment = crate::postgres::SegmentNumber::new(number);
            let (from, to) = (size.start_of(segment).max(leg.from), size.end_of(segment).min(leg.to));
            Leg { from, to, summary: None }
        })
    })
}
