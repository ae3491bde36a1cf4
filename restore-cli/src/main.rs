//! `pitr`: restores a PostgreSQL database to a moment, and proves what was reached.
//!
//! ```text
//! arguments ──[args]──▶ an order ──[commands]──▶ a document ──[output]──▶ stdout
//!                                      └──────▶ a failure ──[report, exit]──▶ stderr, exit code
//! ```
//! What holds: stdout is data and stderr is talk; a failure is told once, in [`report`]; its exit code is decided in one
//! place, [`exit`]; and whatever happens in `wal-fetch` that is not an answer of the repository ends with 200, [`ending`].

mod agent_client;
mod args;
mod commands;
mod context;
mod ending;
mod exit;
mod failure;
mod output;
mod report;
mod run;
mod settings;
mod sql_probe;
mod terminal;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use pitr::config::Environment;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let fetching = ending::is_wal_fetch(&arguments);
    ExitCode::from(ending::guarded(fetching, move || run::run(arguments, environment)))
}
