//! The server: how to reach it, what it is, its SQL and its replication protocol.

pub mod conninfo;
pub mod error;
pub mod instance;
pub mod origin;
pub mod replication;
pub mod sql;
pub mod tls;
mod transport;

pub use conninfo::{ConnInfo, Endpoint, Environment};
pub use error::{Error, Result};
pub use instance::Instance;
pub use sql::SqlSession;
