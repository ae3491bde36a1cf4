use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use crate::postgres::time::to_postgres_microseconds;
use crate::postgres::wal::ResourceManager;
use crate::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};
use crate::postgres::{SegmentNumber, TransactionId};
use crate::recovery::plan::TransactionEnd;
use crate::repository::catalog::testing::{at, size, tli};

const MAJOR: MajorVersion = MajorVersion::V15;

fn xid(id: u32) -> TransactionId {
    TransactionId::new(id)
}

/// WAL that begins with a backup.
struct Written {
    wal: WalWriter,
    start: Lsn,
    backup_end: RecordBounds,
}

fn backup() -> Written {
    let mut wal = WalWriter::new(MAJOR, tli(1), SegmentNumber::new(2), size());
    let first = wal.filler(100);
    let backup_end = wal.backup_end(first.start);
    Written { wal, start: first.start, backup_end }
}

impl Written {
    fn scan(&self, goal: Goal) -> WalScan {
        let start = ScanStart {
            start_lsn: self.start,
            stop_lsn: self.backup_end.end,
            timeline: tli(1),
            segment_size: size(),
            system_identifier: SYSTEM_IDENTIFIER,
            major: MAJOR,
        };
        WalScan::new(&start, goal)
    }

    fn bytes(&self) -> &[u8] {
        let from = self.start.distance_from(self.wal.start()).unwrap();
        &self.wal.bytes()[usize::try_from(from).unwrap()..]
    }

    fn find(&self, goal: Goal) -> Findings {
        let mut scan = self.scan(goal);
        scan.feed(self.bytes()).unwrap();
        scan.finish()
    }

    fn subtransactions_commit(&mut self, top: u32, subtransactions: &[u32], time: DateTime<Utc>) -> RecordBounds {
        let mut data = to_postgres_microseconds(time).to_le_bytes().to_vec();
        data.extend(2_u32.to_le_bytes());
        data.extend(u32::try_from(subtransactions.len()).unwrap().to_le_bytes());
        subtransactions.iter().for_each(|id| data.extend(id.to_le_bytes()));
        self.wal.append(ResourceManager::TRANSACTION, 0x80, xid(top), &data)
    }

    fn commit_prepared(&mut self, record_xid: u32, prepared: u32, time: DateTime<Utc>) -> RecordBounds {
        let mut data = to_postgres_microseconds(time).to_le_bytes().to_vec();
        data.extend(0x10_u32.to_le_bytes());
        data.extend(prepared.to_le_bytes());
        self.wal.append(ResourceManager::TRANSACTION, 0x30 | 0x80, xid(record_xid), &data)
    }

    /// The header of a state file, and the name behind it.
    fn prepare(&mut self, id: u32, time: DateTime<Utc>) -> RecordBounds {
        let mut data = vec![0; 72];
        data[8..12].copy_from_slice(&id.to_le_bytes());
        data[16..24].copy_from_slice(&to_postgres_microseconds(time).to_le_bytes());
        data[54..56].copy_from_slice(&2_u16.to_le_bytes());
        data.extend(b"g\0\0\0\0\0\0\0");
        self.wal.append(ResourceManager::TRANSACTION, 0x10, xid(id), &data)
    }
}

fn time(seconds: i64) -> Goal {
    Goal::Time { time: at(seconds), exclusive: false }
}

#[test]
fn time_is_the_last_end_before_the_first_later_one() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10));
    let kept = written.wal.commit(xid(101), at(20));
    let side_effect = written.wal.filler(300);
    let left_out = written.wal.commit(xid(102), at(30));
    let findings = written.find(time(25));
    assert_eq!(findings.target, Some(kept));
    assert!(kept.end <= side_effect.start, "what transaction 102 did before its commit is not replayed");
    assert_eq!(findings.behind, Some(left_out));
    assert_eq!(findings.last_kept.unwrap().xid, 101);
    assert_eq!(findings.first_left_out.unwrap().xid, 102);
    assert_eq!(findings.clock_set_back, None);
}

#[test]
fn equal_times_belong_to_the_kept_side() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10));
    let last = written.wal.abort(xid(101), at(10));
    written.wal.commit(xid(102), at(11));
    let findings = written.find(time(10));
    assert_eq!(findings.target, Some(last));
    assert_eq!(findings.last_kept.unwrap().end, TransactionEnd::Abort);
    let exclusive = written.find(Goal::Time { time: at(10), exclusive: true });
    assert_eq!((exclusive.target, exclusive.first_left_out.unwrap().xid), (None, 100));
}

#[test]
fn time_beyond_the_last_end_has_nothing_behind() {
    let mut written = backup();
    let last = written.wal.commit(xid(100), at(10));
    written.wal.filler(100);
    let findings = written.find(time(99));
    assert_eq!((findings.target, findings.behind, findings.first_left_out), (Some(last), None, None));
    assert_eq!(findings.last_end_time, Some(at(10)));
}

