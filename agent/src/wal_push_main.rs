//! `pitr-wal-push PATH`: `pitr-agent wal-push PATH` in an executable of its own, which starts in a third of the time.

use std::process::ExitCode;

fn main() -> ExitCode {
    pitr_agent::wal_push::run_client(std::env::args_os().skip(1))
}
