use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::postgres::time::from_postgres_microseconds;
use crate::postgres::wal::record::RecordFault;
use crate::postgres::wal::testing::WalWriter;
use crate::postgres::wal::{ResourceManager, WalDecoder};
use crate::postgres::{
    Fork, Lsn, MajorVersion, RelationLocator, SegmentNumber, TimelineId, TransactionId, WalSegmentSize,
};

const TABLE: RelationLocator = RelationLocator { tablespace: 1663, database: 5, relfilenode: 16_384 };
const PG_CLASS: RelationLocator = RelationLocator { tablespace: 1663, database: 5, relfilenode: 1259 };
const TIME: i64 = 848_656_801_234_567;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn xid(number: u32) -> TransactionId {
    TransactionId::new(number)
}

/// WAL and where its records begin.
struct Script {
    writer: WalWriter,
    starts: Vec<Lsn>,
}

impl Script {
    fn new() -> Self {
        let writer = WalWriter::new(MajorVersion::V17, TimelineId::FIRST, SegmentNumber::new(1), size());
        Self { writer, starts: Vec::new() }
    }

    fn append(mut self, manager: ResourceManager, info: u8, xid: TransactionId, fragments: &[u8]) -> Self {
        self.starts.push(self.writer.append_fragments(manager, info, xid, fragments).start);
        self
    }

    fn main(self, manager: ResourceManager, info: u8, xid: TransactionId, data: &[u8]) -> Self {
        let length = u8::try_from(data.len()).unwrap();
        self.append(manager, info, xid, &[&[255, length], data].concat())
    }

    fn heap(self, info: u8, number: u32, relation: RelationLocator, block: u32, data: &[u8]) -> Self {
        let tag = words(&[relation.tablespace, relation.database, relation.relfilenode, block]);
        let length = u8::try_from(data.len()).unwrap();
        let fragments = [&[0, 0, 0, 0], tag.as_slice(), &[255, length], data].concat();
        self.append(ResourceManager::HEAP, info, xid(number), &fragments)
    }

    fn insert(self, number: u32, relation: RelationLocator, block: u32) -> Self {
        self.heap(0x00, number, relation, block, &[1, 0, 0])
    }

    fn commit(self, number: u32) -> Self {
        self.main(ResourceManager::TRANSACTION, 0x00, xid(number), &TIME.to_le_bytes())
    }

    fn abort(self, number: u32) -> Self {
        self.main(ResourceManager::TRANSACTION, 0x20, xid(number), &TIME.to_le_bytes())
    }

    /// With an invalidation of `pg_class.oid` 16400.
    fn commit_schema(self, number: u32, subtransactions: &[u32]) -> Self {
        let mut data = TIME.to_le_bytes().to_vec();
        data.extend(words(&[0x2 | 0x8, u32::try_from(subtransactions.len()).unwrap()]));
        data.extend(words(subtransactions));
        data.extend(words(&[1, 0xFE, 5, 16_400, 0]));
        self.main(ResourceManager::TRANSACTION, 0x80, xid(number), &data)
    }

    fn running(self, next: u32, oldest: u32) -> Self {
        self.main(ResourceManager::STANDBY, 0x10, xid(0), &words(&[0, 0, 0, next, oldest, oldest - 1]))
    }

    fn summary(&self, from: Lsn, to: Lsn) -> WalSummary {
        let mut decoder = WalDecoder::new(self.writer.start(), TimelineId::FIRST, size());
        decoder.feed(self.writer.bytes());
        let mut builder = SummaryBuilder::new(TimelineId::FIRST, MajorVersion::V17, size(), from);
        while let Some(record) = decoder.next_record().unwrap() {
            if (from..to).contains(&record.start_lsn()) {
                builder.record(&record).unwrap();
            }
        }
        builder.finish(to).unwrap()
    }

    /// Every way to cut it in three folds into the whole, from the left as from the right.
    fn whole(&self) -> WalSummary {
        let (start, end) = (self.writer.start(), self.writer.position());
        let whole = self.summary(start, end);
        for (at, first) in self.starts.iter().enumerate().skip(1) {
            for second in self.starts.iter().skip(at + 1) {
                let parts = [self.summary(start, *first), self.summary(*first, *second), self.summary(*second, end)];
                let [one, two, three] = &parts;
                let left = fold(&[fold(&[one.clone(), two.clone()]).unwrap(), three.clone()]).unwrap();
                let right = fold(&[one.clone(), fold(&[two.clone(), three.clone()]).unwrap()]).unwrap();
                assert_eq!((&left, &right), (&whole, &whole), "cut at {first} and {second}");
            }
        }
        whole
    }
}

