//! From a range of WAL to what happened in it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt, stream};

use super::book::{CatalogBook, RelationAction};
use super::copy::CatalogCopy;
use super::ddl::ddl;
use super::stretch::{CatalogPart, MovedCatalogs, Reader, Whole, backwards, whole};
use super::tables::Facts;
use super::{Impact, ImpactError, Observe, Pulse};
use crate::lookup::PathSummaries;
use crate::postgres::history::TimelinePath;
use crate::postgres::relation::{Oid, RelationLocator};
use crate::postgres::{Lsn, MajorVersion, TransactionId};
use crate::recovery::Leg;
use crate::repository::LineageStore;
use crate::repository::backup::BackupManifest;
use crate::repository::catalog::{Catalog, LsnRange, timeline_of_end};
use crate::wal_summary::{CatalogChangeKind, WalSummary, compose};

/// Summaries of which only catalogs are wanted, under way at once.
const PARALLEL_CATALOGS: usize = 8;
/// The time before the range is as long as the range, and no shorter and no longer than these.
const MIN_BASELINE: TimeDelta = TimeDelta::hours(1);
const MAX_BASELINE: TimeDelta = TimeDelta::hours(24);
/// WAL before the range that is decoded to tell live traffic, and summaries that are read for it.
const MAX_BASELINE_BYTES: u64 = 128 << 20;
const MAX_BASELINE_PARTS: usize = 1024;

/// What commits did to relations, by where they start.
type Actions = BTreeMap<Lsn, Vec<RelationAction>>;

/// Where to look.
pub struct Survey<'a> {
    pub lineage: &'a LineageStore,
    pub catalog: &'a Catalog,
    pub path: &'a TimelinePath,
    /// One that ends at or before `range` begins, on the path.
    pub backup: &'a BackupManifest,
    /// From the end of one record to the end of another.
    pub range: LsnRange,
    pub observe: Observe<'a>,
}

/// What happened.
///
/// # Errors
/// The repository fails, or WAL or the backup cannot be read.
pub async fn survey(survey: &Survey<'_>) -> Result<Impact, ImpactError> {
    let major = survey.backup.postgres_version.major().ok_or(ImpactError::Version)?;
    let summaries = PathSummaries::list(survey.lineage, survey.catalog, survey.path, survey.backup.start_lsn).await?;
    let reader = Reader { summaries: &summaries, major, limit: survey.range.to, observe: survey.observe };
    let mut after = After::default();
    if survey.range.from < survey.range.to {
        let mut parts = std::pin::pin!(reader.parts(survey.range));
        while let Some(part) = parts.try_next().await? {
            let mut summary = part.summary;
            after.pulse.merge(&part.pulse);
            after.catalogs.push(CatalogPart::of(&mut summary));
            after.whole.push(summary)?;
        }
    }
    let Some(range) = std::mem::take(&mut after.whole).finish()? else {
        return Ok(nothing(survey));
    };
    let before = Before::look(survey, &reader, &range, true).await?;
    let (commits, aborts) = (range.times.commits, range.times.aborts);
    let whole = match before.open {
        Some(open) => compose(&[open, range])?,
        None => range,
    };
    let names = Names { survey, reader: &reader, major, databases: databases(&whole, &after.catalogs) };
    let (book, actions) = names.follow(after.catalogs).await?;
    let baseline = before.baseline.filter(|_| before.looked.is_some());
    let facts =
        Facts { book: &book, range: survey.range, whole: &whole, baseline: baseline.as_ref(), actions: &actions };
    Ok(Impact {
        commits,
        aborts,
        tables: facts.tables(),
        sequences: facts.sequences(),
        ddl: ddl(&book, survey.range, &whole.moments, &actions),
        pulse: after.pulse,
        baseline: before.looked,
        uncounted: before.uncounted,
        ..nothing(survey)
    })
}

fn nothing(survey: &Survey<'_>) -> Impact {
    Impact {
        timeline: timeline_of_end(survey.path, survey.range.to),
        range: survey.range,
        commits: None,
        aborts: None,
        tables: Vec::new(),
        sequences: Vec::new(),
        ddl: Vec::new(),
        pulse: Pulse::default(),
        baseline: None,
        uncounted: 0,
    }
}

/// What the range itself says.
#[derive(Default)]
struct After {
    whole: Whole,
    catalogs: Vec<CatalogPart>,
    pulse: Pulse,
}

/// Databases that anything is said of.
pub(super) fn databases(range: &WalSummary, catalogs: &[CatalogPart]) -> BTreeSet<Oid> {
    let rows = range.rows.keys().chain(range.sequences.keys()).map(|file| file.database);
    let open = range.transactions.open.values().flat_map(|open| open.rows.keys()).map(|file| file.database);
    let changed = catalogs.iter().flat_map(|part| &part.changes).flat_map(|change| {
        let source = match change.kind {
            CatalogChangeKind::CopiedFiles { database } => Some(database),
            _ => None,
        };
        std::iter::once(change.database).chain(source)
    });
    rows.chain(open).chain(changed).filter(|database| *database != 0).collect()
}

/// What the WAL before the range says.
pub(super) struct Before {
    /// What transactions had done that were open where the range begins.
    pub open: Option<WalSummary>,
    /// Of those that committed in the range, how many had begun before all that was looked at.
    pub uncounted: u64,
    /// Files whose rows were changed, and where that was looked for.
    pub baseline: Option<BTreeSet<RelationLocator>>,
    pub looked: Option<LsnRange>,
}

