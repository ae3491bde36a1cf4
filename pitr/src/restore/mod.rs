//! Carrying out a restore: from a plan to a directory that a server can start in, and to a server that did.
//!
//! [`Restorer`] does it in three steps that a caller can stop between: check (which only reads), restore (after which the
//! directory recovers by itself when a server starts in it), start (which waits for the target and certifies it).

pub mod certificate;
pub mod contents;
pub mod destination;
pub mod prepare;
pub mod recovery_config;
pub mod server;
pub mod stamp;
pub mod wal_feed;

mod configure;
mod copy;
pub(crate) mod enveloped_lines;
mod error;
mod execute;
pub(crate) mod files;
mod identity;
mod options;
mod owned_file;
mod progress;
mod report;
mod settings;
mod shell;
mod start;
mod tablespace_guard;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;

pub use error::{Error, FailureClass, Result};
pub use execute::{CheckedRestore, DeltaResult, RestoredDirectory, Restorer};
pub use files::{DeltaOutlook, TransferOptions, TreeSizes};
pub use options::{CompanionFile, RestoreOptions};
pub use progress::{Phase, Progress, ProgressSender};
pub use report::RestoreReport;
pub use settings::{RestoreCommand, TargetAction};
pub use shell::shell_word;
pub use stamp::{RestoreId, RestoreStamp, StampState};
pub use tablespace_guard::TablespacePolicy;