#[test]
fn rows_count_once_their_transaction_commits() {
    let script = Script::new().insert(700, TABLE, 1).insert(701, TABLE, 1).insert(702, TABLE, 2).abort(701).commit(700);
    let whole = script.whole();
    assert_eq!(whole.rows[&TABLE].inserted, 1);
    assert_eq!(whole.transactions.open.keys().copied().collect::<Vec<_>>(), [xid(702)]);
    assert_eq!(whole.times.commits.unwrap().last.xid, xid(700));
    assert_eq!(whole.times.aborts.unwrap().count, 1);
    let changes = whole.blocks.relation(TABLE, Fork::Main).unwrap();
    assert_eq!((changes.limit, changes.blocks.iter().collect::<Vec<_>>()), (None, vec![1, 2]));
}

#[test]
fn speculative_insertions_count_when_they_are_confirmed() {
    let script = Script::new()
        .heap(0x00, 700, TABLE, 1, &[1, 0, 4])
        .heap(0x50, 700, TABLE, 1, &[1, 0])
        .heap(0x00, 700, TABLE, 1, &[2, 0, 4])
        .heap(0x10, 700, TABLE, 1, &[0, 0, 0, 0, 2, 0, 0, 8])
        .commit(700);
    assert_eq!(script.whole().rows[&TABLE], RowChanges { inserted: 1, ..RowChanges::default() });
}

#[test]
fn transactions_of_a_crashed_server_never_commit() {
    let script = Script::new()
        .insert(700, TABLE, 1)
        .insert(701, TABLE, 1)
        .running(702, 700)
        .commit(701)
        .running(703, 702)
        .insert(702, TABLE, 1);
    let whole = script.whole();
    assert_eq!(whole.transactions.open.keys().copied().collect::<Vec<_>>(), [xid(702)]);
    assert!(whole.transactions.running.unwrap().settled);
    assert_eq!(whole.rows[&TABLE].inserted, 1);
}

#[test]
fn ends_of_transactions_that_began_within_are_not_kept() {
    let script = Script::new().running(700, 690).commit(695);
    let script = (700..720).fold(script, |script, number| script.insert(number, TABLE, 1).commit(number));
    let whole = script.whole();
    assert_eq!(whole.transactions.committed.iter().collect::<Vec<_>>(), [695]);
}

#[test]
fn transaction_ids_wrap_around() {
    let script = Script::new()
        .insert(u32::MAX, TABLE, 1)
        .insert(3, TABLE, 1)
        .running(4, u32::MAX)
        .commit(u32::MAX)
        .running(5, 4)
        .insert(4, TABLE, 1)
        .commit(4);
    let whole = script.whole();
    assert_eq!(whole.rows[&TABLE].inserted, 2);
    assert!(whole.transactions.open.is_empty());
}

#[test]
fn a_schema_change_is_found_wherever_its_parts_are() {
    let script = Script::new()
        .insert(700, PG_CLASS, 1)
        .insert(702, PG_CLASS, 2)
        .commit(699)
        .insert(701, TABLE, 1)
        .commit_schema(700, &[702])
        .commit_schema(701, &[]);
    let whole = script.whole();
    let [moment] = whole.moments.as_slice() else { panic!("{:?}", whole.moments) };
    assert_eq!(moment.lsn, script.starts[4]);
    let MomentKind::SchemaChange(change) = &moment.kind else { panic!("{moment:?}") };
    assert_eq!((change.xid, change.tables.iter().collect::<Vec<_>>()), (xid(700), vec![16_400]));
    assert_eq!(change.traces.catalogs, BTreeSet::from([1259]));
}

#[test]
fn truncation_forgets_what_it_cut_off() {
    let truncate = words(&[3, 1663, 5, 16_384, 7]);
    let script = Script::new()
        .insert(700, TABLE, 2)
        .insert(700, TABLE, 9)
        .main(ResourceManager::STORAGE, 0x20, xid(0), &truncate)
        .insert(700, TABLE, 4);
    let whole = script.whole();
    let changes = whole.blocks.relation(TABLE, Fork::Main).unwrap();
    assert_eq!((changes.limit, changes.blocks.iter().collect::<Vec<_>>()), (Some(3), vec![2, 4]));
    assert!(changes.touches(9) && changes.touches(2) && !changes.touches(1));
}

