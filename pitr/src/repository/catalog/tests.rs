use proptest::prelude::*;

use super::testing::*;
use super::*;

fn reach(catalog: &Catalog, timeline: u32, from: u64) -> Reach {
    catalog.reach(catalog.path(tli(timeline)).unwrap(), lsn(from))
}

fn window_ends(catalog: &Catalog) -> Vec<(u32, u64, u64)> {
    catalog.windows().iter().map(|w| (w.timeline.as_u32(), w.from.lsn.as_u64(), w.to.lsn.as_u64())).collect()
}

fn gap_ends(catalog: &Catalog) -> Vec<(u32, u64, u64)> {
    let ends = |gap: &Gap| (gap.timeline.as_u32(), gap.from_lsn.as_u64(), gap.to_lsn.map_or(0, Lsn::as_u64));
    catalog.gaps().iter().map(ends).collect()
}

#[test]
fn live_cluster_reaches_the_end_of_its_tails() {
    let catalog = catalog()
        .with_timeline(1, &[], 2..5, Some(5 * MIB + 800))
        .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
        .with_lease(lease(1, 5 * MIB + 800, 90));
    let windows = catalog.windows();
    assert_eq!(window_ends(&catalog), [(1, 2 * MIB + 400, 5 * MIB + 800)]);
    assert_eq!(windows[0].from.time, Some(at(0)));
    assert_eq!(windows[0].to.time, Some(at(90)));
    assert_eq!(gap_ends(&catalog), []);
    assert_eq!(catalog.default_timeline(), Some(tli(1)));
}

#[test]
fn hole_splits_the_window_and_is_a_gap() {
    let catalog = catalog()
        .with_timeline(1, &[], [2, 3, 5, 6], Some(7 * MIB + 80))
        .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
        .with_backup(backup(1, 6 * MIB + 40, 6 * MIB + 400, 60));
    assert_eq!(window_ends(&catalog), [(1, 2 * MIB + 400, 4 * MIB), (1, 6 * MIB + 400, 7 * MIB + 80)]);
    assert_eq!(gap_ends(&catalog), [(1, 4 * MIB, 5 * MIB)]);
    let missing = reach(&catalog, 1, 2 * MIB).missing.unwrap();
    assert_eq!(missing.segment.to_string(), "000000010000000000000004");
}

/// The agent died with several uploads under way: the later ones are there, and were never sealed.
#[test]
fn hole_behind_what_was_sealed_is_the_end() {
    let holey = |sealed| {
        catalog()
            .with_timeline(1, &[], [2, 3, 5], None)
            .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
            .with_lease(lease(1, sealed, 0))
    };
    let unsealed = reach(&holey(4 * MIB), 1, 2 * MIB);
    assert_eq!((unsealed.end, unsealed.missing), (lsn(4 * MIB), None));
    let lost = reach(&holey(6 * MIB), 1, 2 * MIB).missing.unwrap();
    assert_eq!(lost.from, lsn(4 * MIB));
    // Killed before it had told of anything sealed.
    let mut young = holey(4 * MIB);
    young.lease.as_mut().unwrap().sealed = None;
    assert_eq!(reach(&young, 1, 2 * MIB).missing, None);
    // Without any lease nobody says that the hole was never sealed.
    young.lease = None;
    assert!(reach(&young, 1, 2 * MIB).missing.is_some());
}

#[test]
fn hole_before_the_first_backup_does_not_matter() {
    let catalog =
        catalog().with_timeline(1, &[], [1, 3, 4], None).with_backup(backup(1, 3 * MIB + 40, 3 * MIB + 400, 0));
    assert_eq!(gap_ends(&catalog), []);
    assert_eq!(window_ends(&catalog), [(1, 3 * MIB + 400, 5 * MIB)]);
}

#[test]
fn backup_with_a_hole_in_its_own_wal_is_unusable() {
    let catalog =
        catalog().with_timeline(1, &[], [2, 4, 5], None).with_backup(backup(1, 2 * MIB + 40, 4 * MIB + 400, 0));
    assert_eq!(window_ends(&catalog), []);
    let fault = catalog.check_backup(&catalog.backups[0], catalog.path(tli(1)).unwrap()).unwrap_err();
    assert!(matches!(&fault, BackupFault::WalMissing { missing } if missing.from == lsn(3 * MIB)), "{fault}");
    assert_eq!(gap_ends(&catalog), [(1, 3 * MIB, 4 * MIB)]);
}

