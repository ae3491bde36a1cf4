//! From arguments to an ending.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;
use pitr::clock::SystemClock;
use pitr::config::Environment;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, Verbosity};
use crate::commands;
use crate::context::Context;
use crate::ending::Ending;
use crate::exit::exit_status;
use crate::failure::Failure;
use crate::output::{Paint, stdout};
use crate::report::report;
use crate::terminal::{Terminal, paint};

const USAGE: u8 = 2;

pub fn run(arguments: Vec<OsString>, environment: Environment) -> Ending {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return show_clap(&error, &environment),
    };
    let Cli { global, command } = cli;
    if matches!(command, Command::WalFeeder(_)) {
        commands::wal_fetch::prepare_feeder();
    }
    let terminal = Terminal::detect();
    let talk = paint(global.color, terminal.stderr, &environment);
    let context = match prepare(global, environment, terminal) {
        Ok(context) => context,
        Err(failure) => return end(Err(failure), talk),
    };
    log_to_stderr(context.global.verbosity, terminal.stderr);
    // A recovery starts one for each segment, mostly to ask somebody else: threads by the number of cores would be all it does.
    let mut builder = match command {
        Command::WalFetch(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = format!("could not start: {error}");
            return end(Err(Failure::Failed { message, hint: None }), talk);
        }
    };
    let ending = runtime.block_on(interruptible(&context, command, talk));
    // A question that nobody answers, or a file that a dead disk holds, must not keep the process.
    runtime.shutdown_background();
    ending
}

fn prepare(global: crate::args::GlobalArgs, environment: Environment, terminal: Terminal) -> Result<Context, Failure> {
    let current_directory = std::env::current_dir().map_err(|error| Failure::Failed {
        message: format!("could not tell the current directory: {error}"),
        hint: None,
    })?;
    Ok(Context {
        global: global.validate()?,
        environment,
        terminal,
        clock: Arc::new(SystemClock),
        cancel: CancellationToken::new(),
        current_directory,
        uid: rustix::process::geteuid().as_raw(),
    })
}

/// What clap has to say: help and version are data, usage errors are talk.
fn show_clap(error: &clap::Error, environment: &Environment) -> Ending {
    let terminal = Terminal::detect();
    let shown = |colored: bool| {
        let text = error.render();
        if colored { text.ansi().to_string() } else { text.to_string() }
    };
    let colored =
        |is_terminal| is_terminal && environment.get("NO_COLOR").is_none() && environment.get("TERM") != Some("dumb");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody reads it: nothing is lost.
            let _ = stdout::print(&shown(colored(terminal.stdout)));
            Ending::Shown
        }
        _ => {
            stdout::say(shown(colored(terminal.stderr)).trim_end());
            Ending::Command(USAGE)
        }
    }
}

fn log_to_stderr(verbosity: Verbosity, terminal: bool) {
    let filter = match verbosity {
        Verbosity::Quiet => "error",
        Verbosity::Normal => "warn",
        Verbosity::Verbose => "warn,pitr=info",
        Verbosity::Debug => "info,pitr=debug",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(verbosity >= Verbosity::Debug)
        .with_env_filter(EnvFilter::new(filter))
        .finish();
    // Set once; nothing else in this program sets it.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The first signal asks the command to end, the second does not wait for it.
async fn interruptible(context: &Context, command: Command, talk: Paint) -> Ending {
    let fetching = matches!(command, Command::WalFetch(_));
    tokio::select! {
        biased;
        ending = dispatch(context, command, talk) => ending,
        () = second_signal(&context.cancel) => {
            if fetching { Ending::WalFailed } else { end(Err(Failure::Interrupted(None)), talk) }
        }
    }
}

async fn second_signal(cancel: &CancellationToken) {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        tracing::warn!("signals cannot be caught: an interruption will not be told");
        return std::future::pending().await;
    };
    for _ in 0..2 {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    }
}

async fn dispatch(context: &Context, command: Command, talk: Paint) -> Ending {
    let result = match command {
        Command::WalFeeder(args) => return commands::wal_fetch::run_feeder(context, args).await,
        Command::WalFetch(args) => return commands::wal_fetch::run(context, args, talk).await,
        Command::Status(_) => commands::status::run(context).await,
        Command::Info(args) => commands::info::run(context, &args).await,
        Command::Restore(args) => match args.validate(context.now(), &context.current_directory) {
            Ok(order) => commands::restore::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Mark(args) => match args.validate() {
            Ok(order) => commands::mark::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Finish(args) => match args.validate() {
            Ok(order) => commands::finish::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Markers(args) => match args.validate(context.now()) {
            Ok(order) => commands::markers::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Impact(args) => match args.validate(context.now(), &context.current_directory) {
            Ok(order) => commands::impact::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Find(args) => match args.validate(context.now()) {
            Ok(order) => commands::find::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Backup(args) => commands::backup::run(context, args.validate()).await,
        Command::Expire(args) => commands::expire::run(context, args.validate()).await,
        Command::Pin(args) => match args.validate() {
            Ok(order) => commands::pin::pin(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Unpin(args) => match args.validate() {
            Ok(order) => commands::pin::unpin(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Verify(args) => match args.validate(context.now()) {
            Ok(order) => commands::verify::run(context, order).await,
            Err(error) => Err(error.into()),
        },
        Command::Report(args) => match args.validate(context.now()) {
            Ok(order) => commands::report::run(context, order).await,
            Err(error) => Err(error.into()),
        },
    };
    end(result, talk)
}

fn end(result: Result<(), Failure>, talk: Paint) -> Ending {
    let Err(failure) = result else { return Ending::Command(0) };
    let status = exit_status(&failure);
    if status != crate::exit::ExitStatus::Done {
        stdout::say(&report(&failure, talk));
    }
    Ending::Command(status.code())
}

#[cfg(test)]
mod tests;
