//! Exit codes of `pitr-agent`: those of `pitr` that can happen here.

use std::process::ExitCode;

pub const FAILED: u8 = 1;
/// Usage or configuration, or histories that differ: only a person can mend it.
pub const USAGE: u8 = 2;
/// Repository or server cannot be reached, or refuse us.
pub const UNAVAILABLE: u8 = 4;
pub const CHECK_FAILED: u8 = 7;

#[must_use]
pub fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}