#[test]
fn backup_whose_wal_has_not_arrived_is_unusable() {
    let catalog = catalog().with_timeline(1, &[], [2], None).with_backup(backup(1, 2 * MIB + 40, 3 * MIB + 400, 0));
    let fault = catalog.check_backup(&catalog.backups[0], catalog.path(tli(1)).unwrap()).unwrap_err();
    assert_eq!(fault, BackupFault::WalEnds { end: lsn(3 * MIB) });
}

#[test]
fn sealed_wal_that_is_not_there_is_a_gap() {
    let catalog = catalog()
        .with_timeline(1, &[], 2..5, None)
        .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
        .with_lease(lease(1, 5 * MIB + 800, 90));
    assert_eq!(gap_ends(&catalog), [(1, 5 * MIB, 5 * MIB + 800)]);
    let missing = reach(&catalog, 1, 2 * MIB).missing.unwrap();
    assert!(!missing.resumes);
    assert_eq!(catalog.windows()[0].to.time, None);
}

#[test]
fn missing_tail_is_a_gap() {
    let mut catalog = catalog().with_timeline(1, &[], 2..5, Some(5 * MIB + 100)).with_backup(backup(
        1,
        2 * MIB + 40,
        2 * MIB + 400,
        0,
    ));
    let wal = &mut catalog.timelines.get_mut(&tli(1)).unwrap().wal;
    wal.add_tail(SegmentNumber::new(5), LsnRange { from: lsn(5 * MIB + 200), to: lsn(5 * MIB + 300) }).unwrap();
    assert_eq!(gap_ends(&catalog), [(1, 5 * MIB + 100, 5 * MIB + 300)]);
    assert_eq!(window_ends(&catalog), [(1, 2 * MIB + 400, 5 * MIB + 100)]);
}

/// 1 up to the middle of segment 4, then 2 up to the middle of segment 6, then 3.
fn three_timelines() -> Catalog {
    catalog()
        .with_timeline(1, &[], 2..4, Some(4 * MIB + 500))
        .with_timeline(2, &[(1, 4 * MIB + 500)], 4..6, Some(6 * MIB + 500))
        .with_timeline(3, &[(1, 4 * MIB + 500), (2, 6 * MIB + 500)], 6..8, Some(8 * MIB + 100))
        .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
}

#[test]
fn window_goes_through_switches_of_the_timeline() {
    let catalog = three_timelines();
    assert_eq!(window_ends(&catalog), [(3, 2 * MIB + 400, 8 * MIB + 100)]);
    assert_eq!(gap_ends(&catalog), []);
    assert_eq!(catalog.default_timeline(), Some(tli(3)));
}

#[test]
fn shared_segment_counts_on_the_newer_timeline_only() {
    let mut catalog = three_timelines();
    catalog.timelines.get_mut(&tli(1)).unwrap().wal = {
        let mut wal = DurableWal::new(size());
        (2..4).for_each(|n| wal.add_segment(SegmentNumber::new(n)));
        wal
    };
    assert_eq!(reach(&catalog, 3, 2 * MIB).end, lsn(8 * MIB + 100), "timeline 2 holds a copy of segment 4");

    let mut catalog = three_timelines();
    catalog.timelines.get_mut(&tli(1)).unwrap().wal.add_segment(SegmentNumber::new(4));
    catalog.timelines.get_mut(&tli(2)).unwrap().wal = {
        let mut wal = DurableWal::new(size());
        wal.add_segment(SegmentNumber::new(5));
        wal
    };
    let reached = reach(&catalog, 3, 2 * MIB);
    assert_eq!(reached.end, lsn(4 * MIB), "timeline 1's segment 4 goes on as another history");
    assert_eq!(reached.missing.unwrap().segment.to_string(), "000000020000000000000004");
}

#[test]
fn wal_before_a_known_switch_that_is_not_there_is_a_gap() {
    let catalog = catalog()
        .with_timeline(1, &[], 2..4, None)
        .with_timeline(2, &[(1, 6 * MIB + 500)], [], Some(6 * MIB + 900))
        .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0));
    assert_eq!(gap_ends(&catalog), [(1, 4 * MIB, 6 * MIB)]);

    let mut catalog = catalog;
    catalog.timelines.get_mut(&tli(2)).unwrap().wal = DurableWal::new(size());
    let missing = reach(&catalog, 2, 2 * MIB).missing.unwrap();
    assert_eq!((missing.from, missing.to, missing.resumes), (lsn(4 * MIB), lsn(6 * MIB + 500), false));
    assert_eq!(gap_ends(&catalog), [], "a timeline that has just begun is no gap");
    assert_eq!(catalog.default_timeline(), Some(tli(1)));
}

