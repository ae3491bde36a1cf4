use super::*;
use crate::repository::catalog::testing::{MIB, lsn, path, tli};
use crate::repository::layout::SummaryKey;

fn key(timeline: u32, from: u64, to: u64) -> SummaryKey {
    SummaryKey { tli: tli(timeline), from: lsn(from * MIB), to: lsn(to * MIB) }
}

/// From, to, and the range of the summary, in MiB.
type Cut = (u64, u64, Option<(u64, u64)>);

fn cut(summaries: &[SummaryKey], from: u64, to: u64) -> Vec<Cut> {
    let path = path(2, &[(1, 10 * MIB)]);
    let mib = |lsn: crate::postgres::Lsn| lsn.as_u64() / MIB;
    let legs = legs(summaries, &path, lsn(from * MIB), lsn(to * MIB));
    legs.iter().map(|leg| (mib(leg.from), mib(leg.to), leg.summary.map(|key| (mib(key.from), mib(key.to))))).collect()
}

#[test]
fn the_summary_that_reaches_furthest_is_taken() {
    let summaries = [key(1, 2, 3), key(1, 3, 4), key(1, 2, 6), key(1, 4, 7), key(1, 6, 7)];
    assert_eq!(cut(&summaries, 2, 7), [(2, 6, Some((2, 6))), (6, 7, Some((4, 7)))]);
    assert_eq!(cut(&summaries, 3, 5), [(3, 5, Some((2, 6)))]);
}

#[test]
fn holes_are_legs_without_a_summary() {
    let summaries = [key(1, 3, 4), key(1, 6, 7)];
    let expected = [(2, 3, None), (3, 4, Some((3, 4))), (4, 6, None), (6, 7, Some((6, 7))), (7, 9, None)];
    assert_eq!(cut(&summaries, 2, 9), expected);
    assert_eq!(cut(&[], 2, 9), [(2, 9, None)]);
    assert_eq!(cut(&summaries, 9, 9), []);
}

#[test]
fn what_another_timeline_wrote_behind_the_switch_does_not_count() {
    let summaries = [key(1, 9, 10), key(1, 9, 11), key(1, 10, 11), key(2, 10, 12), key(2, 9, 10), key(3, 8, 20)];
    let expected = [(8, 9, None), (9, 10, Some((9, 10))), (10, 12, Some((10, 12)))];
    assert_eq!(cut(&summaries, 8, 12), expected);
}
