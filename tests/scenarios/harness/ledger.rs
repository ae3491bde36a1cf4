use std::collections::BTreeSet;

use anyhow::{Context, Result};
use chrono::TimeDelta;
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::wal_oracle::WalOracle;
use pitr_tests::{Expected, Ledger, Moment, Postgres, PostgresOptions};

async fn loaded(major: u32) -> Result<(Postgres, Ledger, WalOracle)> {
    let server = Postgres::start(PostgresOptions::of(major).conf("wal_keep_size = '4GB'")).await?;
    Ledger::create(&server).await?;
    let from = server.insert_lsn().await?;
    let writers = Writers::start(&server, Load::new(3, 7)).await?;
    writers.more(150).await?;
    server.execute("SELECT pg_create_restore_point('in the middle')").await?;
    writers.more(150).await?;
    let ledger = writers.stop().await?;
    let oracle = WalOracle::read(&server, from).await?;
    Ok((server, ledger, oracle))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writers_and_the_wal_tell_the_same() -> Result<()> {
    for major in [15, 17, 18] {
        let (server, ledger, oracle) = loaded(major).await?;
        let found = Ledger::read(&server.connect().await?).await?;
        assert_eq!(found, ledger.acknowledged());
        assert!(ledger.unanswered().is_empty());
        assert!(oracle.restore_point("in the middle").is_some());
        let by_xid = oracle.by_xid();
        for entry in ledger.entries() {
            let xact = by_xid.get(&entry.xid).with_context(|| format!("{entry:?} is not in the WAL"))?;
            assert!(xact.committed, "{entry:?} {xact:?}");
            assert!(entry.before <= xact.start && xact.end <= entry.after, "{entry:?} {xact:?}");
            assert_eq!(entry.commit_time, Some(xact.time), "{entry:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_expectations_lie_within_the_bounded_ones() -> Result<()> {
    let (_server, ledger, oracle) = loaded(17).await?;
    for entry in ledger.entries().iter().step_by(17) {
        let time = entry.commit_time.context("no commit time")?;
        for moment in [
            Moment::Lsn(entry.after),
            Moment::Xid(entry.xid),
            Moment::Time(time),
            Moment::Time(time - TimeDelta::microseconds(1)),
        ] {
            let exact = Expected::at(&moment, &ledger, Some(&oracle));
            let bounded = Expected::at(&moment, &ledger, None);
            assert_eq!(bounded.check(&exact.must).map_err(|error| error.to_string()), Ok(()), "{moment:?}");
            let includes = exact.must.contains(&entry.id);
            assert_eq!(includes, moment != Moment::Time(time - TimeDelta::microseconds(1)), "{moment:?} {entry:?}");
        }
    }
    Ok(())
}

#[test]
fn a_missing_and_an_extra_commit_are_both_found() {
    let expected = Expected { must: BTreeSet::from([1, 2]), may: BTreeSet::from([3]) };
    assert!(expected.check(&BTreeSet::from([1, 2])).is_ok());
    assert!(expected.check(&BTreeSet::from([1, 2, 3])).is_ok());
    assert!(expected.check(&BTreeSet::from([1])).is_err());
    assert!(expected.check(&BTreeSet::from([1, 2, 4])).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_its_balance_is_found() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    Ledger::create(&server).await?;
    let writers = Writers::start(&server, Load::new(2, 3)).await?;
    writers.more(20).await?;
    writers.stop().await?;
    server.execute("DELETE FROM ledger WHERE id = (SELECT min(id) FROM ledger)").await?;
    assert!(Ledger::read(&server.connect().await?).await.is_err());
    Ok(())
}
