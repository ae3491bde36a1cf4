//! The agent's HTTP API: on a unix socket for whoever may use it, and read-only on TCP where configured.
//!
//! The paths and values are `pitr::api`. What writes stands only on the socket, whose folder only its owner can enter.

mod answer;
mod routes;
mod server;

pub use routes::{ApiState, BackupDoor, Doors, ExpireDoor, StatusSource, full, read_only};
pub use server::{ServerError, bind_socket, serve_socket, serve_tcp};
