//! Progress of long work, on stderr: a bar on a terminal, a line now and then otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::human;
use super::stdout::say;

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What there is to tell at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done, such as "copying".
    pub phase: &'static str,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
    pub unit: Unit,
    /// Anything else worth telling.
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    None,
}

impl Step {
    fn amounts(&self) -> String {
        match (self.unit, self.total) {
            (Unit::None, _) => String::new(),
            (Unit::Bytes, 0) => format!(" {}", human::bytes(self.done)),
            (Unit::Bytes, total) => {
                let percent = u128::from(self.done.min(total)) * 100 / u128::from(total);
                format!(" {percent}%, {} of {}", human::bytes(self.done), human::bytes(total))
            }
        }
    }

    fn line(&self) -> String {
        let note = self.note.as_ref().map_or_else(String::new, |note| format!(", {note}"));
        format!("{}{}{note}", self.phase, self.amounts())
    }
}

/// Shows steps.
#[derive(Debug)]
pub struct Meter {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: Option<(&'static str, Instant)>,
}

impl Meter {
    /// `terminal`: whether stderr is one.
    pub fn new(terminal: bool, quiet: bool) -> Self {
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, quiet, last: None }
    }

    pub fn show(&mut self, step: &Step) {
        if let Some(bar) = &self.bar {
            show_bar(bar, step);
        } else if let Some(line) = self.line(step, Instant::now()) {
            say(&line);
        }
    }

    /// Says something that stays above what moves.
    pub fn note(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.println(text),
            None => say(text),
        }
    }

    /// The line to write now, if it is time for one.
    fn line(&mut self, step: &Step, now: Instant) -> Option<String> {
        let due = self.last.is_none_or(|(phase, at)| phase != step.phase || now - at >= LINE_INTERVAL);
        if self.quiet || !due {
            return None;
        }
        self.last = Some((step.phase, now));
        Some(step.line())
    }

    /// Takes the bar away, so that what follows stands alone.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.clear();
    }
}

fn show_bar(bar: &ProgressBar, step: &Step) {
    let template = match (step.unit, step.total) {
        (Unit::Bytes, 1..) => {
            "{spinner} {prefix} [{bar:30}] {percent}% {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}{msg}"
        }
        (Unit::Bytes, 0) => "{spinner} {prefix} {binary_bytes}{msg}",
        (Unit::None, _) => "{spinner} {prefix} {elapsed}{msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(step.phase);
    bar.set_length(step.total);
    bar.set_position(step.done);
    bar.set_message(step.note.as_ref().map_or_else(String::new, |note| format!(", {note}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(phase: &'static str, done: u64) -> Step {
        Step { phase, done, total: 2 << 30, unit: Unit::Bytes, note: None }
    }

    #[test]
    fn lines_come_at_each_phase_and_then_now_and_then() {
        let mut meter = Meter::new(false, false);
        let start = Instant::now();
        let mut at = |phase, done, seconds| meter.line(&step(phase, done), start + Duration::from_secs(seconds));
        assert_eq!(at("copying", 0, 0).as_deref(), Some("copying 0%, 0 B of 2.00 GiB"));
        assert_eq!(at("copying", 1 << 20, 9), None);
        assert_eq!(at("copying", 1 << 30, 10).as_deref(), Some("copying 50%, 1.00 GiB of 2.00 GiB"));
        assert_eq!(at("syncing", 0, 11).as_deref(), Some("syncing 0%, 0 B of 2.00 GiB"));
        assert_eq!(Meter::new(false, true).line(&step("copying", 0), start), None);
    }
}
