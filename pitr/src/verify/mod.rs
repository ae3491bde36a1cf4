//! Proves what a repository holds, and says what is lost where something is damaged.
//!
//! A verification reads and never writes. It goes from what names to what is named: documents, the contents of backups,
//! file maps, packs, WAL. What is wrong with an object is a [`Damage`]; which backups and which moments that takes away
//! follows from planning again without the damaged objects ([`Loss`]). What nothing names is garbage, and told as such.
//!
//! - *Fast*: every document and map is read, every pack that a backup names is there with its length, WAL is without an
//!   unexplained hole.
//! - *Full*: in addition every byte of packs and WAL: frames and blocks against the tables of packs, these against the maps,
//!   page checksums, records with their checksums and their chain, summaries and markers against the records.
//! - *Sample*: fast, and the additional work for as many packs and segments as a budget allows, chosen at random.
//!
//! A pack is read once, however many backups share it. Memory: a few bytes for each pack of 16 MiB and for each map, a
//! bounded number of extents, and one pack or segment for each job; nothing else grows with the database.
//!
//! Failure model: what the store does not answer ends the verification with its error; it is never taken for damage. An
//! object that disappears while the verification runs, because an agent folded, replaced or expired it, is looked for
//! again at the end before anything is said of it.

mod archived_files;
mod backups;
mod damage;
mod documents;
mod extents;
mod inventory;
mod loss;
mod maps;
mod named_contents;
mod options;
mod packs;
mod pages;
mod progress;
mod report;
mod run;
mod stored_pack;
mod summaries;
mod wal;
mod wal_tasks;

#[cfg(test)]
mod tests;

pub use damage::{Damage, ObjectKind};
pub use loss::{Loss, LostRange};
pub use options::{Depth, VerifyOptions, random_seed};
pub use progress::{Phase, Step};
pub use report::{BackupVerdict, Figures, LineageReport};
pub use run::verify_lineage;
