//! What is kept, what goes, and why. Pure: from what the repository holds and from rules to a plan.
//!
//! ```text
//! Holdings of every lineage ─┐
//! Order (rules, or names) ───┼─▶ plan ─▶ ExpirePlan ─▶ Judge: Keep | Later | Delete for each object, with the reason
//! now ───────────────────────┘
//! ```
//! What holds:
//! - A moment that a rule keeps, and that can be restored to before, can be afterwards, by the same plan.
//! - Only what is known to be of no use goes. What cannot be read, or is of a kind that is not known, stays.
//! - Names and their order decide nothing: positions on paths of timelines and times do.

mod draft;
mod holdings;
mod judge;
mod kept_wal;
mod moments;
mod plan;
mod policy;
mod reason;
mod rewrite;
#[cfg(test)]
mod tests;

pub use holdings::{BackupParts, Holdings, OpenBackup, PackUse, Superseded};
pub use judge::{Fate, Judge, Judgement};
pub use kept_wal::{KeptRange, KeptWal};
pub use moments::LostMoments;
pub use plan::{BackupVerdict, ExpirePlan, LineagePlan, MarkerVerdict, Refusal, plan};
pub use policy::{Grid, Order, Policy};
pub use reason::{BackupReason, ObjectReason, WalReason};
pub use rewrite::{DeadPack, RewritePlan, is_mostly_dead};
