//! Tests that can't run here: said aloud, and a failure where everything is demanded to run.

/// Whether this test may be passed over. True means: return.
///
/// # Panics
/// With `REQUIRE_E2E=1`: a run that demands everything must not be green without it.
#[must_use]
#[expect(clippy::print_stderr, reason = "a skipped test has to be seen")]
pub fn skipped(missing: &str) -> bool {
    let required = std::env::var_os("REQUIRE_E2E").is_some_and(|value| value == "1");
    assert!(!required, "this test can't run here and REQUIRE_E2E is set: {missing}");
    eprintln!("SKIPPED: {missing}");
    true
}

/// The major versions of this run; the long lane names more of them in `PITR_TEST_MAJORS`.
#[must_use]
pub fn majors() -> Vec<u32> {
    let set = std::env::var("PITR_TEST_MAJORS").unwrap_or_default();
    let majors: Vec<u32> = set.split([',', ' ']).filter_map(|word| word.parse().ok()).collect();
    if majors.is_empty() { vec![15, 17, 18] } else { majors }
}

/// Whether a test of this major version is left out here: those of the long lane are not demanded of the short one.
#[must_use]
#[expect(clippy::print_stderr, reason = "a test that is left out has to be seen")]
pub fn left_out(major: u32) -> bool {
    let left_out = !majors().contains(&major);
    if left_out {
        eprintln!("LEFT OUT: PostgreSQL {major} belongs to the long lane, make test-all");
    }
    left_out
}
