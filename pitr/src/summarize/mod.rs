//! From WAL to stored summaries: while it streams by, and afterwards from what is stored.
//!
//! - [`SummaryCutter`] gives every record to the summary of the segment that it starts in. Pure.
//! - [`Coverage`] says for which parts of a timeline there is no summary, [`folding`] which ones can become one. Pure.
//! - [`StoredSummaries`] builds summaries from stored WAL, one segment at a time.
//! - [`upkeep`] puts the two together for a lineage: what is missing, and building it.
//!
//! **A summary is put after the markers of its restore points.** So a segment that has a summary need never be read again to
//! find what somebody may want to go back to.

pub mod coverage;
pub mod cutter;
pub mod folding;
pub mod stored;
#[cfg(test)]
mod testing;
pub mod upkeep;
pub mod verify;

pub use coverage::{Coverage, Stretch};
pub use cutter::{CutSummary, SummaryCutter};
pub use stored::{Built, StoredSummaries};
pub use upkeep::{Survey, TimelineSurvey, found_restore_points};
pub use verify::{VerifiedTimeline, verify_summaries};
