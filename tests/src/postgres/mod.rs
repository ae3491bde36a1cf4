//! Real PostgreSQL servers, 13 to 18.

mod connection;
mod options;
mod restored;
mod server;
mod standby;

pub use connection::Connection;
pub use options::PostgresOptions;
pub use restored::RestoredServer;
pub use server::{Postgres, StopMode};
