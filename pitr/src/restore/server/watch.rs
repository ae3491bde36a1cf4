//! A started server until its recovery is over: what it says, whether it still lives, and what ends the wait.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::log::{LogEvent, Severity};
use super::log_file::LogFile;
use super::{Error, Result, ServerCommand};
use crate::fs::{Action, Error as FileError};
use crate::postgres::{Lsn, TimelineId, WalSegmentSize};
use crate::restore::progress::{Phase, ProgressSender};
use crate::restore::settings::TargetAction;

/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Silence that is worth a word: replay reports every segment.
const SILENCE: Duration = Duration::from_secs(60);
/// What the server says of a `restore_command` that neither delivered a file nor proved its absence.
const UNSERVED: &str = "child process exited with exit code 200";
/// A fast shutdown, which may write a checkpoint; then an immediate one.
const FAST_STOP: Duration = Duration::from_secs(60);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);

/// How the recovery was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::restore) enum Ended {
    Promoted,
    Paused,
    ShutDown,
}

/// What the server said on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::restore) struct Observed {
    pub(in crate::restore) stopping_after: Option<Lsn>,
    pub(in crate::restore) consistent_at: Option<Lsn>,
    pub(in crate::restore) timeline: Option<TimelineId>,
    pub(in crate::restore) last_file: Option<String>,
    pub(in crate::restore) segments: u64,
    stopped_otherwise: Option<String>,
    complete: bool,
    ready: bool,
    paused: Option<String>,
    severe: Option<String>,
    in_severe: bool,
}

impl Observed {
    fn take(&mut self, event: LogEvent) {
        let mut continues = false;
        match event {
            LogEvent::RestoredFile { name, segment } => {
                self.segments += u64::from(segment.is_some());
                self.last_file = Some(name);
            }
            LogEvent::ConsistentAt(lsn) => self.consistent_at = lsn,
            LogEvent::StoppingAfter(lsn) => self.stopping_after = Some(lsn),
            LogEvent::StoppedOtherwise(how) => self.stopped_otherwise = Some(how),
            LogEvent::SelectedTimeline(tli) => self.timeline = Some(tli),
            LogEvent::RecoveryComplete => self.complete = true,
            LogEvent::Ready => self.ready = true,
            LogEvent::Paused(how) => self.paused = Some(how),
            LogEvent::Severe { level: Severity::Fatal | Severity::Panic, message } => {
                // Of clients that come too early; the first real one is what ended the recovery.
                if !message.starts_with("the database system is ") && self.severe.is_none() {
                    self.severe = Some(message);
                    continues = true;
                }
            }
            LogEvent::Continuation(text) => {
                if let Some(severe) = self.severe.as_mut().filter(|_| self.in_severe) {
                    severe.push_str("; ");
                    severe.push_str(&text);
                    continues = true;
                }
            }
            LogEvent::Severe { .. } | LogEvent::RecoveryStarted | LogEvent::RedoDoneAt(_) => {}
        }
        self.in_severe = continues;
    }
}

/// Starts a server and waits.
#[derive(Debug)]
pub(in crate::restore) struct Supervisor<'a> {
    pub(in crate::restore) command: &'a ServerCommand,
    pub(in crate::restore) segment_size: WalSegmentSize,
    pub(in crate::restore) deadline: Option<Duration>,
    pub(in crate::restore) progress: &'a ProgressSender,
    pub(in crate::restore) cancel: &'a CancellationToken,
}

/// A server whose recovery is over. Dropping this leaves it running.
#[derive(Debug)]
pub struct RunningClone {
    child: Child,
    pid: u32,
}

