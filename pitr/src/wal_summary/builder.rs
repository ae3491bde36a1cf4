//! Builds a summary from the records of its range.

mod relations;
mod tally;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use self::relations::RelationTable;
use self::tally::Tally;
use super::blocks::{ChangedBlocks, DatabaseLocator};
use super::catalog::{self, CatalogChange, CatalogChangeKind, Filled, SequenceState};
use super::listed::Listed;
use super::moment::{Moment, MomentKind, SchemaChange, SchemaTraces};
use super::rows::RowChanges;
use super::run_set::RunSet;
use super::summary::WalSummary;
use super::times::{EndedTransaction, SegmentTimes, TransactionTimes, coarsen, segments_per_row};
use super::transactions::{OpenTransaction, PreparedPoint, Running, SchemaCommit, Transactions, precedes};
use crate::postgres::relation::{Fork, RelationLocator};
use crate::postgres::system_catalog::{FIRST_NORMAL_OID, NamingCatalog};
use crate::postgres::wal::heap::HeapChange;
use crate::postgres::wal::meaning::{Checkpoint, ParameterChange, RecordMeaning};
use crate::postgres::wal::prepare::PreparedTransaction;
use crate::postgres::wal::record::RecordFault;
use crate::postgres::wal::storage::TruncateStorage;
use crate::postgres::wal::{Outcome, Record, RecordError, ResourceManager, TransactionEnd};
use crate::postgres::{Lsn, MajorVersion, TimelineId, TransactionId, WalSegmentSize};

/// Catalogs that change without anybody changing the schema: statistics with their TOAST, large objects, the state of
/// subscribed tables.
const CATALOGS_WITHOUT_SCHEMA: [u32; 7] = [2619, 2840, 3429, 3430, 2613, 2995, 6102];
/// `HEAPBLOCKS_PER_PAGE`: how many heap blocks one block of a visibility map speaks of.
const HEAP_BLOCKS_PER_MAP_BLOCK: u32 = 32_672;
const WAL_LEVEL_REPLICA: i32 = 1;

/// Takes the records of one range, in order and all of them.
///
/// The record that starts last in a segment usually ends in the next one, so a segment's summary is finished once the first
/// record behind it has been decoded, or at the end of the timeline.
#[derive(Debug)]
pub struct SummaryBuilder {
    timeline: TimelineId,
    major: MajorVersion,
    segment_size: WalSegmentSize,
    from: Lsn,
    last_start: Option<Lsn>,
    times: TransactionTimes,
    segments: Vec<SegmentTimes>,
    moments: Vec<Moment>,
    relations: RelationTable,
    blocks: ChangedBlocks,
    open: FxHashMap<TransactionId, Tally>,
    spare: Vec<Tally>,
    /// Those that may have begun before the range, and whether they committed.
    ended: FxHashMap<TransactionId, bool>,
    schema_commits: Vec<SchemaCommit>,
    catalog: Vec<CatalogChange>,
    sequences: BTreeMap<RelationLocator, SequenceState>,
    running: Option<Running>,
    failed: Option<RecordError>,
}

impl SummaryBuilder {
    /// For the records that start at `from` or later.
    #[must_use]
    pub fn new(timeline: TimelineId, major: MajorVersion, segment_size: WalSegmentSize, from: Lsn) -> Self {
        Self {
            timeline,
            major,
            segment_size,
            from,
            last_start: None,
            times: TransactionTimes::default(),
            segments: Vec::new(),
            moments: Vec::new(),
            relations: RelationTable::default(),
            blocks: ChangedBlocks::default(),
            open: FxHashMap::default(),
            spare: Vec::new(),
            ended: FxHashMap::default(),
            schema_commits: Vec::new(),
            catalog: Vec::new(),
            sequences: BTreeMap::new(),
            running: None,
            failed: None,
        }
    }

    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    #[must_use]
    pub const fn from(&self) -> Lsn {
        self.from
    }

