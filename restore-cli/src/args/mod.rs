//! The command line: what clap reads, and what the commands get.
//!
//! Two steps. The derived structs hold what was written, nearly as texts; `validate` of each turns them into values that
//! cannot be wrong any more, or into a usage error. No command looks at the derived structs.

mod backup;
mod cli;
mod expire;
mod find;
mod finish;
mod global;
mod impact;
mod info;
mod mark;
mod markers;
mod meta;
mod pin;
mod report;
mod restore;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod usage;
mod verify;
mod wal_fetch;

pub use backup::BackupOrder;
pub use cli::{Cli, Command};
pub use expire::ExpireOrder;
pub use find::FindOrder;
pub use finish::FinishOrder;
pub use global::{AgentAddress, ColorChoice, Global, GlobalArgs, Verbosity};
pub use impact::ImpactOrder;
pub use info::{Compat, InfoArgs};
pub use mark::MarkOrder;
pub use markers::MarkersOrder;
pub use pin::{PinOrder, PinnedName};
pub use report::ReportOrder;
pub use restore::{RestoreOrder, TargetAction};
pub use target::TargetOrder;
pub use usage::UsageError;
pub use verify::{VerifyDepth, VerifyOrder};
pub use wal_fetch::{FEEDER_COMMAND, WalFeederArgs, WalFetchArgs, WalFetchOrder};
