//! `pitr status`.

use clap::Args;

/// Show what can be restored and how the agent is, on one screen
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the repository only; the agent is asked where it can be reached.

Examples:
  pitr status
  pitr status --json | jq .problems
  pitr --repository s3://backups/pitr --cluster main status")]
pub struct StatusArgs {}
