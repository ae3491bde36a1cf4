//! The command line of `pitr-agent`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pitr::repository::layout::ClusterName;

const EXAMPLES: &str = "\
Examples:
  pitr-agent check --config /etc/pitr/main.toml
  pitr-agent run --cluster main

Exit codes: 0 done · 1 failed · 2 usage, configuration, or histories that differ · 4 repository or server unavailable · 7 a check failed";

/// Protects one PostgreSQL cluster: streams its WAL to a repository and takes base backups.
#[derive(Debug, Parser)]
#[command(name = "pitr-agent", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the daemon until SIGTERM or SIGINT.
    Run(Place),
    /// Checks configuration, repository, server and data directory, and says how to mend what is wrong.
    Check {
        #[command(flatten)]
        place: Place,
        /// Prints the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Archives one file of pg_wal: archive_command = 'pitr-agent wal-push %p'.
    ///
    /// [--config FILE | --cluster CLUSTER | --socket PATH] [--timeout TIME] PATH. Ends with 0 once the running agent has the
    /// file durable in the repository, with 1 in every other case; the server then tries again.
    #[command(disable_help_flag = true)]
    WalPush {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Lets a server go on under the cluster's name after pg_upgrade, initdb or a restore; what was stored before stays
    /// restorable.
    Adopt {
        #[command(flatten)]
        place: Place,
        /// Also where the server's system identifier is known: it goes on as a history of its own, because it was put back
        /// to an older state, or came out of a restore. Refused while an agent archives the cluster.
        #[arg(long)]
        new_history: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub struct Place {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "PITR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Reads /etc/pitr/CLUSTER.toml.
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<ClusterName>,
    /// Logs more; twice for everything. RUST_LOG goes before it.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