#[test]
fn clock_that_was_set_back_is_seen_behind_the_target() {
    let mut written = backup();
    let kept = written.wal.commit(xid(100), at(10));
    written.wal.commit(xid(101), at(3_600));
    let doubtful = written.wal.commit(xid(102), at(20));
    let findings = written.find(time(30));
    assert_eq!(findings.target, Some(kept), "the first moment that is later ends the search");
    assert_eq!(findings.clock_set_back, Some(doubtful.start));
}

#[test]
fn milliseconds_out_of_order_are_no_clock_that_was_set_back() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10) + TimeDelta::milliseconds(2));
    written.wal.commit(xid(101), at(10) - TimeDelta::milliseconds(1));
    assert_eq!(written.find(time(10)).clock_set_back, None);
}

#[test]
fn prepared_transaction_is_kept_though_nothing_ends_after_it() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10));
    let prepared = written.prepare(101, at(20));
    written.wal.filler(50);
    written.wal.commit(xid(102), at(40));
    let findings = written.find(time(30));
    assert_eq!(findings.target, Some(prepared));
    assert_eq!(findings.last_kept.unwrap().xid, 100);
}

#[test]
fn position_is_the_last_record_that_ends_there() {
    let mut written = backup();
    let first = written.wal.commit(xid(100), at(10));
    let second = written.wal.commit(xid(101), at(20));
    written.wal.commit(xid(102), at(30));
    for (lsn, expected) in
        [(first.end, first), (second.end.advance(1), second), (Lsn::new(second.end.as_u64() - 1), first)]
    {
        assert_eq!(written.find(Goal::Lsn(lsn)).target, Some(expected), "{lsn}");
    }
    let findings = written.find(Goal::Lsn(second.end));
    assert_eq!(findings.first_left_out.unwrap().xid, 102);
    assert_eq!(findings.last_kept.unwrap().xid, 101);
}

#[test]
fn commit_right_behind_a_marker_stays_out() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10));
    let marker = written.wal.restore_point("release-42", at(11));
    written.wal.commit(xid(101), at(12));
    let findings = written.find(Goal::Record(marker.start));
    assert_eq!(findings.target, Some(marker));
    assert_eq!(findings.restore_point.as_deref(), Some("release-42"));
    assert_eq!(findings.last_kept.unwrap().xid, 100);
    assert_eq!(findings.first_left_out.unwrap().xid, 101);
}

#[test]
fn marker_as_the_last_record_is_found() {
    let mut written = backup();
    let marker = written.wal.restore_point("release-42", at(11));
    let findings = written.find(Goal::Record(marker.start));
    assert_eq!((findings.target, findings.first_left_out), (Some(marker), None));
}

#[test]
fn position_within_a_record_is_no_record() {
    let mut written = backup();
    let marker = written.wal.restore_point("release-42", at(11));
    written.wal.filler(10);
    let findings = written.find(Goal::Record(marker.start.advance(8)));
    assert_eq!(findings.target, None);
    assert!(findings.behind.is_some());
}

#[test]
fn transaction_is_found_by_the_record_that_ends_it() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10));
    let aborted = written.wal.abort(xid(101), at(20));
    let prepared = written.commit_prepared(0, 90, at(30));
    let goal = |id, exclusive| Goal::Xid { xid: xid(id), exclusive };
    assert_eq!(written.find(goal(101, false)).target, Some(aborted));
    assert_eq!(written.find(goal(90, false)).target, Some(prepared), "the record itself carries another number");
    let exclusive = written.find(goal(90, true));
    assert_eq!((exclusive.target, exclusive.behind), (Some(aborted), Some(prepared)));
    assert_eq!(exclusive.first_left_out.unwrap().xid, 90);
}

#[test]
fn exclusive_transaction_leaves_out_what_it_did_outside_of_transactions() {
    let mut written = backup();
    let before = written.wal.commit(xid(100), at(10));
    written.wal.append(ResourceManager::DATABASE, 0x20, xid(101), &[1, 0, 0, 0, 0, 0, 0, 0]);
    written.wal.commit(xid(101), at(20));
    assert_eq!(written.find(Goal::Xid { xid: xid(101), exclusive: true }).target, Some(before));
}

#[test]
fn subtransaction_names_its_parent() {
    let mut written = backup();
    written.subtransactions_commit(100, &[101, 102], at(10));
    let findings = written.find(Goal::Xid { xid: xid(102), exclusive: false });
    assert_eq!((findings.target, findings.parent_of_xid), (None, Some(xid(100))));
}

