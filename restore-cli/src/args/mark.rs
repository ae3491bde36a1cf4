//! `pitr mark`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use pitr::recovery::MarkerRef;

use super::UsageError;
use super::meta::{parse_meta, parse_timeout};

/// Create a marker: a moment with a name, to come back to
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the agent for a restore point, and returns when it and all WAL before it are durable in the
repository.

Examples:
  pitr mark release-42
  pitr mark release-42 --meta sha=1f3a9c2 --meta ticket=OPS-17
  pitr mark release-42 --key \"$CI_JOB_ID\"     # a retry finds the first marker again")]
pub struct MarkArgs {
    /// Name of the marker, at most 63 bytes
    pub name: String,
    /// Something to remember with it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub meta: Vec<String>,
    /// Makes a retry with the same key find the first marker again
    #[arg(long, value_name = "ID")]
    pub key: Option<String>,
    /// How long to wait until it is sealed; then exit code 8
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Return when the restore point is written, before it is sealed
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkOrder {
    pub name: String,
    pub meta: BTreeMap<String, String>,
    pub key: Option<String>,
    /// None: do not wait.
    pub timeout: Option<Duration>,
}

impl MarkArgs {
    /// # Errors
    /// A name or metadata that no marker can have.
    pub fn validate(self) -> Result<MarkOrder, UsageError> {
        let name: MarkerRef = parse_marker(&self.name)?;
        if name.lsn.is_some() {
            return Err(UsageError::new(format!("invalid marker name \"{}\"", self.name))
                .with_hint("a name that ends in @LSN would be taken for a marker at that LSN"));
        }
        if self.key.as_deref() == Some("") {
            return Err(UsageError::new("the key is empty"));
        }
        Ok(MarkOrder {
            name: name.name,
            meta: parse_meta(&self.meta)?,
            key: self.key,
            timeout: (!self.no_wait).then_some(self.timeout),
        })
    }
}

/// `NAME` or `NAME@LSN`.
///
/// # Errors
/// A name that no restore point can have.
pub fn parse_marker(text: &str) -> Result<MarkerRef, UsageError> {
    text.parse().map_err(|error: pitr::recovery::ParseTargetError| UsageError {
        message: error.to_string(),
        hint: error.hint(),
    })
}
