//! Rounds of load and proof on the versions and settings that differ.

use anyhow::Result;
use pitr_tests::pages::Tolerance;
use pitr_tests::{PostgresOptions, Store, seed, skip};

use super::proof::{Proof, number, options};

async fn rounds(options: PostgresOptions, store: Store, tolerance: Tolerance) -> Result<()> {
    let seed = seed::of_this_run();
    let mut proof = Proof::start(options, store, seed, tolerance).await?;
    let (rounds, acts) = (number("PITR_EQUALITY_ROUNDS", 2), number("PITR_EQUALITY_ACTS", 18));
    for round in 0..rounds {
        let acted = proof.acts(acts).await;
        proof.told(acted)?;
        let proven = proof.prove().await;
        let ordinary = proof.told(proven)?;
        if round + 1 == rounds {
            let restored = proof.restores(&ordinary).await;
            proof.told(restored)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_backup_equals_a_fresh_one_on_13_without_checksums() -> Result<()> {
    if skip::left_out(13) {
        return Ok(());
    }
    rounds(options(13, false), Store::local()?, Tolerance::Hints).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_backup_equals_a_fresh_one_on_15_with_checksums() -> Result<()> {
    rounds(options(15, true).wal_segment_mb(1), Store::local()?, Tolerance::Exact).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_backup_equals_a_fresh_one_on_15_with_s3_and_without_checksums() -> Result<()> {
    rounds(options(15, false), Store::s3().await?, Tolerance::Hints).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_backup_equals_a_fresh_one_on_17_with_logged_hints() -> Result<()> {
    rounds(options(17, false).conf("wal_log_hints = on"), Store::local()?, Tolerance::Exact).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_backup_equals_a_fresh_one_on_18_with_s3() -> Result<()> {
    rounds(options(18, true), Store::s3().await?, Tolerance::Exact).await
}
