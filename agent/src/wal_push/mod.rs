//! `archive_command = 'pitr-agent wal-push %p'`: from the server's archiver to the repository.
//!
//! ```text
//! archiver ──▶ client ──POST /v1/wal──▶ agent: reads the file, proves it, stores it ──▶ repository
//!          ◀── 0 ────── 200 ─────────── only once it is durable
//! ```
//!
//! What holds:
//! - **0 means durable.** The client exits 0 on one answer only, that of an agent which has the same bytes in the
//!   repository; a server that is told so recycles the file. Everything else is 1: the server tries again. Never 126 or
//!   above, which ends its archiver.
//! - **The agent reads the file itself**, once, and what it proves is what it stores. The client only says which file it
//!   means, by name, place and inode: it starts in a millisecond and touches no content. The file must stand in `pg_wal` of
//!   the server that this agent protects.
//! - **Nothing is known by name alone.** A segment that is stored already is compared by its hash, with what the agent
//!   remembers or with what stands in the repository. The file may have been hashed before it was asked for, where it has not
//!   been touched since; see [`file_hashes`].
//! - **Nothing is believed.** Every page header, every record's checksum, and that zeros follow a switch only; see
//!   [`verify`].
//!
//! When the client is gone, what it asked for is given up: it asks again, and what was stored meanwhile is found.

mod ahead;
mod client;
mod deposit;
mod desk;
mod error;
mod file_hashes;
mod segment_hash;
mod source_file;
pub mod verify;

pub use client::run as run_client;
pub(crate) use deposit::{Arrival, Deposit};
pub use desk::{PushService, Pushes};
pub use error::PushError;
