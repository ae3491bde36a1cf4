//! The repository: names and forms of its objects, what can be restored from it, and access to it.
//!
//! `docs/format.md` specifies every byte. [`layout`] is the only builder and parser of keys.

pub mod backup;
pub mod catalog;
pub mod catalog_load;
pub mod condemnation;
pub mod document;
pub mod envelope;
pub mod error;
pub mod found_restore_point;
pub mod gap;
pub mod hash;
pub mod layout;
pub mod lease;
pub mod lineage;
pub mod lineage_object;
pub mod marker;
pub mod note_id;
pub mod pin;
pub mod store;
pub mod summary_object;
pub mod summary_store;
pub mod wal_object;
pub mod wal_store;

pub use error::{Error, Result};
pub use found_restore_point::{FoundRestorePoint, Recorded};
pub use lineage_object::LineageObject;
pub use note_id::NoteId;
pub use store::{LineageStore, Repository};
pub use summary_store::SummaryStore;
pub use wal_store::{StoredSegment, WalStore};