#[test]
fn branch_that_was_left_keeps_a_window_of_its_own() {
    let mut catalog = three_timelines();
    catalog.timelines.get_mut(&tli(1)).unwrap().wal = {
        let mut wal = DurableWal::new(size());
        (2..7).for_each(|n| wal.add_segment(SegmentNumber::new(n)));
        wal
    };
    assert_eq!(window_ends(&catalog), [(1, 2 * MIB + 400, 7 * MIB), (3, 2 * MIB + 400, 8 * MIB + 100)]);
}

#[test]
fn backups_of_dead_branches_are_refused_with_the_reason() {
    let catalog = three_timelines().with_backup(backup(1, 4 * MIB + 100, 4 * MIB + 600, 60));
    let path = catalog.path(tli(3)).unwrap();
    let fault = catalog.check_backup(&catalog.backups[1], path).unwrap_err();
    assert!(matches!(fault, BackupFault::DeadBranch { .. }), "{fault}");
    let other = backup(3, 6 * MIB + 600, 7 * MIB, 90);
    let fault = catalog.check_backup(&other, catalog.path(tli(2)).unwrap()).unwrap_err();
    assert!(matches!(fault, BackupFault::OtherBranch { .. }), "{fault}");
    assert_eq!(catalog.backups_on(path).len(), 1);
}

#[test]
fn unknown_timeline_and_missing_history_are_told_apart() {
    let mut catalog = three_timelines();
    catalog.timelines.get_mut(&tli(3)).unwrap().path = None;
    assert_eq!(catalog.path(tli(3)), Err(NoPath::NoHistory(tli(3))));
    assert_eq!(catalog.path(tli(9)), Err(NoPath::Unknown(tli(9))));
}

#[test]
fn lease_decides_which_timeline_is_live() {
    let catalog = three_timelines().with_lease(lease(2, 6 * MIB + 500, 0));
    assert_eq!(catalog.default_timeline(), Some(tli(2)), "a junk timeline with a higher number is not the live one");
}

proptest! {
    /// Bytes are the oracle: a path is contiguous exactly as far as each of its segments has its bytes on the timeline
    /// that the server would read it from.
    #[test]
    fn reach_agrees_with_counting_segments(
        first in prop::collection::btree_set(1_u64..12, 0..12),
        second in prop::collection::btree_set(1_u64..12, 0..12),
        switch in MIB..11 * MIB,
        from in 1_u64..12,
    ) {
        let catalog = catalog()
            .with_timeline(1, &[], first.iter().copied(), None)
            .with_timeline(2, &[(1, switch)], second.iter().copied(), None);
        let has = |n: u64| if n * MIB + MIB > switch { second.contains(&n) } else { first.contains(&n) };
        let mut end = from;
        while has(end) {
            end += 1;
        }
        let reached = reach(&catalog, 2, from * MIB + 7);
        prop_assert_eq!(reached.end, lsn(end * MIB));
        let next = (end..12).find(|n| has(*n)).map(|n| lsn(n * MIB));
        prop_assert_eq!(reached.missing.filter(|m| m.resumes).map(|m| m.to), next);
    }

    #[test]
    fn windows_hold_no_gap_and_do_not_overlap(
        segments in prop::collection::btree_set(1_u64..30, 0..30),
        starts in prop::collection::vec(1_u64..30, 0..4),
    ) {
        let mut catalog = catalog().with_timeline(1, &[], segments, None);
        for (second, start) in (0..).zip(&starts) {
            catalog = catalog.with_backup(backup(1, start * MIB + 40, start * MIB + 400, second));
        }
        let windows = catalog.windows();
        for window in &windows {
            for gap in catalog.gaps() {
                prop_assert!(gap.from_lsn >= window.to.lsn || gap.to_lsn.is_some_and(|to| to <= window.from.lsn));
            }
        }
        prop_assert!(windows.is_sorted_by(|a, b| a.to.lsn < b.from.lsn));
    }
}
