use pitr::postgres::relation::{Fork, RelationLocator};
use pitr::wal_summary::{RelationChanges, RunSet};

use super::*;
use crate::backup::incremental::parent_file::PiecedExtents;
use crate::backup::incremental::parent_file::tests::{file, frame};

const RELATION: RelationLocator = RelationLocator { tablespace: 1663, database: 5, relfilenode: 16384 };
const SEGMENT: u32 = 131_072;

/// A parent of so many pages, one frame for each 32.
fn parent(pages: u32) -> ParentFile {
    let frames = (0..pages)
        .step_by(32)
        .map(|page| frame(1 << 31, u64::from(page) * 100 + 1, 0, u64::from(32.min(pages - page)) * PAGE_BYTES));
    file(frames.collect())
}

fn changes(limit: Option<u32>, blocks: &[u32]) -> ChangedBlocks {
    let mut changes = ChangedBlocks::default();
    let blocks = blocks.iter().copied().collect::<RunSet>();
    changes.relations.insert((RELATION, Fork::Main), RelationChanges { limit, blocks });
    changes
}

fn of(path: &str, pages: u32, parent_pages: u32, changes: &ChangedBlocks) -> Reading {
    let path = path.to_owned().try_into().unwrap();
    let parent = parent(parent_pages);
    alone(&path, u64::from(pages) * PAGE_BYTES, &parent, changes)
}

fn alone(path: &StoredPath, size: u64, parent: &ParentFile, changes: &ChangedBlocks) -> Reading {
    decide(path, size, &[Layer { file: parent, changes }], parent)
}

fn pages(runs: &[(u32, u32)]) -> Reading {
    Reading::Pages(runs.iter().map(|(first, last)| Run { first: *first, last: *last }).collect())
}

