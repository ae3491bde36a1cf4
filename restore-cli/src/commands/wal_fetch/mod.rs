//! `pitr wal-fetch`: the `restore_command`, and the process that fetches ahead for it.
//!
//! Nothing is printed on stdout, and the exit codes are those of [`ending`](crate::ending).

mod feed;
mod feeder;
mod fetch;

pub use feeder::{prepare_feeder, run_feeder};
pub use fetch::run;