#[test]
fn a_record_left_out_is_noticed() {
    let script = Script::new().commit(700).commit(701).commit(702);
    let mut decoder = WalDecoder::new(script.writer.start(), TimelineId::FIRST, size());
    decoder.feed(script.writer.bytes());
    let from = script.writer.start();
    let mut builder = SummaryBuilder::new(TimelineId::FIRST, MajorVersion::V17, size(), from);
    builder.record(&decoder.next_record().unwrap().unwrap()).unwrap();
    decoder.next_record().unwrap().unwrap();
    let third = decoder.next_record().unwrap().unwrap();
    let error = builder.record(&third).unwrap_err();
    assert_eq!(error.fault, RecordFault::Order { expected: script.starts[0] });
    assert_eq!(builder.finish(script.writer.position()), Err(error));
    let mut late = SummaryBuilder::new(TimelineId::FIRST, MajorVersion::V17, size(), from);
    assert_eq!(late.record(&third).unwrap_err().fault, RecordFault::Order { expected: from });
}

#[test]
fn a_record_that_is_not_understood_ends_the_builder() {
    let script = Script::new().main(ResourceManager::TRANSACTION, 0x00, xid(700), &[1, 2, 3]).commit(701);
    let mut decoder = WalDecoder::new(script.writer.start(), TimelineId::FIRST, size());
    decoder.feed(script.writer.bytes());
    let mut builder = SummaryBuilder::new(TimelineId::FIRST, MajorVersion::V17, size(), script.writer.start());
    let error = builder.record(&decoder.next_record().unwrap().unwrap()).unwrap_err();
    assert_eq!(error.fault, RecordFault::MainDataTooShort);
    assert_eq!(builder.record(&decoder.next_record().unwrap().unwrap()), Err(error));
    assert_eq!(builder.finish(script.writer.position()), Err(error));
}

#[test]
fn only_neighbours_fold() {
    let script = Script::new().commit(700).commit(701).commit(702);
    let (start, end) = (script.writer.start(), script.writer.position());
    let first = script.summary(start, script.starts[1]);
    let last = script.summary(script.starts[2], end);
    let apart = FoldError::Apart { to: script.starts[1], from: script.starts[2] };
    assert_eq!(fold(&[first.clone(), last.clone()]), Err(apart));
    assert_eq!(fold(&[]), Err(FoldError::Nothing));
    let mut next = script.summary(script.starts[1], end);
    next.timeline = TimelineId::new(2).unwrap();
    assert!(matches!(fold(&[first.clone(), next.clone()]), Err(FoldError::Timelines { at, .. }) if at == first.to));
    assert_eq!(compose(&[first, next]).unwrap().timeline.as_u32(), 2);
}

#[test]
fn rows_of_times_grow_coarser_with_the_range() {
    let grain = |segments: u64| times::segments_per_row(Lsn::new(1 << 20), Lsn::new((segments + 1) << 20), size());
    assert_eq!((grain(1), grain(4096), grain(4097), grain(20_000)), (1, 1, 2, 8));
    let time = from_postgres_microseconds(TIME).unwrap();
    let row = |segment| SegmentTimes { segment, commits: 1, aborts: 0, earliest: time, latest: time };
    let coarse = times::coarsen((5..9).map(row), 4);
    assert_eq!(coarse.iter().map(|row| (row.segment, row.commits)).collect::<Vec<_>>(), [(4, 3), (8, 1)]);
}

fn set(numbers: &BTreeSet<u32>) -> RunSet {
    RunSet::from_sorted(numbers.iter().copied())
}

fn numbers() -> impl Strategy<Value = BTreeSet<u32>> {
    prop::collection::btree_set(prop_oneof![0_u32..80, u32::MAX - 20..=u32::MAX], 0..60)
}

proptest! {
    #[test]
    fn run_sets_are_sets(a in numbers(), b in numbers(), limit in prop_oneof![0_u32..90, u32::MAX - 25..=u32::MAX]) {
        let (left, right) = (set(&a), set(&b));
        prop_assert!(left.iter().eq(a.iter().copied()));
        prop_assert_eq!(left.len(), a.len() as u64);
        prop_assert_eq!(left.union(&right), set(&(&a | &b)));
        prop_assert_eq!(left.without(&right), set(&(&a - &b)));
        prop_assert_eq!(left.contains(limit), a.contains(&limit));
        let mut cut = left.clone();
        cut.cut(limit);
        prop_assert_eq!(cut, set(&a.range(..limit).copied().collect()));
        let bytes = postcard::to_stdvec(&left).unwrap();
        prop_assert_eq!(postcard::from_bytes::<RunSet>(&bytes).unwrap(), left);
    }

    #[test]
    fn stored_run_sets_of_any_words_are_sets_or_refused(words in prop::collection::vec(any::<u64>(), 0..20)) {
        let bytes = postcard::to_stdvec(&words).unwrap();
        if let Ok(set) = postcard::from_bytes::<RunSet>(&bytes) {
            prop_assert!(set.runs().is_sorted_by(|a, b| u64::from(a.last) + 1 < u64::from(b.first)));
        }
    }
}
