//! `[wal] source = "archive"`: the segments that `archive_command` hands over are the archive; nothing is streamed.
//!
//! [`crate::wal_push`] stores them. What happens here is all that the stream does besides: `sealed` follows the segments that
//! join, their records are read once for landmarks and times of commits, the way through timelines is the server's.
//!
//! What holds:
//! - **`sealed` moves over segments that join only.** Pushes come in any order: history files first, old segments after a
//!   crash last. What is ahead of a missing segment waits.
//! - **The open segment is never stored.** Whoever waits for a position in it (a marker, a backup) makes the server switch
//!   to the next one, once.
//! - **A success that we did not give is found out.** Where the server takes a segment for archived and the repository does
//!   not have it (another `archive_command` for a while, a standby that inherited it), it is fetched from `pg_wal`; where it
//!   is gone from there too, there is a gap, which is noted, and the archive goes on behind it.

mod follow;
mod missing;
mod sequence;
mod server;

pub(super) use follow::ArchiveMode;
