//! What a backup takes over from an earlier one, its parent, instead of storing it again.
//!
//! - [`parent`] picks the parent and makes sure of it, [`interrupted`] one that was interrupted since; [`method`] finds out what WAL says was changed since.
//! - [`reading`] decides which pages of a file must be read. Pure.
//! - [`parent_file`] is a file as the parent has it, in pieces that can be taken over. Pure.
//! - [`sample`] draws pages that are read though they should not have changed. Pure.
//! - [`cursor`] goes through the parent's maps in step with the copy, [`hashes`] tells the hashes of its blocks, and
//!   [`packs`] gives packs of any backup short numbers.
//!
//! Memory: a few maps and tables of the parent at a time, and the changed blocks as runs, bounded by joining neighbours.

pub mod cursor;
pub mod hashes;
pub mod interrupted;
pub mod method;
pub mod packs;
pub mod parent;
pub mod parent_file;
pub mod reading;
pub mod sample;
