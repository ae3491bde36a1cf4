//! What was found in WAL, stored beside it: markers of restore points, and WAL summaries.
//!
//! The archiver tells what it finds, in order, and never waits ([`Findings`](crate::archiver::Findings)). The recorder stores
//! it once the WAL in question is sealed. The upkeep looks for what is missing, at the start and now and then: it is built
//! from stored WAL; and it folds summaries of neighbours. Nothing here delays archiving or fails it.

mod recorder;
mod service;
mod trouble;
mod upkeep;

pub use service::SummaryService;
