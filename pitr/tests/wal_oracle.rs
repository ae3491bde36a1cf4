//! What the library understands of a varied workload's WAL, against what PostgreSQL's own tools read in it
//! (`tests/tools/make-wal-oracle.sh`): `pg_waldump` of every version, and the server's own summarizer of the WAL.
//!
//! `PITR_WAL_ORACLE` names a directory with more of the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pitr::postgres::wal::{Outcome, Record, RecordMeaning, WalDecoder};
use pitr::postgres::{Fork, Lsn, MajorVersion, RelationLocator, TimelineId, TransactionId, WalSegmentSize};
use pitr::wal_summary::{MomentKind, RowChanges, SummaryBuilder, WalSummary, compose, fold};
use proptest::prelude::*;

struct Oracle {
    major: MajorVersion,
    start: Lsn,
    wal: Vec<u8>,
    records: Vec<Listed>,
    summaries: Option<String>,
    ledger: String,
}

/// A record as `pg_waldump` lists it.
struct Listed {
    lsn: Lsn,
    manager: String,
    xid: TransactionId,
    /// Operation and its description, without the blocks.
    description: String,
    blocks: Vec<(RelationLocator, Fork, u32)>,
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

fn unpacked(path: &Path) -> Vec<u8> {
    zstd::decode_all(std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn directories() -> Vec<PathBuf> {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/wal-oracle");
    let more = std::env::var_os("PITR_WAL_ORACLE").map(PathBuf::from);
    let roots = std::iter::once(kept).chain(more);
    let mut found: Vec<_> =
        roots.flat_map(|root| std::fs::read_dir(root).unwrap()).map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

impl Oracle {
    fn all() -> impl Iterator<Item = Self> {
        directories().into_iter().map(|directory| Self::load(&directory))
    }

    fn load(directory: &Path) -> Self {
        let major = directory.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let ledger = std::fs::read_to_string(directory.join("ledger.txt")).unwrap();
        let start = ledger.lines().find_map(|line| line.strip_prefix("start ")).unwrap().parse().unwrap();
        let records = String::from_utf8(unpacked(&directory.join("records.tsv.zst"))).unwrap();
        let summaries = directory.join("summaries.tsv.zst");
        Self {
            major: MajorVersion::from_number(major).unwrap(),
            start,
            wal: unpacked(&directory.join("wal.zst")),
            records: records.lines().map(listed).collect(),
            summaries: summaries.exists().then(|| String::from_utf8(unpacked(&summaries)).unwrap()),
            ledger,
        }
    }

    fn noted(&self, event: &str) -> impl Iterator<Item = Vec<&str>> {
        let lines = self.ledger.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines.filter(move |words| words.first() == Some(&event)).map(|words| words[1..].to_vec())
    }

    /// Hands every record to `look`, beside what was listed for it.
    fn each(&self, mut look: impl FnMut(&Record<'_>, &Listed)) {
        let mut decoder = WalDecoder::new(self.start, TimelineId::FIRST, size());
        decoder.feed(&self.wal);
        for listed in &self.records {
            let record = decoder.next_record().unwrap().unwrap_or_else(|| panic!("{}: no record", listed.lsn));
            assert_eq!(record.start_lsn(), listed.lsn, "{}", self.major);
            look(&record, listed);
        }
        assert!(self.records.len() > 5000, "{}: {}", self.major, self.records.len());
    }

    /// Summaries of the parts between `borders`, which rise. Before the first one and behind the last one there is none.
    fn summaries(&self, borders: &[Lsn]) -> Vec<WalSummary> {
        let mut decoder = WalDecoder::new(self.start, TimelineId::FIRST, size());
        decoder.feed(&self.wal);
        let (first, mut rest) = borders.split_first().unwrap();
        let builder = |from| SummaryBuilder::new(TimelineId::FIRST, self.major, size(), from);
        let (mut summaries, mut current) = (Vec::new(), builder(*first));
        while let Some(record) = decoder.next_record().unwrap() {
            while let Some((border, after)) = rest.split_first().filter(|(border, _)| **border <= record.start_lsn()) {
                summaries.push(std::mem::replace(&mut current, builder(*border)).finish(*border).unwrap());
                rest = after;
            }
            if rest.is_empty() {
                return summaries;
            }
            if record.start_lsn() >= *first {
                current.record(&record).unwrap();
            }
        }
        // Behind the last record there is only the rest of its segment.
        for border in rest {
            summaries.push(std::mem::replace(&mut current, builder(*border)).finish(*border).unwrap());
        }
        summaries
    }

    fn end(&self) -> Lsn {
        self.start.advance(self.wal.len() as u64)
    }

    fn whole(&self) -> WalSummary {
        self.summaries(&[self.start, self.end()]).pop().unwrap()
    }
}

fn listed(line: &str) -> Listed {
    let [lsn, manager, xid, description]: [&str; 4] = line.splitn(4, '\t').collect::<Vec<_>>().try_into().unwrap();
    let mut parts = description.split("blkref #");
    let text = parts.next().unwrap().trim_end_matches([' ', ',', ';']).to_owned();
    // "0: rel 1663/5/16384 fork vm blk 0 FPW, "
    let block = |part: &str| {
        let words: Vec<_> = part.split_whitespace().map(|word| word.trim_end_matches([',', ';'])).collect();
        let [tablespace, database, relfilenode]: [u32; 3] =
            words[2].split('/').map(|oid| oid.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
        let (fork, rest) = if words[3] == "fork" { (words[4], &words[5..]) } else { ("main", &words[3..]) };
        let fork = match fork {
            "main" => Fork::Main,
            "fsm" => Fork::Fsm,
            "vm" => Fork::Vm,
            "init" => Fork::Init,
            other => panic!("fork {other}"),
        };
        assert_eq!(rest[0], "blk");
        (RelationLocator { tablespace, database, relfilenode }, fork, rest[1].parse().unwrap())
    };
    Listed {
        lsn: lsn.parse().unwrap(),
        manager: manager.to_owned(),
        xid: TransactionId::new(xid.parse().unwrap()),
        description: text,
        blocks: parts.map(block).collect(),
    }
}

/// `base/5/16384`, as the server names the file of a relation.
fn path(relation: RelationLocator, version_directory: &str) -> String {
    let RelationLocator { tablespace, database, relfilenode } = relation;
    match tablespace {
        1663 => format!("base/{database}/{relfilenode}"),
        1664 => format!("global/{relfilenode}"),
        _ => format!("pg_tblspc/{tablespace}/{version_directory}/{database}/{relfilenode}"),
    }
}

/// `PG_15_202209061` in any path of the description.
fn version_directory(description: &str) -> &str {
    description.split('/').find(|part| part.starts_with("PG_")).unwrap_or_default()
}

/// What follows `name` in a description, up to the next part.
fn part<'a>(description: &'a str, name: &str) -> Vec<&'a str> {
    let found = description.split(name).nth(1).map(|rest| rest.split(';').next().unwrap_or_default());
    found.unwrap_or_default().split_whitespace().collect()
}

#[test]
fn every_version_has_an_oracle() {
    let found: BTreeSet<_> =
        directories().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(found, MajorVersion::ALL.iter().map(ToString::to_string).collect());
}

#[test]
fn block_references_are_those_of_pg_waldump() {
    for oracle in Oracle::all() {
        let mut managers = BTreeSet::new();
        oracle.each(|record, listed| {
            let body = record.body(oracle.major).unwrap();
            let found: Vec<_> = body.blocks().map(|block| (block.relation, block.fork, block.block)).collect();
            assert_eq!(found, listed.blocks, "{} {}: {}", oracle.major, listed.lsn, listed.description);
            let mut visited = Vec::new();
            let data =
                record.visit_blocks(oracle.major, |tag| visited.push((tag.relation, tag.fork, tag.block))).unwrap();
            assert_eq!((visited, data), (found, body.main_data()));
            assert_eq!(record.xid(), listed.xid, "{} {}", oracle.major, listed.lsn);
            managers.insert(listed.manager.clone());
        });
        for manager in ["Btree", "Hash", "Gin", "Gist", "SPGist", "BRIN", "Sequence", "Heap", "Heap2", "RelMap"] {
            assert!(managers.contains(manager), "{}: {managers:?}", oracle.major);
        }
    }
}

#[test]
fn ends_of_transactions_are_those_of_pg_waldump() {
    for oracle in Oracle::all() {
        let (mut subtransactions, mut dropped, mut prepared) = (0, 0, 0);
        oracle.each(|record, listed| {
            let text = &listed.description;
            let operation = text.split(' ').next().unwrap();
            let end = record.transaction_end(oracle.major).unwrap();
            let is_end =
                listed.manager == "Transaction" && (operation.contains("COMMIT") || operation.contains("ABORT"));
            assert_eq!(end.is_some(), is_end, "{text}");
            let Some(end) = end else { return };
            let mut expected = match (end.outcome, end.prepared) {
                (Outcome::Commit, false) => "COMMIT ".to_owned(),
                (Outcome::Abort, false) => "ABORT ".to_owned(),
                (Outcome::Commit, true) => format!("COMMIT_PREPARED {}: ", end.xid),
                (Outcome::Abort, true) => format!("ABORT_PREPARED {}: ", end.xid),
            };
            write!(expected, "{}", end.time.format("%Y-%m-%d %H:%M:%S%.6f UTC")).unwrap();
            assert!(text.starts_with(&expected), "{}: {expected} is not {text}", oracle.major);
            let version = version_directory(text);
            let relations: Vec<_> = end.dropped_relations.iter().map(|r| path(r, version)).collect();
            assert_eq!(relations, part(text, "rels:"), "{text}");
            let xids: Vec<_> = end.subtransactions.iter().map(|xid| xid.to_string()).collect();
            assert_eq!(xids, part(text, "subxacts:"), "{text}");
            let words = part(text, "inval msgs:");
            let forgotten = words.windows(2).filter(|pair| pair[0] == "relcache" && pair[1] != "0");
            let forgotten: Vec<u32> = forgotten.map(|pair| pair[1].parse().unwrap()).collect();
            assert_eq!(end.invalidations.relations().collect::<Vec<_>>(), forgotten, "{text}");
            subtransactions += xids.len();
            dropped += relations.len();
            prepared += usize::from(end.prepared);
        });
        assert!(subtransactions > 100 && dropped > 10 && prepared == 3, "{} {dropped} {prepared}", oracle.major);
    }
}

/// The record as `pg_waldump` would begin to describe it, where it is of a kind that both know.
fn described(record: &Record<'_>, listed: &Listed, major: MajorVersion) -> Option<String> {
    let version = version_directory(&listed.description);
    let path = |relation| path(relation, version);
    let suffix = |fork: Fork| fork.suffix();
    Some(match record.meaning(major).unwrap() {
        RecordMeaning::CreateStorage { relation, fork } => format!("CREATE {}{}", path(relation), suffix(fork)),
        RecordMeaning::TruncateStorage(truncate) => {
            let flags = u8::from(truncate.main)
                | u8::from(truncate.visibility_map) << 1
                | u8::from(truncate.free_space_map) << 2;
            format!("TRUNCATE {} to {} blocks flags {flags}", path(truncate.relation), truncate.blocks)
        }
        RecordMeaning::UpdateRelationMap { database, tablespace, .. } => {
            format!("UPDATE database {database} tablespace {tablespace}")
        }
        RecordMeaning::RestorePoint(point) => format!("RESTORE_POINT {}", String::from_utf8_lossy(point.name)),
        RecordMeaning::RunningTransactions { next_xid, .. } => format!("RUNNING_XACTS nextXid {next_xid} "),
        RecordMeaning::Checkpoint(checkpoint) => {
            let kind = if checkpoint.shutdown { "SHUTDOWN" } else { "ONLINE" };
            format!(
                "CHECKPOINT_{kind} redo {}; tli {}; prev tli {}; fpw {};",
                checkpoint.redo_lsn,
                checkpoint.tli.as_u32(),
                checkpoint.previous_tli.as_u32(),
                checkpoint.full_page_writes,
            )
        }
        RecordMeaning::CheckpointRedo { wal_level: 1 } => "CHECKPOINT_REDO".to_owned(),
        RecordMeaning::Prepare(prepare) => {
            let xids: Vec<_> = prepare.subtransactions.iter().map(|xid| xid.to_string()).collect();
            assert_eq!(xids, part(&listed.description, "subxacts:"));
            let dropped: Vec<_> = prepare.dropped_on_commit.iter().map(path).collect();
            assert_eq!(dropped, part(&listed.description, "rels(commit):"));
            let dropped: Vec<_> = prepare.dropped_on_abort.iter().map(path).collect();
            assert_eq!(dropped, part(&listed.description, "rels(abort):"));
            format!("PREPARE gid {}: ", String::from_utf8_lossy(prepare.gid))
        }
        RecordMeaning::CreateTablespace { tablespace, path } => {
            format!("CREATE {tablespace} \"{}\"", String::from_utf8_lossy(path))
        }
        RecordMeaning::DropTablespace { tablespace } => format!("DROP {tablespace}"),
        RecordMeaning::CreateDatabase(_) => "CREATE".to_owned(),
        RecordMeaning::DropDatabase(_) => "DROP".to_owned(),
        RecordMeaning::Switch => "SWITCH".to_owned(),
        _ => return None,
    })
}

#[test]
fn records_mean_what_pg_waldump_says() {
    for oracle in Oracle::all() {
        let mut kinds = BTreeMap::<String, usize>::new();
        oracle.each(|record, listed| {
            let Some(expected) = described(record, listed, oracle.major) else {
                let known = ["Storage", "RelMap", "Database", "Tablespace"].contains(&listed.manager.as_str());
                assert!(!known, "{} {}", oracle.major, listed.description);
                return;
            };
            let text = listed.description.replace("copy dir ", "");
            assert!(text.starts_with(expected.trim_end()), "{}: {expected} is not {text}", oracle.major);
            *kinds.entry(listed.manager.clone() + " " + expected.split(' ').next().unwrap()).or_default() += 1;
        });
        for kind in ["Storage CREATE", "Storage TRUNCATE", "RelMap UPDATE", "Database DROP", "Transaction PREPARE"] {
            assert!(kinds.contains_key(kind), "{}: {kinds:?}", oracle.major);
        }
    }
}

/// The rules of `walsummarizer.c`, over the text.
#[derive(Default)]
struct Expected {
    limit: Option<u32>,
    blocks: BTreeSet<u32>,
}

impl Expected {
    fn cut(&mut self, limit: u32) {
        self.blocks.retain(|block| *block < limit);
        self.limit = Some(self.limit.map_or(limit, |earlier| earlier.min(limit)));
    }
}

fn relation_at(path: &str) -> (RelationLocator, Fork) {
    let parts: Vec<_> = path.split('/').collect();
    let (name, fork) = match parts.last().unwrap().split_once('_') {
        None => (*parts.last().unwrap(), Fork::Main),
        Some((name, "init")) => (name, Fork::Init),
        Some((name, "vm")) => (name, Fork::Vm),
        Some((name, _)) => (name, Fork::Fsm),
    };
    let oid = |text: &str| text.parse::<u32>().unwrap();
    let (tablespace, database) = match parts[0] {
        "base" => (1663, oid(parts[1])),
        "global" => (1664, 0),
        _ => (oid(parts[1]), oid(parts[3])),
    };
    (RelationLocator { tablespace, database, relfilenode: oid(name) }, fork)
}

#[test]
fn changed_blocks_are_those_that_follow_from_pg_waldump() {
    for oracle in Oracle::all() {
        let mut expected = BTreeMap::<(RelationLocator, Fork), Expected>::new();
        for listed in &oracle.records {
            for (relation, fork, block) in &listed.blocks {
                if *fork != Fork::Fsm {
                    expected.entry((*relation, *fork)).or_default().blocks.insert(*block);
                }
            }
            let words: Vec<_> = listed.description.split_whitespace().collect();
            match (listed.manager.as_str(), words.as_slice()) {
                ("Storage", ["CREATE", path]) if relation_at(path).1 != Fork::Fsm => {
                    expected.entry(relation_at(path)).or_default().cut(0);
                }
                ("Storage", ["TRUNCATE", path, "to", blocks, ..]) => {
                    let (relation, blocks): (_, u32) = (relation_at(path).0, blocks.parse().unwrap());
                    expected.entry((relation, Fork::Main)).or_default().cut(blocks);
                    expected.entry((relation, Fork::Vm)).or_default().cut(blocks / 32_672);
                }
                ("Transaction", _) if !words[0].contains("PREPARE") || words[0].ends_with("PREPARED") => {
                    for path in part(&listed.description, "rels:") {
                        expected.entry((relation_at(path).0, Fork::Main)).or_default().cut(0);
                    }
                }
                _ => {}
            }
        }
        let whole = oracle.whole();
        assert_eq!(
            whole.blocks.relations.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{}",
            oracle.major
        );
        for (relation, changes) in &whole.blocks.relations {
            let expected = &expected[relation];
            assert_eq!(changes.limit, expected.limit, "{} {relation:?}", oracle.major);
            assert!(changes.blocks.iter().eq(expected.blocks.iter().copied()), "{} {relation:?}", oracle.major);
        }
    }
}

/// Over the same range, main forks are equal but for one thing: the server keeps the blocks of what was cut, where the fork
/// was no longer than that before (a relation created and dropped); the limit speaks of those blocks anyway.
#[test]
fn changed_blocks_hold_all_that_the_servers_own_summaries_do() {
    let mut compared = 0;
    for oracle in Oracle::all() {
        let Some(summaries) = &oracle.summaries else {
            assert!(oracle.major < MajorVersion::V17, "{} has no summaries of the server", oracle.major);
            continue;
        };
        let mut by_range = BTreeMap::<(Lsn, Lsn), Vec<Vec<&str>>>::new();
        for line in summaries.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            by_range.entry((fields[0].parse().unwrap(), fields[1].parse().unwrap())).or_default().push(fields);
        }
        assert!(by_range.len() >= 2, "{}", oracle.major);
        for ((from, to), rows) in by_range {
            let ours = oracle.summaries(&[from, to]).pop().unwrap();
            let mut theirs = BTreeMap::<(RelationLocator, Fork), Expected>::new();
            for row in rows {
                let number = |at: usize| row[at].parse::<u32>().unwrap();
                let relation = RelationLocator { tablespace: number(2), database: number(3), relfilenode: number(4) };
                let fork = Fork::from_number(row[5].parse().unwrap()).unwrap();
                // Relation zero stands for the whole directory of a database.
                if relation.relfilenode == 0 {
                    let named = |d: &&pitr::wal_summary::DatabaseLocator| {
                        (d.database, d.tablespace) == (relation.database, relation.tablespace)
                    };
                    assert!(ours.blocks.databases.iter().any(|database| named(&database)), "{relation}");
                    continue;
                }
                let entry = theirs.entry((relation, fork)).or_default();
                if row[7] == "t" { entry.limit = Some(number(6)) } else { entry.blocks.extend([number(6)]) }
            }
            for ((relation, fork), theirs) in theirs.iter().filter(|((_, fork), _)| *fork == Fork::Main) {
                let ours = ours.blocks.relation(*relation, *fork).unwrap_or_else(|| panic!("{from} {relation}"));
                assert_eq!(ours.limit, theirs.limit, "{from} {relation}");
                assert!(theirs.blocks.iter().all(|block| ours.touches(*block)), "{from} {relation}");
                assert!(ours.blocks.iter().all(|block| theirs.blocks.contains(&block)), "{from} {relation}");
                compared += 1;
            }
            let main = ours.blocks.relations.keys().filter(|(_, fork)| *fork == Fork::Main).count();
            assert_eq!(main, theirs.keys().filter(|(_, fork)| *fork == Fork::Main).count(), "{from}");
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn rows_are_counted_as_they_were_changed() {
    for oracle in Oracle::all() {
        let whole = oracle.whole();
        let rows: BTreeMap<_, _> = whole.rows.iter().map(|(relation, rows)| (relation.to_string(), *rows)).collect();
        let mut checked = 0;
        for noted in oracle.noted("rows") {
            let count = |at: usize| noted[at].parse().unwrap();
            // How often a table was truncated in place, the ledger does not say.
            let truncated = rows[noted[0]].truncated;
            let expected =
                RowChanges { inserted: count(1), updated: count(2), deleted: count(3), moved: count(4), truncated };
            assert_eq!(rows[noted[0]], expected, "{} {}", oracle.major, noted[0]);
            checked += 1;
        }
        assert_eq!(checked, 5, "{}", oracle.major);
        assert!(whole.transactions.open.is_empty(), "{}: {:?}", oracle.major, whole.transactions.open);
    }
}

#[test]
fn moments_are_found() {
    for oracle in Oracle::all() {
        let whole = oracle.whole();
        let points: Vec<_> = whole
            .moments
            .iter()
            .filter_map(|moment| match &moment.kind {
                MomentKind::RestorePoint { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(points, ["oracle"], "{}", oracle.major);
        let dropped: BTreeSet<_> = whole
            .moments
            .iter()
            .filter_map(|moment| match &moment.kind {
                MomentKind::SchemaChange(change) => Some(change.traces.dropped.iter().map(|r| r.to_string())),
                _ => None,
            })
            .flatten()
            .collect();
        for noted in oracle.noted("dropped_relation") {
            assert!(dropped.contains(noted[0]), "{}: {} in {dropped:?}", oracle.major, noted[0]);
        }
        for noted in oracle.noted("database") {
            let database: u32 = noted[0].parse().unwrap();
            let created =
                |kind: &MomentKind| matches!(kind, MomentKind::CreateDatabase { database: d, .. } if *d == database);
            let dropped =
                |kind: &MomentKind| matches!(kind, MomentKind::DropDatabase { database: d, .. } if *d == database);
            assert!(whole.moments.iter().any(|moment| created(&moment.kind)), "{}", oracle.major);
            assert!(whole.moments.iter().any(|moment| dropped(&moment.kind)), "{}", oracle.major);
        }
    }
}

/// Names of relations whose change is no change of the schema: whole transactions of `rows`, of `VACUUM` and of `ANALYZE`.
#[test]
fn changes_of_rows_and_maintenance_are_no_schema_changes() {
    for oracle in Oracle::all() {
        let changes: BTreeSet<_> = oracle
            .whole()
            .moments
            .iter()
            .filter(|moment| matches!(moment.kind, MomentKind::SchemaChange(_)))
            .map(|moment| moment.lsn)
            .collect();
        let mut schema = BTreeSet::new();
        let mut files = BTreeSet::new();
        for listed in &oracle.records {
            if listed.manager == "Storage" && listed.description.starts_with("CREATE") {
                files.insert(listed.xid);
            }
            let catalog = |(relation, _, _): &(RelationLocator, Fork, u32)| {
                relation.relfilenode < 16_384 && ![2619, 2840, 3429, 3430, 2613, 2995].contains(&relation.relfilenode)
            };
            let operation = listed.description.split([' ', '+']).next().unwrap();
            let changes_rows = ["INSERT", "DELETE", "UPDATE", "HOT_UPDATE", "MULTI_INSERT"].contains(&operation);
            if listed.manager.starts_with("Heap") && changes_rows && listed.blocks.first().is_some_and(catalog) {
                schema.insert(listed.xid);
            }
        }
        let mut expected = BTreeSet::new();
        for listed in oracle.records.iter().filter(|listed| listed.manager == "Transaction") {
            let prepared = listed.description.strip_prefix("COMMIT_PREPARED ");
            let xid = match prepared {
                Some(rest) => TransactionId::new(rest.split(':').next().unwrap().parse().unwrap()),
                None => listed.xid,
            };
            let commits = listed.description.starts_with("COMMIT");
            let tells = listed.description.contains("inval msgs") || listed.description.contains("rels:");
            if commits
                && tells
                && (schema.contains(&xid) || files.contains(&xid) || listed.description.contains("rels:"))
            {
                expected.insert(listed.lsn);
            }
        }
        assert_eq!(changes, expected, "{}", oracle.major);
        assert!(expected.len() > 20, "{}", oracle.major);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn folding_any_parts_in_any_order_is_building_the_whole(
        version in 0_usize..6, cuts in prop::collection::vec(0.01_f64..0.99, 1..12), middle in 0.0_f64..1.0,
    ) {
        let major = MajorVersion::ALL[version].to_string();
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/wal-oracle").join(major);
        let oracle = Oracle::load(&directory);
        let length = oracle.wal.len() as f64;
        let mut borders: BTreeSet<Lsn> = cuts.iter().map(|cut| oracle.start.advance((cut * length) as u64 & !7)).collect();
        borders.extend([oracle.start, oracle.end()]);
        let parts = oracle.summaries(&borders.into_iter().collect::<Vec<_>>());
        let whole = oracle.whole();
        prop_assert_eq!(&fold(&parts).unwrap(), &whole);
        let (left, right) = parts.split_at(((parts.len() as f64 * middle) as usize).clamp(1, parts.len() - 1));
        prop_assert_eq!(&compose(&[fold(left).unwrap(), fold(right).unwrap()]).unwrap(), &whole);
    }
}
