//! `pitr info`.

use clap::{Args, ValueEnum};

/// Show backups, the recoverable window, gaps and markers
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the repository only. With --repository and without --cluster, all clusters are shown.
With --compat pgbackrest the answer is what \"pgbackrest info --output=json\" would print of these
backups, for exporters and dashboards that read that.

Examples:
  pitr info
  pitr info --json | jq '.clusters[].backups[].id'
  pitr --repository file:///var/lib/pitr info
  pitr info --json --compat pgbackrest | jq '.[].backup[].label'")]
pub struct InfoArgs {
    /// Print the JSON of another tool
    #[arg(long, value_enum, value_name = "TOOL")]
    pub compat: Option<Compat>,
}

/// Whose JSON is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    Pgbackrest,
}
