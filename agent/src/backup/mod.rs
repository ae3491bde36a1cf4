//! Base backups: a parallel copy of the data directory between `pg_backup_start` and `pg_backup_stop`.
//!
//! [`run_backup`] takes one; [`BackupService`] takes them when they are due or asked for.

mod claim;
mod config_files;
mod contents;
mod control;
pub mod copy;
mod error;
pub mod incremental;
mod job;
pub mod listing;
mod options;
mod publish;
mod recorder;
mod run;
mod service;
pub mod session;
mod shared;
#[cfg(test)]
mod testing;
mod wal_proof;

pub use claim::{ClaimedBackup, claim};
pub use error::BackupError;
pub use job::JobReporter;
pub use options::BackupOptions;
pub use run::{BackupContext, run_backup};
pub use service::{BackupDesk, BackupService};
