//! What every command runs with.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use pitr::clock::Clock;
use pitr::config::Environment;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::{Global, Verbosity};
use crate::failure::Failure;
use crate::output::progress::Meter;
use crate::output::{View, Zone, json, stdout};
use crate::settings::Settings;
use crate::terminal::{Terminal, paint};

#[derive(Debug, Clone)]
pub struct Context {
    pub global: Global,
    pub environment: Environment,
    pub terminal: Terminal,
    pub clock: Arc<dyn Clock>,
    /// Set at Ctrl-C and SIGTERM.
    pub cancel: CancellationToken,
    pub current_directory: PathBuf,
    pub uid: u32,
}

impl Context {
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// # Errors
    /// See [`Settings::new`].
    pub fn settings(&self) -> Result<Settings, Failure> {
        Settings::new(&self.global, &self.environment, self.uid)
    }

    /// How data on stdout is set.
    pub fn view(&self) -> View {
        View {
            paint: paint(self.global.color, self.terminal.stdout, &self.environment),
            zone: Zone::Local,
            now: self.now(),
        }
    }

    pub fn meter(&self) -> Meter {
        Meter::new(self.terminal.stderr, self.global.verbosity == Verbosity::Quiet)
    }

    /// Talk that is not an error.
    pub fn say(&self, text: &str) {
        if self.global.verbosity > Verbosity::Quiet {
            stdout::say(text);
        }
    }

    /// Prints the document: as JSON where that was asked for, else as the text that `text` makes of it.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub fn print<T: Serialize>(&self, document: &T, text: impl FnOnce(&T, &View) -> String) -> Result<(), Failure> {
        let text = if self.global.json { json::document(document) } else { text(document, &self.view()) };
        stdout::print(&text).map_err(Failure::Stdout)
    }

    /// `work`, unless the command is interrupted before it is done.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] with `note`, or what `work` says.
    pub async fn interruptible<T>(
        &self,
        note: Option<&'static str>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::Interrupted(note)),
            done = work => done,
        }
    }
}
