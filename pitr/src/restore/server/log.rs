//! What a server says about its recovery, line by line. Pure.

use crate::postgres::{Lsn, SegmentName, TimelineId};

/// A line that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogEvent {
    RecoveryStarted,
    RestoredFile {
        name: String,
        segment: Option<SegmentName>,
    },
    ConsistentAt(Option<Lsn>),
    /// `recovery stopping after WAL location (LSN) "…"`; the record's start.
    StoppingAfter(Lsn),
    /// Other ways to stop, which we never ask for.
    StoppedOtherwise(String),
    RedoDoneAt(Option<Lsn>),
    SelectedTimeline(TimelineId),
    RecoveryComplete,
    Ready,
    Paused(String),
    Severe {
        level: Severity,
        message: String,
    },
    /// `DETAIL` or `HINT` of the line before.
    Continuation(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Warning,
    Fatal,
    Panic,
}

/// Reads a line with the prefix that we set, `%m [%p] `.
pub(super) fn parse_line(line: &str) -> Option<LogEvent> {
    // The first marker counts: a message may quote another.
    let (level, message) = ["LOG:  ", "WARNING:  ", "FATAL:  ", "PANIC:  ", "DETAIL:  ", "HINT:  "]
        .into_iter()
        .filter_map(|level| line.find(level).map(|at| (at, level)))
        .min()
        .and_then(|(at, level)| Some((level, line.get(at + level.len()..)?.trim_end())))?;
    match level {
        "LOG:  " => parse_log(message),
        "WARNING:  " => Some(severe(Severity::Warning, message)),
        "FATAL:  " => Some(severe(Severity::Fatal, message)),
        "PANIC:  " => Some(severe(Severity::Panic, message)),
        _ => Some(LogEvent::Continuation(message.to_owned())),
    }
}

fn severe(level: Severity, message: &str) -> LogEvent {
    LogEvent::Severe { level, message: message.to_owned() }
}

fn parse_log(message: &str) -> Option<LogEvent> {
    let after = |prefix: &str| message.strip_prefix(prefix);
    if let Some(rest) = after("restored log file \"") {
        let name = rest.split('"').next()?.to_owned();
        return Some(LogEvent::RestoredFile { segment: name.parse().ok(), name });
    }
    if let Some(rest) = after("recovery stopping after WAL location (LSN) \"") {
        return Some(LogEvent::StoppingAfter(rest.split('"').next()?.parse().ok()?));
    }
    if message.starts_with("recovery stopping ") {
        return Some(LogEvent::StoppedOtherwise(message.to_owned()));
    }
    if let Some(rest) = after("consistent recovery state reached") {
        return Some(LogEvent::ConsistentAt(lsn_in(rest)));
    }
    if let Some(rest) = after("redo done at ") {
        return Some(LogEvent::RedoDoneAt(lsn_in(rest)));
    }
    if let Some(rest) = after("selected new timeline ID: ") {
        return Some(LogEvent::SelectedTimeline(rest.parse().ok()?));
    }
    match message {
        "archive recovery complete" => Some(LogEvent::RecoveryComplete),
        "database system is ready to accept connections" => Some(LogEvent::Ready),
        _ if message.starts_with("starting point-in-time recovery") => Some(LogEvent::RecoveryStarted),
        _ if message.starts_with("recovery has paused") || message.starts_with("pausing at the end of recovery") => {
            Some(LogEvent::Paused(message.to_owned()))
        }
        _ => None,
    }
}

fn lsn_in(text: &str) -> Option<Lsn> {
    text.split_ascii_whitespace().find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "2026-11-22 10:00:00.123 UTC [4711] ";

    fn parsed(text: &str) -> Option<LogEvent> {
        parse_line(&format!("{PREFIX}{text}"))
    }

    #[test]
    fn reads_what_servers_of_all_versions_say() {
        let segment = "000000010000000000000003";
        for (line, event) in [
            ("LOG:  starting point-in-time recovery to WAL location (LSN) \"0/3000060\"", LogEvent::RecoveryStarted),
            (
                "LOG:  restored log file \"000000010000000000000003\" from archive",
                LogEvent::RestoredFile { name: segment.to_owned(), segment: segment.parse().ok() },
            ),
            (
                "LOG:  restored log file \"00000002.history\" from archive",
                LogEvent::RestoredFile { name: "00000002.history".to_owned(), segment: None },
            ),
            (
                "LOG:  consistent recovery state reached at 0/2000100",
                LogEvent::ConsistentAt(Some(Lsn::new(0x200_0100))),
            ),
            ("LOG:  consistent recovery state reached", LogEvent::ConsistentAt(None)),
            (
                "LOG:  recovery stopping after WAL location (LSN) \"0/3000060\"",
                LogEvent::StoppingAfter(Lsn::new(0x300_0060)),
            ),
            (
                "LOG:  recovery stopping before commit of transaction 735, time 2026-11-22 10:00:00+00",
                LogEvent::StoppedOtherwise(
                    "recovery stopping before commit of transaction 735, time 2026-11-22 10:00:00+00".to_owned(),
                ),
            ),
            (
                "LOG:  redo done at 0/3000060 system usage: CPU: user: 0.00 s",
                LogEvent::RedoDoneAt(Some(Lsn::new(0x300_0060))),
            ),
            ("LOG:  selected new timeline ID: 12", LogEvent::SelectedTimeline(TimelineId::new(12).unwrap())),
            ("LOG:  archive recovery complete", LogEvent::RecoveryComplete),
            ("LOG:  database system is ready to accept connections", LogEvent::Ready),
            ("LOG:  recovery has paused", LogEvent::Paused("recovery has paused".to_owned())),
            (
                "HINT:  Execute pg_wal_replay_resume() to promote.",
                LogEvent::Continuation("Execute pg_wal_replay_resume() to promote.".to_owned()),
            ),
            (
                "FATAL:  recovery ended before configured recovery target was reached",
                severe(Severity::Fatal, "recovery ended before configured recovery target was reached"),
            ),
            (
                "PANIC:  could not locate a valid checkpoint record",
                severe(Severity::Panic, "could not locate a valid checkpoint record"),
            ),
        ] {
            assert_eq!(parsed(line), Some(event), "{line}");
        }
    }

    #[test]
    fn other_lines_say_nothing() {
        for line in [
            "LOG:  database system is ready to accept read-only connections",
            "LOG:  listening on Unix socket \"/tmp/.s.PGSQL.5432\"",
            "cp: cannot stat 'x'",
            "",
            "STATEMENT:  SELECT 'recovery has paused'",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }

    #[test]
    fn a_quoted_level_is_part_of_the_message() {
        let event = parsed("LOG:  statement: SELECT 'FATAL:  no'");
        assert_eq!(event, None);
    }
}