impl Before {
    /// Looks backwards from the range: first as far as transactions go back that committed in it, then as far as the
    /// baseline does, if that is wanted.
    pub(super) async fn look(
        survey: &Survey<'_>,
        reader: &Reader<'_>,
        range: &WalSummary,
        with_baseline: bool,
    ) -> Result<Self, ImpactError> {
        let needed: Vec<TransactionId> = range.transactions.committed.iter().map(TransactionId::new).collect();
        let span = range.times.latest().zip(range.times.earliest()).map_or(TimeDelta::zero(), |(a, b)| a - b);
        let begin = range.times.earliest().map(|first| first - span.clamp(MIN_BASELINE, MAX_BASELINE));
        let start = survey.backup.start_lsn;
        let legs = reader.summaries.legs(LsnRange { from: start, to: survey.range.from });
        let mut found = Self { open: None, uncounted: 0, baseline: Some(BTreeSet::new()), looked: None };
        let (mut before, mut open_at, mut settled) = (Whole::default(), None, needed.is_empty());
        let (mut decoded, mut parts) = (0, 0);
        for leg in backwards(legs, survey.catalog.segment_size()) {
            let bytes = if whole(leg) { 0 } else { leg.to.distance_from(leg.from).unwrap_or(0) };
            if settled && (!with_baseline || decoded + bytes > MAX_BASELINE_BYTES || parts >= MAX_BASELINE_PARTS) {
                break;
            }
            let summary = reader.part(leg).await?.summary;
            decoded += bytes;
            parts += 1;
            let earliest = summary.times.earliest();
            found.baseline.get_or_insert_default().extend(summary.rows.keys().copied());
            found.looked = Some(LsnRange { from: leg.from, to: survey.range.from });
            if !settled {
                before.push_front(summary)?;
                open_at = before.whole()?;
                settled = open_at.is_some_and(|open| uncounted(open, &needed) == 0);
            }
            let reached = earliest.zip(begin).is_some_and(|(earliest, begin)| earliest < begin);
            if settled && (reached || begin.is_none()) {
                break;
            }
        }
        if let Some(open) = open_at {
            found.uncounted = uncounted(open, &needed);
            found.open = Some(only_open(open.clone()));
        }
        Ok(found)
    }
}

/// Of these transactions, how many may have begun before the summary's range.
fn uncounted(open: &WalSummary, xids: &[TransactionId]) -> u64 {
    xids.iter().filter(|xid| open.transactions.may_have_begun_before(**xid)).count() as u64
}

/// Without what had been committed by its end.
pub(super) fn only_open(mut summary: WalSummary) -> WalSummary {
    summary.rows.clear();
    summary.moments.clear();
    summary.segments.clear();
    summary.sequences.clear();
    summary.times = crate::wal_summary::TransactionTimes::default();
    summary
}

/// Follows names from the backup on.
pub(super) struct Names<'a> {
    pub survey: &'a Survey<'a>,
    pub reader: &'a Reader<'a>,
    pub major: MajorVersion,
    pub databases: BTreeSet<Oid>,
}

impl Names<'_> {
    /// Names from the backup to the end of the range, of which `parts` tell, and what its commits did.
    pub(super) async fn follow(&self, parts: Vec<CatalogPart>) -> Result<(CatalogBook, Actions), ImpactError> {
        let (start, range) = (self.survey.backup.start_lsn, self.survey.range);
        let mut book = CatalogBook::new(self.major, range.from);
        let mut copy = CatalogCopy::open(self.survey.lineage, self.survey.backup, self.major).await?;
        copy.read_database_names(&mut book).await?;
        let known: Vec<(Oid, Oid)> = book.database_tablespaces().collect();
        for (database, tablespace) in known.into_iter().filter(|(database, _)| self.databases.contains(database)) {
            copy.read_database(&mut book, database, tablespace).await?;
        }
        let legs: Vec<Leg> = self.reader.summaries.legs(LsnRange { from: start, to: range.from });
        let reads =
            stream::iter(legs).map(async |leg| Ok::<_, ImpactError>((leg, self.reader.catalog_part(leg).await?)));
        let mut reads = std::pin::pin!(reads.buffered(PARALLEL_CATALOGS));
        while let Some((leg, part)) = reads.try_next().await? {
            self.apply_with_moved(&mut book, leg, part, &copy.moved).await?;
        }
        let mut actions = Actions::new();
        for (leg, part) in self.reader.summaries.legs(range).into_iter().zip(parts) {
            actions.extend(self.apply_with_moved(&mut book, leg, part, &copy.moved).await?);
        }
        Ok((book, actions))
    }

    async fn apply_with_moved(
        &self,
        book: &mut CatalogBook,
        leg: Leg,
        mut part: CatalogPart,
        moved: &MovedCatalogs,
    ) -> Result<Actions, ImpactError> {
        if !moved.is_empty() {
            match self.reader.moved_part(leg, moved).await? {
                Some(more) => part.merge(more),
                None => moved.keys().for_each(|file| book.lose(file.database, leg.from)),
            }
        }
        Ok(self.apply(book, &part))
    }

    /// Follows a part. Returns what its commits did.
    fn apply(&self, book: &mut CatalogBook, part: &CatalogPart) -> Actions {
        let ours = |database: Oid| database == 0 || self.databases.contains(&database);
        let mut actions = Actions::new();
        let mut changes = part.changes.iter().filter(|change| ours(change.database)).peekable();
        for commit in &part.commits {
            while let Some(change) = changes.next_if(|change| change.lsn < commit.lsn) {
                book.change(change);
            }
            let done = book.commit(commit);
            if !done.is_empty() {
                actions.entry(commit.lsn).or_default().extend(done);
            }
        }
        changes.for_each(|change| book.change(change));
        if let Some(oldest) = part.oldest_xid {
            book.forget_before(oldest);
        }
        actions
    }
}
