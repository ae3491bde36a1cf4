//! The WAL feed: what answers a server's `restore_command`.
//!
//! The server takes a command that exits with 1 to 125 for "there is no such file", ends the recovery there and promotes, with
//! whatever is missing missing. So absence must be **proven**: by the store's own answer, and by everything else that the
//! repository says. Whatever a restore's plan needs is never absent; where nothing says what is needed, a segment is absent
//! only if nothing newer is durable on its timeline and nobody sealed it. Every other trouble is an error.
//!
//! A file is delivered whole or not at all: written under another name, checked, renamed.
//!
//! [`resident`] is a process that lives as long as a recovery asks for WAL and fetches ahead; [`client`] asks it. It is only
//! ever faster: without it every segment is fetched when it is asked for.

pub mod client;
mod delivery;
mod error;
mod feed;
mod name;
mod needed;
pub mod resident;

pub use error::FeedError;
pub use feed::{FetchOutcome, WalFeed};
pub use name::FeedName;

#[cfg(test)]
mod tests;
