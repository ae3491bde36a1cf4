//! `pitr-agent`: the command line around the daemon.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;
use pitr::clock::{Clock, SystemClock};
use pitr::config::{Config, Environment, SocketPlaces, default_socket, locate};
use pitr_agent::allocator::return_large_buffers;
use pitr_agent::args::{Arguments, Command, Place};
use pitr_agent::check::{Level, check};
use pitr_agent::daemon::adopt::{AdoptError, adopt};
use pitr_agent::daemon::{DaemonError, Launch, PrepareError, run};
use pitr_agent::error_text::in_full;
use pitr_agent::exit;
use pitr_agent::wal_push::run_client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

const CONFIG_DIRECTORY: &str = "/etc/pitr";

fn main() -> ExitCode {
    // Before anything else: the server's archiver waits for every start of it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|command| command == "wal-push") {
        return run_client(arguments);
    }
    return_large_buffers();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let informs = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            drop(error.print());
            return if informs { ExitCode::SUCCESS } else { exit::code(exit::USAGE) };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(exit::FAILED, &error, None),
    };
    let environment = Environment::from_iter(
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    );
    match arguments.command {
        Command::Run(place) => runtime.block_on(run_daemon(&place, environment)),
        Command::Check { place, json } => runtime.block_on(run_check(&place, &environment, json)),
        Command::WalPush { arguments } => run_client(arguments),
        Command::Adopt { place, new_history } => runtime.block_on(run_adopt(&place, &environment, new_history)),
    }
}

fn load(place: &Place) -> Result<Config, ExitCode> {
    let refuse = |error: &dyn std::error::Error, hint: Option<&str>| fail(exit::USAGE, error, hint.map(str::to_owned));
    let path = match &place.config {
        Some(path) => path.clone(),
        None => locate(place.cluster.as_ref(), Path::new(CONFIG_DIRECTORY))
            .map_err(|error| refuse(&error, Some(error.hint())))?,
    };
    Config::load(&path).map_err(|error| refuse(&error, error.hint()))
}

fn log(verbose: u8) {
    let default = match verbose {
        0 => "info,tokio_postgres=warn,aws_config=warn",
        1 => "debug,hyper=info,hyper_util=info,aws_config=info,tokio_postgres=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.json().init();
    } else {
        builder.with_ansi(false).init();
    }
}

async fn run_daemon(place: &Place, environment: Environment) -> ExitCode {
    let config = match load(place) {
        Ok(config) => config,
        Err(code) => return code,
    };
    log(place.verbose);
    let socket = config.http.socket.clone().unwrap_or_else(|| {
        let uid = rustix::process::geteuid().as_raw();
        default_socket(&config.cluster, &SocketPlaces::of(uid, &environment))
    });
    let stop = CancellationToken::new();
    let signals = match watch_signals(stop.clone()) {
        Ok(signals) => signals,
        Err(error) => return fail(exit::FAILED, &error, None),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let outcome = tokio::select! {
        outcome = run(Launch { config, environment, clock, socket }, stop) => outcome,
        () = signals => return exit::code(exit::FAILED),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = in_full(&error), hint = error.hint(), "the agent ends");
            fail(daemon_code(&error), &error, error.hint())
        }
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT; resolves at the second, when somebody will not wait.
fn watch_signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for _ in 0..2 {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            if stop.is_cancelled() {
                return;
            }
            stop.cancel();
        }
    })
}

async fn run_check(place: &Place, environment: &Environment, json: bool) -> ExitCode {
    let config = match load(place) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let report = check(&config, environment, &SystemClock).await;
    let text = if json { serde_json::to_string_pretty(&report).unwrap_or_default() + "\n" } else { report.to_string() };
    // A reader that went away has seen what it wanted.
    drop(std::io::stdout().write_all(text.as_bytes()));
    if report.worst() == Level::Error { exit::code(exit::CHECK_FAILED) } else { ExitCode::SUCCESS }
}

async fn run_adopt(place: &Place, environment: &Environment, new_history: bool) -> ExitCode {
    let config = match load(place) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match adopt(&config, environment, &SystemClock, new_history).await {
        Ok(lineage) => {
            drop(writeln!(std::io::stdout(), "cluster \"{}\" goes on as lineage {lineage}", config.cluster));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = match &error {
                AdoptError::Prepare(error) => prepare_code(error),
                error if error.is_passing() => exit::UNAVAILABLE,
                _ => exit::USAGE,
            };
            fail(code, &error, error.hint())
        }
    }
}

fn prepare_code(error: &PrepareError) -> u8 {
    match error {
        _ if error.is_passing() => exit::UNAVAILABLE,
        PrepareError::Store { .. }
        | PrepareError::Repository { .. }
        | PrepareError::RepositoryGone { .. }
        | PrepareError::RepositoryOfPushesGone { .. }
        | PrepareError::Postgres(_) => exit::UNAVAILABLE,
        _ => exit::USAGE,
    }
}

fn daemon_code(error: &DaemonError) -> u8 {
    match error {
        DaemonError::Prepare(error) => prepare_code(error),
        DaemonError::Schedule(_) => exit::USAGE,
        DaemonError::Service(_) if error.wants_a_decision() => exit::USAGE,
        DaemonError::Listen(_) | DaemonError::Service(_) => exit::FAILED,
    }
}

fn fail(code: u8, error: &dyn std::error::Error, hint: Option<String>) -> ExitCode {
    let mut stderr = std::io::stderr();
    drop(writeln!(stderr, "pitr-agent: {}", in_full(error)));
    if let Some(hint) = hint {
        drop(writeln!(stderr, "hint: {hint}"));
    }
    exit::code(code)
}