impl Supervisor<'_> {
    /// Returns once the recovery is over; a server that did not get there is stopped.
    ///
    /// # Errors
    /// The server failed, paused where it should not, took too long, or the wait was interrupted.
    pub(in crate::restore) async fn run(&self) -> Result<(RunningClone, Observed, Ended)> {
        self.progress.phase(Phase::Starting);
        let child = self.command.spawn()?;
        let pid = child.id().unwrap_or_default();
        let mut server = RunningClone { child, pid };
        let mut observed = Observed::default();
        match self.wait(&mut server, &mut observed).await {
            Ok(ended) => Ok((server, observed, ended)),
            Err(error) => {
                server.stop().await;
                Err(error)
            }
        }
    }

    async fn wait(&self, server: &mut RunningClone, observed: &mut Observed) -> Result<Ended> {
        let path = self.command.run_directory.log();
        let mut log = LogFile::open(&path)?;
        let began = Instant::now();
        let mut last_news = began;
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let exited = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::Interrupted),
                status = server.child.wait() => Some(status),
                _ = ticks.tick() => None,
            };
            let (returned, events, grew) = read_log(log).await?;
            log = returned;
            for event in events {
                self.report(&event);
                observed.take(event);
            }
            if let Some(status) = exited {
                return self.exited(status, observed, path);
            }
            if let Some(ended) = self.ended(observed, &path)? {
                return Ok(ended);
            }
            if grew {
                last_news = Instant::now();
            }
            self.report_silence(last_news.elapsed());
            if let Some(deadline) = self.deadline.filter(|deadline| began.elapsed() > *deadline) {
                return Err(Error::TimedOut { seconds: deadline.as_secs(), log: path });
            }
        }
    }

    fn ended(&self, observed: &Observed, log: &std::path::Path) -> Result<Option<Ended>> {
        if let Some(how) = &observed.paused {
            if self.command.action == TargetAction::Pause && observed.stopping_after.is_some() {
                return Ok(Some(Ended::Paused));
            }
            let reason = observed.severe.clone().unwrap_or_else(|| how.clone());
            return Err(Error::Paused { reason, log: log.to_owned() });
        }
        // A server that was to pause and promoted instead is not what was asked for; the checks say so.
        Ok((observed.ready && observed.complete).then_some(Ended::Promoted))
    }

    fn exited(&self, status: std::io::Result<ExitStatus>, observed: &Observed, log: PathBuf) -> Result<Ended> {
        let stopped_itself = status.as_ref().is_ok_and(ExitStatus::success);
        if self.command.action == TargetAction::Shutdown && stopped_itself && observed.stopping_after.is_some() {
            return Ok(Ended::ShutDown);
        }
        let reason = observed.severe.clone().or_else(|| observed.stopped_otherwise.clone()).unwrap_or_else(|| {
            status.map_or_else(|error| error.to_string(), |status| format!("it ended with {status}"))
        });
        let last_file = observed.last_file.clone();
        if reason.contains(UNSERVED) {
            return Err(Error::Unserved { reason, last_file, log });
        }
        Err(Error::Recovery { reason, last_file, log })
    }

    fn report(&self, event: &LogEvent) {
        match event {
            LogEvent::RecoveryStarted => self.progress.phase(Phase::Replaying),
            LogEvent::RestoredFile { segment: Some(segment), .. } => {
                let start = segment.number(self.segment_size).map(|number| self.segment_size.start_of(number));
                self.progress.update(|progress| {
                    progress.phase = Phase::Replaying;
                    progress.replayed_lsn = progress.replayed_lsn.max(start);
                });
            }
            _ => {}
        }
    }

    fn report_silence(&self, silence: Duration) {
        let stalled = (silence >= SILENCE).then_some(silence.as_secs());
        if self.progress.now().stalled_seconds != stalled {
            self.progress.update(|progress| progress.stalled_seconds = stalled);
        }
    }
}

async fn read_log(mut log: LogFile) -> Result<(LogFile, Vec<LogEvent>, bool)> {
    let path = PathBuf::new();
    tokio::task::spawn_blocking(move || {
        let (events, grew) = log.read_new()?;
        Ok((log, events, grew))
    })
    .await
    .map_err(|error| FileError::new(Action::Read, path, std::io::Error::other(error)))?
}

impl RunningClone {
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops the server as `pg_ctl stop` does, fast first and immediately where that takes too long.
    pub async fn stop(&mut self) {
        for (signal, patience) in [(Signal::INT, FAST_STOP), (Signal::QUIT, IMMEDIATE_STOP)] {
            let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else { return };
            // A process that is gone by itself is as good.
            let _ = rustix::process::kill_process(pid, signal);
            if tokio::time::timeout(patience, self.child.wait()).await.is_ok() {
                return;
            }
        }
        let _ = self.child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severe(message: &str) -> LogEvent {
        LogEvent::Severe { level: Severity::Fatal, message: message.to_owned() }
    }

    #[test]
    fn the_first_real_failure_is_told_with_its_detail() {
        let mut observed = Observed::default();
        observed.take(severe("the database system is starting up"));
        observed.take(LogEvent::Continuation("of another line".to_owned()));
        observed.take(severe("could not open directory"));
        observed.take(LogEvent::Continuation("why".to_owned()));
        observed.take(severe("later"));
        assert_eq!(observed.severe.as_deref(), Some("could not open directory; why"));
    }

    #[test]
    fn restored_segments_are_counted() {
        let mut observed = Observed::default();
        for name in ["00000002.history", "000000010000000000000003", "000000010000000000000004"] {
            observed.take(LogEvent::RestoredFile { name: name.to_owned(), segment: name.parse().ok() });
        }
        assert_eq!(observed.segments, 2);
        assert_eq!(observed.last_file.as_deref(), Some("000000010000000000000004"));
    }
}