    /// Start of the last record that was taken.
    #[must_use]
    pub const fn last_start(&self) -> Option<Lsn> {
        self.last_start
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// It cannot be understood, or it is not the next one; the same again from then on.
    #[inline]
    pub fn record(&mut self, record: &Record<'_>) -> Result<(), RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let taken = self.check_order(record).and_then(|()| self.take(record));
        if let Err(error) = taken {
            self.failed = Some(error);
        }
        taken
    }

    /// The summary of all that was taken, which must be every record that starts before `to`.
    ///
    /// # Errors
    /// What [`Self::record`] returned, or `to` does not lie behind the last record's start.
    pub fn finish(mut self, to: Lsn) -> Result<WalSummary, RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let least = self.last_start.unwrap_or(self.from);
        if to <= least {
            let fault = RecordFault::Order { expected: to };
            return Err(RecordError { lsn: least, resource_manager: ResourceManager::XLOG, fault });
        }
        let per_row = segments_per_row(self.from, to, self.segment_size);
        let open = self.open.drain().filter_map(|(xid, tally)| Some((xid, open(tally, &self.relations)?)));
        let open: BTreeMap<_, _> = open.collect();
        let (committed, aborted) = outcomes(&self.ended);
        let (relations, rows) = self.relations.finish();
        Ok(WalSummary {
            timeline: self.timeline,
            from: self.from,
            to,
            major: self.major,
            segment_size: self.segment_size,
            times: self.times,
            segments: coarsen(self.segments, per_row),
            moments: self.moments,
            blocks: ChangedBlocks { relations, ..self.blocks },
            rows,
            transactions: Transactions {
                open,
                committed,
                aborted,
                schema_commits: self.schema_commits,
                running: self.running,
            },
            catalog: self.catalog,
            sequences: self.sequences,
        })
    }

    /// Records are chained, so that one left out is noticed.
    fn check_order(&mut self, record: &Record<'_>) -> Result<(), RecordError> {
        let start = record.start_lsn();
        let previous = record.header().previous;
        let follows = match self.last_start {
            Some(last) => previous == last,
            None => previous < self.from,
        };
        if start < self.from || !follows {
            let expected = self.last_start.unwrap_or(self.from);
            return Err(record.error(RecordFault::Order { expected }));
        }
        self.last_start = Some(start);
        Ok(())
    }

    #[inline]
    fn take(&mut self, record: &Record<'_>) -> Result<(), RecordError> {
        let mut first = None;
        let relations = &mut self.relations;
        let data = record.visit_blocks(self.major, |tag| {
            if tag.fork != Fork::Fsm {
                let relation = relations.touch(tag.relation, tag.fork, tag.block);
                first.get_or_insert((relation, tag.relation));
            }
        })?;
        match record.resource_manager() {
            ResourceManager::HEAP | ResourceManager::HEAP2 => self.heap(record, data, first),
            ResourceManager::TRANSACTION
            | ResourceManager::XLOG
            | ResourceManager::STORAGE
            | ResourceManager::DATABASE
            | ResourceManager::TABLESPACE
            | ResourceManager::RELMAP
            | ResourceManager::STANDBY => self.mean(record),
            ResourceManager::SEQUENCE => self.sequence(record),
            manager => {
                if manager.is_custom() {
                    self.blocks.custom_managers.insert(manager.as_u8());
                }
                Ok(())
            }
        }
    }