#[test]
fn running_and_unknown_transactions_are_told_apart() {
    let mut written = backup();
    written.wal.append(ResourceManager::HEAP, 0, xid(100), &[0; 8]);
    assert!(written.find(Goal::Xid { xid: xid(100), exclusive: false }).xid_seen);
    assert!(!written.find(Goal::Xid { xid: xid(101), exclusive: false }).xid_seen);
}

#[test]
fn end_is_the_last_whole_record() {
    let mut written = backup();
    let last = written.wal.commit(xid(100), at(10));
    let cut = written.wal.filler(3_000);
    let mut scan = written.scan(Goal::End);
    let known = written.bytes().len() - 8;
    assert_eq!(scan.feed(&written.bytes()[..known]), Ok(Progress::More));
    assert_eq!(scan.finish().target, Some(last), "the record at {} is not whole", cut.start);
}

#[test]
fn zeros_are_the_end_and_garbage_is_not() {
    let mut written = backup();
    written.wal.commit(xid(100), at(10));
    let mut scan = written.scan(Goal::End);
    scan.feed(written.bytes()).unwrap();
    assert!(scan.feed(&[0; 64]).unwrap_err().is_end_of_wal());
    let mut scan = written.scan(Goal::End);
    scan.feed(written.bytes()).unwrap();
    assert!(!scan.feed(&[0xA5; 64]).unwrap_err().is_end_of_wal());
}

#[test]
fn backup_end_is_noted_and_tablespaces_up_to_what_is_left_out() {
    let mut written = backup();
    let mut tablespace = 16_400_u32.to_le_bytes().to_vec();
    tablespace.extend(b"/srv/fast\0");
    let created = written.wal.append(ResourceManager::TABLESPACE, 0x00, xid(100), &tablespace);
    written.wal.commit(xid(100), at(10));
    written.wal.append(ResourceManager::TABLESPACE, 0x10, xid(101), &16_400_u32.to_le_bytes());
    written.wal.commit(xid(101), at(20));
    written.wal.append(ResourceManager::TABLESPACE, 0x10, xid(102), &16_401_u32.to_le_bytes());
    let findings = written.find(time(15));
    assert_eq!(findings.backup_end, Some(written.backup_end));
    let change = TablespaceChange { lsn: created.start, oid: 16_400, path: Some("/srv/fast".to_owned()) };
    assert_eq!(findings.tablespaces.first(), Some(&change));
    assert_eq!(findings.tablespaces.len(), 2, "the second one is before the commit that is left out");
    assert_eq!(written.find(time(25)).tablespaces.len(), 3);
}

#[test]
fn search_behind_the_target_has_an_end() {
    let mut written = backup();
    let marker = written.wal.restore_point("release-42", at(11));
    let mut scan = written.scan(Goal::Record(marker.start));
    let mut fed = 0;
    loop {
        let filler = written.wal.filler(1 << 20);
        let bytes = &written.bytes()[fed..];
        fed += bytes.len();
        if scan.feed(bytes).unwrap() == Progress::Done {
            assert!(filler.end.distance_from(marker.end).unwrap() < 40 << 20);
            break;
        }
    }
}

proptest! {
    /// A list of transactions is the oracle for what a time, a position and a transaction resolve to, however the bytes
    /// are cut.
    #[test]
    fn targets_agree_with_a_list_of_transactions(
        steps in prop::collection::vec((0_i64..30, 0_usize..9_000), 1..25),
        wanted in 0_i64..30,
        cut in 1_usize..20_000,
    ) {
        let mut written = backup();
        let mut commits = Vec::new();
        for (id, (seconds, filler)) in (100..).zip(&steps) {
            written.wal.filler(*filler);
            commits.push((id, *seconds, written.wal.commit(xid(id), at(*seconds))));
        }
        let find = |goal| {
            let mut scan = written.scan(goal);
            for piece in written.bytes().chunks(cut) {
                scan.feed(piece).unwrap();
            }
            scan.finish()
        };
        let later = commits.iter().position(|(_, seconds, _)| *seconds > wanted).unwrap_or(commits.len());
        let findings = find(time(wanted));
        prop_assert_eq!(findings.target, later.checked_sub(1).map(|last| commits[last].2));
        prop_assert_eq!(findings.first_left_out.map(|t| t.xid), commits.get(later).map(|c| c.0));

        let (id, _, bounds) = commits[steps.len() / 2];
        prop_assert_eq!(find(Goal::Xid { xid: xid(id), exclusive: false }).target, Some(bounds));
        prop_assert_eq!(find(Goal::Lsn(bounds.end)).target, Some(bounds));
        prop_assert_eq!(find(Goal::Lsn(bounds.end)).last_kept.map(|t| t.xid), Some(id));
        prop_assert_eq!(find(Goal::End).target, commits.last().map(|c| c.2));
    }
}
