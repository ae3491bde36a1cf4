//! Chance that can be repeated.

/// A seed for this run of a test, printed so that `PITR_SEED` can repeat it.
#[must_use]
#[expect(clippy::print_stderr, reason = "a failure has to be repeatable")]
pub fn of_this_run() -> u64 {
    let seed = std::env::var("PITR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("seed: PITR_SEED={seed}");
    seed
}
