//! Retention carried out: what the repository holds is read, planned for, and deleted in an order that a crash cannot hurt.
//!
//! ```text
//! read ─ plan ─ condemn ─ read again ─ plan again ─ note holes ─ descriptors ─ WAL ─ what told of it ─ contents, maps, packs ─ rewrite
//! ```
//! - A backup stops existing as a whole, with its manifest. What it alone named goes after a time of grace.
//! - Between the condemnation and the deletion everything is read again, so that a backup which names a condemned one as its
//!   parent, or a pin, comes in time or finds the condemnation ([`is_condemned`]).
//! - Whatever a crash leaves is found by the next run, which works everything out anew: nothing is remembered but
//!   condemnations.

mod condemned;
mod error;
mod execute;
mod load;
mod pins;
mod rewrite;
mod survey;
#[cfg(test)]
mod tests;

pub use condemned::is_condemned;
pub use error::{ExpireError, Result};
pub use execute::{Expired, ExpiredLineage, Expiry};
pub use load::{load_cluster, load_holdings};
pub use pins::{load_pins, pin, release};
pub use rewrite::RewrittenPacks;
pub use survey::{ObjectCount, ObjectKind, Survey, survey};
