//! The files of a backup, from packs to a directory.
//!
//! One map after the other: its frames are read pack by pack in a few large requests, several of which are under way while
//! others are decoded; every frame is proven by its hash before a byte of it is written. Zeros become holes, and no file is
//! synced by itself: write-back begins early, and one `syncfs` a file system ends it. `global/pg_control` alone is held
//! back, for it makes the directory one that can start.
//!
//! Where files may be there already (`--delta`), what each frame would bring is first compared with them by the hashes of
//! its blocks, and only frames that one of its users lacks are read; what the backup does not have goes last.
//!
//! Memory: `requests` ranges of `request_bytes`, as many again between decoding threads, and one map with the next.

mod adopt;
mod comparison;
mod durability;
mod file_writer;
mod frame;
mod map;
mod outlook;
mod pack_table;
mod pack_tables;
mod read_plan;
mod sizes;
mod surplus;
mod transfer;
mod tree;

/// Whether the extents of a map contradict each other.
///
/// # Errors
/// They do, in words.
pub(crate) fn check_extents(map: &FileMap) -> Result<(), String> {
    read_plan::ranges(map, u64::MAX).map(drop)
}

pub(super) use durability::FileSystems;
pub(crate) use frame::{FrameDecoder, FrameFault};
pub(crate) use map::{FileMap, extents_size};
pub use outlook::DeltaOutlook;
pub(crate) use pack_table::{PackTable, read_range};
pub(crate) use read_plan::FrameRead;
pub use sizes::TreeSizes;
pub(super) use surplus::Removed;
pub(super) use transfer::Transfer;
pub use transfer::TransferOptions;
pub(super) use tree::Tree;
