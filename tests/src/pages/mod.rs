//! The pages of a backup as they stand in the repository, held against those of another backup or of the server's disk.
//!
//! Read through the formats of `docs/format.md`, not by the code that restores: a fault that copying and restoring share
//! would not show there. Every frame is held against the hash that the file map names.

mod compare;
mod disk;
mod hints;
mod shelf;
mod stored;

pub use compare::{Difference, compare};
pub use disk::compare_with_disk;
pub use hints::Tolerance;
pub use shelf::Shelf;
pub use stored::{StoredBackup, StoredFile};

/// Bytes of a page of a relation.
pub const PAGE: usize = 8192;
