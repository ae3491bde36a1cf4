//! The server on a restored directory: started by us, watched until its recovery ends, and asked what it reached.
//!
//! `pg_ctl` is no help here: it reports success for a server that is only reachable, and failure for one that stopped at its
//! target as it was told. So `postgres` is our own child until it got where it should; then it goes on without us.

mod command;
mod error;
mod log;
mod log_file;
mod probe;
mod programs;
mod run_directory;
mod verify;
pub(super) mod wal_test;
mod watch;

pub use command::StartOptions;
pub use error::{Error, Result};
pub use probe::{SqlEndpoint, SqlProbe, SqlProbeError};
pub use programs::ServerPrograms;
pub use run_directory::companion_directory;
pub use watch::RunningClone;

pub(super) use command::ServerCommand;
pub(super) use run_directory::RunDirectory;
pub(super) use verify::{Expected, verify};
pub(super) use wal_test::test_restore_command;
pub(super) use watch::{Ended, Observed, Supervisor};
