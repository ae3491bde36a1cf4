//! Which WAL need not be decoded, because summaries say what is in it.
//!
//! A way from a backup to a target is cut into [`Leg`]s, with a summary or without. A [`Route`] knows what must be decoded
//! whatever summaries say: the end of the backup, and the WAL in which the target can be. Of everything else a
//! [`SummaryDigest`] tells as much as decoding would have told. Where it cannot, a stretch is decoded; never is anything
//! guessed.

mod digest;
mod leg;
mod route;
#[cfg(test)]
mod tests;

pub use digest::SummaryDigest;
pub use leg::{Leg, legs};
pub use route::Route;

pub(crate) use digest::LastEnd;
