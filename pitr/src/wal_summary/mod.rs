//! What the records of a range of WAL say, small enough to keep for every segment: which blocks they change, when their
//! transactions ended, which moments one may want to go back to, and how many rows of which relation were changed.
//!
//! A [`SummaryBuilder`] takes the records of one range in order and yields a [`WalSummary`]; [`fold`] joins summaries of
//! neighbouring ranges into one, which is the same as if it had been built over the whole. [`to_bytes`] and [`from_bytes`]
//! are its stored form. Pure: bytes and values in, values out.
//!
//! A summary claims to be complete. A record that cannot be understood therefore ends its builder: there will be no summary
//! of that range, and whoever wants one must not take that for "nothing changed".

pub mod blocks;
pub mod builder;
pub mod catalog;
pub mod content;
pub mod fold;
pub mod listed;
pub mod moment;
pub mod rows;
pub mod run_set;
mod stored;
pub mod summary;
pub mod times;
pub mod transactions;

pub use blocks::{ChangedBlocks, DatabaseLocator, RelationChanges};
pub use builder::SummaryBuilder;
pub use catalog::{CatalogChange, CatalogChangeKind, RowBytes, SequenceState};
pub use content::{ContentError, MAX_CONTENT_BYTES, MAX_FOLDED_BYTES, from_bytes, to_bytes};
pub use fold::{FoldError, compose, fold};
pub use listed::Listed;
pub use moment::{Moment, MomentKind, SchemaChange};
pub use rows::RowChanges;
pub use run_set::{Run, RunSet};
pub use summary::{DECODER_VERSION, WalSummary};
pub use times::{EndedTransaction, Ends, SegmentTimes, TransactionTimes};
pub use transactions::{OpenTransaction, PreparedPoint, Transactions};

#[cfg(test)]
mod tests;
