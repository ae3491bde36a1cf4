//! `pitr finish`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{ArgGroup, Args};
use pitr::recovery::MarkerRef;
use pitr::repository::marker::Outcome;

use super::UsageError;
use super::mark::parse_marker;
use super::meta::{parse_meta, parse_timeout};

/// Close a marker: what it began has ended
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("outcome").required(true).args(["ok", "failed"]),
    after_help = "\
\"pitr restore --after NAME\" then means all that was committed before this moment.

Examples:
  pitr finish release-42 --ok
  pitr finish release-42 --failed --meta reason=\"migration 7 timed out\"
  pitr finish release-42@0/3000060 --ok          # one of several with that name"
)]
pub struct FinishArgs {
    /// Name of the marker; NAME@LSN where several share it
    pub name: String,
    /// It went well
    #[arg(long)]
    pub ok: bool,
    /// It did not
    #[arg(long)]
    pub failed: bool,
    /// Something to remember with it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub meta: Vec<String>,
    /// How long to wait until it is sealed; then exit code 8
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// Return before it is sealed
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishOrder {
    pub marker: MarkerRef,
    pub outcome: Outcome,
    pub meta: BTreeMap<String, String>,
    /// None: do not wait.
    pub timeout: Option<Duration>,
}

impl FinishArgs {
    /// # Errors
    /// A name or metadata that no marker can have.
    pub fn validate(self) -> Result<FinishOrder, UsageError> {
        Ok(FinishOrder {
            marker: parse_marker(&self.name)?,
            outcome: if self.ok { Outcome::Ok } else { Outcome::Failed },
            meta: parse_meta(&self.meta)?,
            timeout: (!self.no_wait).then_some(self.timeout),
        })
    }
}
