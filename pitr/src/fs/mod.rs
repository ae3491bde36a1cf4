//! Files that survive a power cut: the one place where anything is published under its final name.
//!
//! A file is *published* in this order, and every caller gets all of it:
//!
//! 1. written under another name in the same file system, so that nobody sees a part of it;
//! 2. `fsync` of the file, so that its content is on the disk before its name is;
//! 3. the name: a hard link where the file must be new (`link(2)` never overwrites, whoever races), a rename where it
//!    takes the place of another;
//! 4. `fsync` of the directory, so that the name is on the disk too.
//!
//! A crash before step 3 leaves a file under a temporary name and nothing else. A crash between 3 and 4 leaves either
//! state; until 4 succeeded nothing may be acknowledged.
//!
//! Everything here blocks: call it off the async threads. Errors name the path and keep the `errno`, from which
//! [`FailureKind`] tells a full disk from a missing right.

mod directory;
mod durable;
mod error;
mod staged;

pub use directory::{Directory, EntryType, FileStatus};
pub use durable::{create_dir_all_durable, fsync_dir, publish_bytes};
pub use error::{Action, Error, FailureKind, Result};
pub use staged::{Publish, StagedFile, is_staging_name};