/// What happened; pages now and in the parent; limit and blocks by WAL; runs to read.
type Case = (&'static str, u32, u32, Option<u32>, &'static [u32], &'static [(u32, u32)]);

#[test]
fn of_a_main_fork_what_changed_is_read() {
    let table: &[Case] = &[
        ("nothing happened", 100, 100, None, &[], &[]),
        ("pages were written", 100, 100, None, &[3, 4, 50], &[(3, 4), (50, 50)]),
        ("it has grown", 120, 100, None, &[3], &[(3, 3), (100, 119)]),
        ("it has grown, and WAL says so", 120, 100, None, &[3, 99, 100, 119], &[(3, 3), (99, 119)]),
        ("it was cut", 60, 100, Some(60), &[3], &[(3, 3)]),
        ("it was cut and has regrown", 100, 100, Some(60), &[3, 70], &[(3, 3), (60, 99)]),
        ("it was cut below what it lacks now", 60, 100, Some(40), &[3], &[(3, 3), (40, 59)]),
        ("it was cut behind its end, later", 100, 100, Some(100), &[3], &[(3, 3)]),
        ("what was written is cut off by now", 60, 100, None, &[3, 59, 60, 99], &[(3, 3), (59, 59)]),
        ("it is empty", 0, 100, None, &[3], &[]),
    ];
    for (what, now, before, limit, blocks, expected) in table {
        assert_eq!(of("base/5/16384", *now, *before, &changes(*limit, blocks)), pages(expected), "{what}");
    }
}

#[test]
fn created_or_dropped_or_cut_to_nothing_is_read_whole() {
    assert_eq!(of("base/5/16384", 100, 100, &changes(Some(0), &[])), Reading::Whole);
    assert_eq!(of("base/5/16384", 100, 0, &changes(None, &[])), Reading::Whole);
    assert_eq!(of("base/5/16384.3", 100, 100, &changes(Some(SEGMENT), &[])), Reading::Whole);
}

#[test]
fn blocks_and_limits_count_across_the_files_of_a_relation() {
    let blocks = [SEGMENT - 1, SEGMENT, SEGMENT + 7, 2 * SEGMENT];
    assert_eq!(of("base/5/16384.1", 100, 100, &changes(None, &blocks)), pages(&[(0, 0), (7, 7)]));
    assert_eq!(of("base/5/16384.2", 100, 100, &changes(None, &blocks)), pages(&[(0, 0)]));
    assert_eq!(of("base/5/16384.3", 100, 100, &changes(None, &blocks)), pages(&[]));
    assert_eq!(of("base/5/16384.1", 100, 100, &changes(Some(SEGMENT + 50), &[])), pages(&[(50, 99)]));
    assert_eq!(of("base/5/16384", 100, 100, &changes(Some(SEGMENT + 50), &[])), pages(&[]));
    // A run that begins in the file before.
    let over: Vec<u32> = (SEGMENT - 3..SEGMENT + 3).collect();
    assert_eq!(of("base/5/16384.1", 100, 100, &changes(None, &over)), pages(&[(0, 2)]));
}

#[test]
fn whatever_wal_does_not_describe_is_read_whole() {
    let changes = changes(None, &[]);
    for path in [
        "base/5/16384_fsm",
        "base/5/16384_vm",
        "base/5/16384_vm.1",
        "base/5/16384_init",
        "base/5/pg_filenode.map",
        "base/5/PG_VERSION",
        "pg_xact/0000",
        "pg_multixact/offsets/0000",
        "pg_commit_ts/0000",
        "postgresql.conf",
        "base/5/16384.bak",
        "16384",
    ] {
        assert_eq!(of(path, 100, 100, &changes), Reading::Whole, "{path}");
    }
    assert_eq!(of("base/5/16384", 100, 100, &changes), pages(&[]));
    assert_eq!(of("global/1262", 100, 100, &changes), pages(&[]));
    assert_eq!(of("pg_tblspc/16399/PG_15_202209061/5/16384", 100, 100, &changes), pages(&[]));
}

#[test]
fn half_pages_are_read_whole() {
    let path = "base/5/16384".to_owned().try_into().unwrap();
    let changes = changes(None, &[]);
    assert_eq!(alone(&path, 8192 * 3 + 1, &parent(3), &changes), Reading::Whole);
    let odd = file(vec![frame(1, 1, 0, 8192 * 3 - 1)]);
    assert_eq!(alone(&path, 8192 * 3, &odd, &changes), Reading::Whole);
}

#[test]
fn nothing_is_known_of_the_directory_of_a_database_that_was_made_or_dropped() {
    let mut changes = changes(None, &[]);
    changes.databases.insert(DatabaseLocator { database: 5, tablespace: 1663 });
    assert_eq!(of("base/5/16384", 10, 10, &changes), Reading::Whole);
    assert_eq!(of("base/6/16384", 10, 10, &changes), pages(&[]));
    assert_eq!(of("pg_tblspc/16399/PG_15_202209061/5/16384", 10, 10, &changes), pages(&[]));
}

#[test]
fn another_relation_changes_nothing() {
    let changes = changes(Some(0), &[1, 2]);
    for path in ["base/5/16385", "base/6/16384", "global/16384", "pg_tblspc/16399/PG_15_202209061/5/16384"] {
        assert_eq!(of(path, 10, 10, &changes), pages(&[]), "{path}");
    }
}

#[test]
fn a_region_in_too_many_frames_is_written_afresh_once_it_is_touched() {
    // Of 96 pages every third of the second region stands in a frame of its own.
    let mut extents = vec![frame(1, 1, 0, 32 * PAGE_BYTES)];
    extents.extend((0..32_u32).map(|page| match page % 3 {
        0 => frame(2, u64::from(page) * 1000, 0, PAGE_BYTES),
        _ => frame(3, 7, page * 8192, PAGE_BYTES),
    }));
    extents.push(frame(4, 1, 0, 32 * PAGE_BYTES));
    let parent = file(extents);
    let path = "base/5/16384".to_owned().try_into().unwrap();
    let read = |blocks: &[u32]| alone(&path, 96 * PAGE_BYTES, &parent, &changes(None, blocks));
    assert_eq!(read(&[3, 70]), pages(&[(3, 3), (70, 70)]));
    assert_eq!(read(&[3, 33, 70]), pages(&[(3, 3), (32, 63), (70, 70)]));
    // A run that goes on in the next region.
    assert_eq!(read(&[33, 63, 64, 65]), pages(&[(32, 65)]));
    // What is read anyhow does not count.
    let most: Vec<u32> = (32..59).collect();
    assert_eq!(read(&most), pages(&[(32, 58)]));
}

/// Pages that an interrupted backup has, each span a frame.
fn pieces(spans: &[(u32, u32)]) -> ParentFile {
    let piece = |(first, last): &(u32, u32)| {
        let (from, bytes) = (u64::from(*first) * PAGE_BYTES, u64::from(last - first + 1) * PAGE_BYTES);
        PiecedExtents { from, extents: vec![frame(7, from, 0, bytes)] }
    };
    ParentFile::new(spans.iter().map(piece).collect())
}

#[test]
fn each_page_is_judged_by_the_backup_that_it_would_come_from() {
    let whole = parent(100);
    let of = |spans: &[(u32, u32)], since: &ChangedBlocks, parent: Option<&ChangedBlocks>, size: u32| {
        let (path, pieces) = ("base/5/16384".to_owned().try_into().unwrap(), pieces(spans));
        let mut layers = vec![Layer { file: &pieces, changes: since }];
        layers.extend(parent.map(|changes| Layer { file: &whole, changes }));
        let all = if parent.is_some() { pieces.over(&whole) } else { pieces.clone() };
        decide(&path, u64::from(size) * PAGE_BYTES, &layers, &all)
    };
    let none = changes(None, &[]);
    let early = changes(None, &[5, 30, 70]);
    // What changed before the interrupted backup read it is not read again.
    assert_eq!(of(&[(0, 39)], &none, Some(&early), 100), pages(&[(70, 70)]));
    assert_eq!(of(&[(0, 39)], &changes(None, &[30]), Some(&early), 100), pages(&[(30, 30), (70, 70)]));
    assert_eq!(of(&[(20, 39), (60, 99)], &none, Some(&early), 100), pages(&[(5, 5)]));
    // Alone, it leaves all that it did not get to.
    assert_eq!(of(&[(20, 39), (60, 99)], &changes(None, &[60, 50]), None, 100), pages(&[(0, 19), (40, 60)]));
    assert_eq!(of(&[(0, 99)], &none, None, 100), pages(&[]));
    assert_eq!(of(&[(0, 99)], &none, None, 110), pages(&[(100, 109)]));
    assert_eq!(of(&[(0, 99)], &none, None, 50), pages(&[]));
    assert_eq!(of(&[(40, 99)], &none, None, 0), pages(&[]));
    // Cut and grown again since; or before it was read, which the parent alone must fear.
    assert_eq!(of(&[(0, 99)], &changes(Some(20), &[]), Some(&changes(Some(20), &[])), 100), pages(&[(20, 99)]));
    assert_eq!(of(&[(0, 49)], &none, Some(&changes(Some(20), &[])), 100), pages(&[(50, 99)]));
    // Made anew under the same number since.
    assert_eq!(of(&[(0, 99)], &changes(Some(0), &[]), Some(&changes(Some(0), &[])), 100), Reading::Whole);
    let mut made = changes(None, &[]);
    made.databases.insert(DatabaseLocator { database: 5, tablespace: 1663 });
    assert_eq!(of(&[(0, 99)], &made, Some(&made), 100), Reading::Whole);
}

#[test]
fn runs_are_cut_at_spans() {
    let runs = |list: &[(u32, u32)]| list.iter().map(|(first, last)| Run { first: *first, last: *last }).collect();
    let (a, b): (Vec<Run>, Vec<Run>) =
        (runs(&[(0, 9), (20, 29), (40, u32::MAX)]), runs(&[(5, 24), (26, 27), (50, 50)]));
    assert_eq!(within(&a, &b), runs(&[(5, 9), (20, 24), (26, 27), (50, 50)]));
    assert_eq!(without(&a, &b), runs(&[(0, 4), (25, 25), (28, 29), (40, 49), (51, u32::MAX)]));
    assert_eq!(without(&a, &[]), a);
    assert_eq!(without(&a, &runs(&[(0, u32::MAX)])), []);
}

#[test]
fn some_wal_says_nothing_of_any_file() {
    assert_eq!(conclusive(&ChangedBlocks::default()), Ok(()));
    let minimal = ChangedBlocks { wal_level_minimal: true, ..ChangedBlocks::default() };
    let torn = ChangedBlocks { full_page_writes_off: true, ..ChangedBlocks::default() };
    let custom = ChangedBlocks { custom_managers: [130].into(), ..ChangedBlocks::default() };
    for changes in [minimal, torn, custom] {
        assert!(conclusive(&changes).is_err());
    }
}
