//! Point-in-time recovery for PostgreSQL: the repository format, what can be restored from it, and how.
//!
//! The direction of dependence is `postgres ← repository::{layout, format, catalog} ← recovery`, all pure: bytes and
//! values in, values out, no clock, no file, no await. `storage` is the port to object stores, `repository::store` joins
//! both, and `restore` executes plans. Nothing here reads the environment, prints, or ends the process.

pub mod api;
pub mod buffers;
pub mod clock;
pub mod codec;
pub mod config;
pub mod deployments;
pub mod expire;
pub mod fs;
pub mod impact;
pub mod lookup;
pub mod postgres;
pub mod recovery;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod secret;
pub mod storage;
pub mod summarize;
pub mod verify;
pub mod wal_summary;