    #[inline]
    fn heap<'a>(
        &mut self,
        record: &Record<'a>,
        data: &'a [u8],
        first: Option<(usize, RelationLocator)>,
    ) -> Result<(), RecordError> {
        let xid = record.xid();
        let Some(change) = record.heap_change(data)? else { return Ok(()) };
        // Changes outside of transactions are not those of users.
        if !xid.is_normal() {
            return Ok(());
        }
        if let HeapChange::Truncate(truncate) = change {
            let traces = self.tally(xid).traces();
            truncate.relations().for_each(|relation| traces.truncated.insert(relation));
            return Ok(());
        }
        let (relation, locator) = first.ok_or_else(|| record.error(RecordFault::NoBlock))?;
        let catalog = locator.relfilenode;
        if catalog < FIRST_NORMAL_OID
            && let Some(naming) = NamingCatalog::of_file(catalog)
        {
            self.catalog.extend(catalog::row_change(record, self.major, locator, naming)?);
        }
        let rows = RowChanges::of(&change);
        if rows.is_nothing() {
            return Ok(());
        }
        let tally = self.tally(xid);
        tally.add(relation, rows);
        if catalog < FIRST_NORMAL_OID && !CATALOGS_WITHOUT_SCHEMA.contains(&catalog) {
            tally.traces().catalogs.insert(catalog);
        }
        Ok(())
    }

    #[inline]
    fn tally(&mut self, xid: TransactionId) -> &mut Tally {
        self.open.entry(xid).or_insert_with(|| self.spare.pop().unwrap_or_default())
    }

    fn sequence(&mut self, record: &Record<'_>) -> Result<(), RecordError> {
        if let Some(set) = record.sequence(self.major)? {
            self.sequences.insert(set.relation, SequenceState { last_value: set.last_value, is_called: set.is_called });
        }
        Ok(())
    }

    fn mean(&mut self, record: &Record<'_>) -> Result<(), RecordError> {
        match record.meaning(self.major)? {
            RecordMeaning::TransactionEnd(end) => self.end(record, &end),
            RecordMeaning::Prepare(prepare) => self.prepare(record, &prepare),
            RecordMeaning::RunningTransactions { next_xid, oldest_running_xid } => {
                self.running(next_xid, oldest_running_xid);
            }
            RecordMeaning::CreateStorage { relation, fork } => {
                if fork != Fork::Fsm {
                    self.relations.limit(relation, fork, 0);
                }
                if fork == Fork::Main && record.xid().is_normal() {
                    self.tally(record.xid()).traces().created.insert(relation);
                }
            }
            RecordMeaning::TruncateStorage(truncate) => self.truncate(record.xid(), &truncate),
            RecordMeaning::UpdateRelationMap { database, tablespace, map } => {
                self.blocks.relation_maps.insert(DatabaseLocator { database, tablespace });
                self.catalog.extend(catalog::map_change(record.start_lsn(), database, tablespace, map));
            }
            RecordMeaning::PageImages => self.catalog.extend(catalog::copied_rows(record, self.major)?),
            RecordMeaning::CheckpointRedo { wal_level } => self.wal_level(wal_level),
            RecordMeaning::FullPageWrites { enabled } => self.blocks.full_page_writes_off |= !enabled,
            other => self.moment(record, other),
        }
        Ok(())
    }

    fn moment(&mut self, record: &Record<'_>, meaning: RecordMeaning<'_>) {
        let kind = match meaning {
            RecordMeaning::RestorePoint(point) => MomentKind::RestorePoint { name: text(point.name), time: point.time },
            RecordMeaning::Checkpoint(checkpoint) => self.checkpoint(&checkpoint),
            RecordMeaning::BackupEnd { start_lsn } => MomentKind::BackupEnd { start_lsn },
            RecordMeaning::EndOfRecovery(end) => {
                if let Some(wal_level) = end.wal_level {
                    self.wal_level(wal_level);
                }
                MomentKind::TimelineBegin { previous: end.previous_tli }
            }
            RecordMeaning::ParameterChange(change) => self.parameter_change(change),
            RecordMeaning::CreateTablespace { tablespace, path } => {
                MomentKind::CreateTablespace { tablespace, path: text(path) }
            }
            RecordMeaning::DropTablespace { tablespace } => MomentKind::DropTablespace { tablespace },
            RecordMeaning::CreateDatabase(create) => {
                let (database, tablespace) = (create.database, create.tablespace);
                self.blocks.databases.insert(DatabaseLocator { database, tablespace });
                if let Some((source, _)) = create.copied_from {
                    let kind = CatalogChangeKind::CopiedFiles { database: source };
                    self.catalog.push(CatalogChange { lsn: record.start_lsn(), database, tablespace, kind });
                }
                MomentKind::CreateDatabase { database, tablespace }
            }
            RecordMeaning::DropDatabase(drop) => {
                let database = drop.database;
                let locators = drop.tablespaces().map(|tablespace| DatabaseLocator { database, tablespace });
                self.blocks.databases.extend(locators);
                MomentKind::DropDatabase { database, tablespaces: drop.tablespaces().collect() }
            }
            _ => return,
        };
        self.moments.push(Moment { lsn: record.start_lsn(), end_lsn: record.end_lsn(), kind });
    }

    /// One that begins a timeline is the checkpoint at the end of a recovery; its redo point is the record itself.
    const fn checkpoint(&mut self, checkpoint: &Checkpoint) -> MomentKind {
        self.blocks.full_page_writes_off |= !checkpoint.full_page_writes;
        if let Some(wal_level) = checkpoint.wal_level {
            self.wal_level(wal_level);
        }
        if checkpoint.tli.as_u32() != checkpoint.previous_tli.as_u32() {
            return MomentKind::TimelineBegin { previous: checkpoint.previous_tli };
        }
        MomentKind::Checkpoint { redo_lsn: checkpoint.redo_lsn, shutdown: checkpoint.shutdown }
    }

    const fn wal_level(&mut self, wal_level: i32) {
        self.blocks.wal_level_minimal |= wal_level < WAL_LEVEL_REPLICA;
    }

    const fn parameter_change(&mut self, change: ParameterChange) -> MomentKind {
        self.wal_level(change.wal_level);
        MomentKind::ParameterChange {
            max_connections: change.max_connections,
            max_worker_processes: change.max_worker_processes,
            max_wal_senders: change.max_wal_senders,
            max_prepared_transactions: change.max_prepared_transactions,
            max_locks_per_transaction: change.max_locks_per_transaction,
            wal_level: change.wal_level,
            wal_log_hints: change.wal_log_hints,
        }
    }

    /// The block of the visibility map that speaks of the new end is changed too, so it counts as cut off.
    fn truncate(&mut self, xid: TransactionId, truncate: &TruncateStorage) {
        if truncate.main {
            self.relations.limit(truncate.relation, Fork::Main, truncate.blocks);
            // What `VACUUM` cuts off is cut off outside of transactions.
            if truncate.blocks == 0 && xid.is_normal() {
                let relation = self.relations.index(truncate.relation, Fork::Main);
                self.tally(xid).add(relation, RowChanges { truncated: 1, ..RowChanges::default() });
            }
        }
        if truncate.visibility_map {
            self.relations.limit(truncate.relation, Fork::Vm, truncate.blocks / HEAP_BLOCKS_PER_MAP_BLOCK);
        }
    }

    fn running(&mut self, next: TransactionId, oldest: TransactionId) {
        let now = Running::new(next, oldest);
        match &mut self.running {
            Some(running) => running.append(&now),
            None => self.running = Some(now),
        }
        self.open.retain(|xid, _| !precedes(*xid, oldest));
    }

    fn prepare(&mut self, record: &Record<'_>, prepare: &PreparedTransaction<'_>) {
        let point = PreparedPoint { lsn: record.start_lsn(), time: prepare.time, gid: text(prepare.gid) };
        self.tally(prepare.xid).prepared = Some(Box::new(point));
    }

    fn end(&mut self, record: &Record<'_>, end: &TransactionEnd<'_>) {
        let committed = end.outcome == Outcome::Commit;
        let point = EndedTransaction { lsn: record.start_lsn(), xid: end.xid, time: end.time };
        if committed {
            self.times.commit(point);
        } else {
            self.times.abort(point);
        }
        self.segment(&point, committed);
        // All files go with the main fork; the other forks are whole in every copy.
        end.dropped_relations.iter().for_each(|relation| self.relations.limit(relation, Fork::Main, 0));
        let (mut traces, mut members, mut filled) = (SchemaTraces::default(), Vec::new(), Filled::default());
        let schema = !end.invalidations.is_empty() || !end.dropped_relations.is_empty();
        for xid in std::iter::once(end.xid).chain(end.subtransactions.iter()) {
            if let Some(mut tally) = self.open.remove(&xid) {
                if committed {
                    self.relations.commit(&tally);
                    if schema {
                        tally.rows().for_each(|(index, rows)| filled.add(self.relations.locator(index), rows.inserted));
                    }
                    if let Some(more) = tally.take_traces() {
                        traces.merge(&more);
                        members.push(xid.as_u32());
                    }
                }
                tally.clear();
                self.spare.push(tally);
            }
            if self.may_have_begun_before(xid) {
                self.ended.entry(xid).or_insert(committed);
            }
        }
        if committed && schema {
            self.schema_commit(record, end, traces, members.into_iter().collect(), filled);
        }
    }

    fn may_have_begun_before(&self, xid: TransactionId) -> bool {
        self.running.is_none_or(|running| running.may_have_begun_before(xid))
    }

    /// Whoever changes the schema makes sessions forget what they know of it, or drops files.
    fn schema_commit(
        &mut self,
        record: &Record<'_>,
        end: &TransactionEnd<'_>,
        mut traces: SchemaTraces,
        members: RunSet,
        filled: Filled,
    ) {
        end.dropped_relations.iter().for_each(|relation| traces.dropped.insert(relation));
        let (lsn, end_lsn) = (record.start_lsn(), record.end_lsn());
        let change = SchemaChange {
            xid: end.xid,
            time: end.time,
            database: end.database.map_or(0, |database| database.database),
            tables: end.invalidations.relations().collect::<Listed<_>>(),
            members,
            filled,
            traces,
        };
        if self.may_have_begun_before(end.xid) {
            let mut subtransactions: Vec<_> = end.subtransactions.iter().map(TransactionId::as_u32).collect();
            subtransactions.sort_unstable();
            let change = SchemaChange { traces: SchemaTraces::default(), members: RunSet::default(), ..change.clone() };
            let subtransactions = RunSet::from_sorted(subtransactions);
            self.schema_commits.push(SchemaCommit { lsn, end_lsn, change, subtransactions });
        }
        if !change.traces.is_empty() {
            self.moments.push(Moment { lsn, end_lsn, kind: MomentKind::SchemaChange(Box::new(change)) });
        }
    }

    fn segment(&mut self, end: &EndedTransaction, committed: bool) {
        let segment = self.segment_size.segment_of(end.lsn).as_u64();
        let (commits, aborts) = if committed { (1, 0) } else { (0, 1) };
        let row = SegmentTimes { segment, commits, aborts, earliest: end.time, latest: end.time };
        match self.segments.last_mut() {
            Some(last) if last.segment == segment => last.append(&row),
            _ => self.segments.push(row),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn open(mut tally: Tally, relations: &RelationTable) -> Option<OpenTransaction> {
    let traces = tally.take_traces().map(|traces| *traces).unwrap_or_default();
    let prepared = tally.prepared.take().map(|prepared| *prepared);
    let rows: BTreeMap<_, _> = tally.rows().map(|(index, rows)| (relations.locator(index), rows)).collect();
    (!rows.is_empty() || !traces.is_empty() || prepared.is_some()).then_some(OpenTransaction { rows, traces, prepared })
}

fn outcomes(ended: &FxHashMap<TransactionId, bool>) -> (RunSet, RunSet) {
    let of = |outcome: bool| {
        let xids = ended.iter().filter(|(_, committed)| **committed == outcome).map(|(xid, _)| xid.as_u32());
        let mut xids: Vec<_> = xids.collect();
        xids.sort_unstable();
        RunSet::from_sorted(xids)
    };
    (of(true), of(false))
}
