//! The port through which a server is asked. The binaries bring the client.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

/// Where a server listens, and as whom to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlEndpoint {
    pub socket_directory: PathBuf,
    pub port: u16,
    pub user: String,
    pub database: String,
}

/// A query that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SqlProbeError(pub String);

/// Asks a server.
#[async_trait]
pub trait SqlProbe: fmt::Debug + Send + Sync {
    /// Runs one query on a connection of its own and returns the first column of its only row, as text.
    ///
    /// # Errors
    /// No connection, or the server refuses the query.
    async fn query(&self, endpoint: &SqlEndpoint, sql: &str) -> Result<Option<String>, SqlProbeError>;
}
