//! The configuration file: TOML, strict, read into typed values.
//!
//! ```text
//! text ──[document]──▶ sections of values with their lines ──[one module a section]──▶ Config
//! ```
//!
//! What holds:
//! - **Every problem is reported at once**, as `file:line: key: problem`. A reader of typed values that stops at the first
//!   error would send a person through the file once for each of them, so the sections are read from the parsed document.
//! - A key that no section asks for is an error, with the key that was probably meant. The keys that are known are those
//!   that the code asks for: the two cannot differ.
//! - Nothing here reads the environment. Values of the environment come in as [`Environment`], and secrets stay references
//!   ([`SecretSource`]) until somebody resolves them.
//! - Everything after this module sees [`Config`] only; every part of the program gets the section it needs.

mod backup;
mod byte_size;
mod cluster;
mod document;
mod drill;
mod environment;
mod error;
mod http;
mod location;
mod postgres;
mod repository;
mod retention;
mod secret_source;
mod socket;
#[cfg(test)]
mod tests;
mod value;
mod wal;

pub use backup::BackupConfig;
pub use byte_size::{ByteSize, ParseByteSizeError};
pub use cluster::Config;
pub use drill::{DrillConfig, DrillTarget};
pub use environment::Environment;
pub use error::{ConfigError, LoadError, Problem};
pub use http::HttpConfig;
pub use location::{LocateError, locate};
pub use postgres::PostgresConfig;
pub use repository::{AccessKey, ProxyAddress, RepositoryConfig};
pub use retention::RetentionConfig;
pub use secret_source::{SecretError, SecretSource};
pub use socket::{SocketKeys, SocketPlaces, client_socket, default_socket};
pub use value::parse_duration;
pub use wal::{WalConfig, WalSource};
