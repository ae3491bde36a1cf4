//! The daemon: everything that `pitr-agent run` runs, from the first check to the last flush.
//!
//! The API listens first, so that `pitr status` can say what the agent waits for. Then server and repository are reached,
//! again and again while their trouble is one that passes; what only a person can mend ends the process with a message.

pub mod adopt;
pub mod prepare;
mod run;
mod status;

pub use prepare::{Memory, PrepareError};
pub use run::{DaemonError, Launch, run};
pub use status::{BackupOutlook, StatusBoard};
