//! The command with its subcommands.

use clap::{Parser, Subcommand};

use super::backup::BackupArgs;
use super::expire::ExpireArgs;
use super::find::FindArgs;
use super::finish::FinishArgs;
use super::global::GlobalArgs;
use super::impact::ImpactArgs;
use super::info::InfoArgs;
use super::mark::MarkArgs;
use super::markers::MarkersArgs;
use super::pin::{PinArgs, UnpinArgs};
use super::report::ReportArgs;
use super::restore::RestoreArgs;
use super::status::StatusArgs;
use super::verify::VerifyArgs;
use super::wal_fetch::{FEEDER_COMMAND, WalFeederArgs, WalFetchArgs};

/// Restore a PostgreSQL database to a moment, and prove what was reached.
#[derive(Debug, Parser)]
#[command(
    name = "pitr",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
The configuration is the file of --config or PITR_CONFIG, else /etc/pitr/CLUSTER.toml, else the
only file in /etc/pitr. With --repository none is needed.

Exit codes:
    0  done                              5  corruption found
    1  failed                            6  destination not usable
    2  usage or configuration            7  check or drill failed
    3  target not reachable              8  timed out waiting
    4  repository or server unavailable  130  interrupted
  wal-fetch: 0 found, 1 proven absent, 200 anything else

Examples:
  pitr status
  pitr restore --before release-42 --into /srv/restored --dry-run
  pitr --repository s3://backups/pitr --cluster main info --json"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Status(StatusArgs),
    Info(InfoArgs),
    Restore(Box<RestoreArgs>),
    Mark(MarkArgs),
    Finish(FinishArgs),
    Markers(MarkersArgs),
    Impact(ImpactArgs),
    Find(FindArgs),
    Backup(BackupArgs),
    Expire(ExpireArgs),
    Pin(PinArgs),
    Unpin(UnpinArgs),
    Verify(VerifyArgs),
    Report(ReportArgs),
    WalFetch(WalFetchArgs),
    #[command(name = FEEDER_COMMAND, hide = true)]
    WalFeeder(WalFeederArgs),
}
