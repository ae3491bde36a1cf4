//! Whether the server hands its WAL over as the configuration expects.

use pitr::config::WalSource;

use super::report::{CheckReport, Level};
use crate::postgres::error::Result;
use crate::postgres::sql::SqlSession;

/// How the server archives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Archiving {
    mode: String,
    command: String,
    /// Before version 15 there is none.
    library: String,
    timeout_seconds: i64,
    may_switch: bool,
    slot_exists: bool,
}

const SETTINGS: &str = "SELECT current_setting('archive_mode'), current_setting('archive_command'),
    coalesce(current_setting('archive_library', true), ''),
    (SELECT setting::int8 FROM pg_settings WHERE name = 'archive_timeout'),
    has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE'),
    EXISTS (SELECT FROM pg_replication_slots WHERE slot_name::text = $1)";

impl Archiving {
    /// # Errors
    /// The role may not see a setting, or the connection ends.
    pub(super) async fn read(session: &SqlSession, slot: &str) -> Result<Self> {
        let row = session.query_one(SETTINGS, &[&slot]).await?;
        Ok(Self {
            mode: row.get(0),
            command: row.get(1),
            library: row.get(2),
            timeout_seconds: row.get(3),
            may_switch: row.get(4),
            slot_exists: row.get(5),
        })
    }

    pub(super) fn report(&self, source: WalSource, report: &mut CheckReport) {
        let mut wrong = Vec::new();
        match source {
            WalSource::Archive => self.find_alone(&mut wrong),
            WalSource::Stream => self.find_beside_the_stream(&mut wrong),
        }
        let handed_over = self.mode != "off" && self.is_ours();
        if handed_over && !wrong.iter().any(|(level, ..)| *level == Level::Error) {
            report.ok(AREA, "archive_command hands WAL over to the agent");
        }
        for (level, text, hint) in wrong {
            match level {
                Level::Error => report.error(AREA, &Said(text), Some(hint)),
                _ => report.warning(AREA, text, Some(hint)),
            }
        }
    }

    fn find_alone(&self, wrong: &mut Vec<(Level, String, String)>) {
        let mut add = |level, text: String, hint: &str| wrong.push((level, text, hint.to_owned()));
        if self.mode == "off" {
            let text = "archive_mode is off, and [wal] source is \"archive\": no WAL is archived".to_owned();
            add(Level::Error, text, "ALTER SYSTEM SET archive_mode = 'on'; and restart the server");
        }
        if !self.library.is_empty() {
            let text = format!("archive_library is \"{}\": archive_command is not run", self.library);
            add(Level::Error, text, "ALTER SYSTEM RESET archive_library; and reload the server");
        }
        if self.mode == "off" {
            // The server then shows "(disabled)" as archive_command, whatever it is.
        } else if self.throws_away() {
            let text = format!("archive_command is \"{}\": WAL is thrown away as if it were archived", self.command);
            add(Level::Error, text, SET_COMMAND);
        } else if self.command.is_empty() || self.command == "(disabled)" {
            add(Level::Error, "archive_command is not set: no WAL is archived".to_owned(), SET_COMMAND);
        } else if !self.is_ours() {
            let text = format!("archive_command is \"{}\": it does not hand WAL over to the agent", self.command);
            add(Level::Error, text, SET_COMMAND);
        }
        if self.timeout_seconds == 0 {
            let text =
                "archive_timeout is 0: what was written since the last full segment is lost with the host".to_owned();
            add(
                Level::Warning,
                text,
                "ALTER SYSTEM SET archive_timeout = '60s'; and reload the server, or stream: [wal] source = \"stream\"",
            );
        }
        if !self.may_switch {
            let text =
                "the role may not call pg_switch_wal: markers and backups wait until a segment is full".to_owned();
            add(Level::Warning, text, "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO the agent's role");
        }
        if self.slot_exists {
            let text = "the server keeps WAL for our replication slot, and nothing is streamed".to_owned();
            add(Level::Warning, text, "drop it with pg_drop_replication_slot, or stream: [wal] source = \"stream\"");
        }
    }

    fn find_beside_the_stream(&self, wrong: &mut Vec<(Level, String, String)>) {
        if self.mode != "off" && self.is_ours() && !self.library.is_empty() {
            let text = format!("archive_library is \"{}\": archive_command is not run", self.library);
            wrong.push((Level::Warning, text, "ALTER SYSTEM RESET archive_library; and reload the server".to_owned()));
        }
    }

    fn is_ours(&self) -> bool {
        self.command.contains("pitr-agent") && self.command.contains("wal-push")
            || self.command.contains("pitr-wal-push")
    }

    /// Commands that people set to get rid of WAL for a while.
    fn throws_away(&self) -> bool {
        let first = self.command.trim().split(';').next().unwrap_or_default().trim();
        let program = first.split_whitespace().next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        matches!(name, "true" | ":" | "cd" | "echo") || first == "exit 0"
    }
}

const AREA: &str = "archiving";
const SET_COMMAND: &str = "ALTER SYSTEM SET archive_command = 'pitr-agent wal-push %p'; and reload the server";

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Archiving {
        Archiving {
            mode: "on".to_owned(),
            command: "pitr-agent wal-push %p".to_owned(),
            timeout_seconds: 60,
            may_switch: true,
            ..Archiving::default()
        }
    }

    fn found(archiving: &Archiving, source: WalSource) -> Vec<(Level, String)> {
        let mut report = CheckReport::default();
        archiving.report(source, &mut report);
        report.findings.into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    #[test]
    fn a_server_that_hands_its_wal_over_is_fine() {
        for command in ["pitr-agent wal-push %p", "/usr/bin/pitr-wal-push --cluster main %p"] {
            let archiving = Archiving { command: command.to_owned(), ..good() };
            for source in [WalSource::Archive, WalSource::Stream] {
                assert_eq!(found(&archiving, source).iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Ok]);
            }
        }
    }

    #[test]
    fn what_keeps_wal_from_being_archived_is_an_error() {
        let set = |command: &str| Archiving { command: command.to_owned(), ..good() };
        for (archiving, word) in [
            (Archiving { mode: "off".to_owned(), ..good() }, "archive_mode is off"),
            (Archiving { library: "basic_archive".to_owned(), ..good() }, "archive_library"),
            (set(""), "not set"),
            (set("(disabled)"), "not set"),
            (set("/bin/true"), "thrown away"),
            (set("true # pitr-agent wal-push %p"), "thrown away"),
            (set("exit 0"), "thrown away"),
            (set("cp %p /archive/%f"), "does not hand"),
        ] {
            let errors: Vec<String> = found(&archiving, WalSource::Archive)
                .into_iter()
                .filter(|f| f.0 == Level::Error)
                .map(|f| f.1)
                .collect();
            assert!(errors.len() == 1 && errors[0].contains(word), "{archiving:?}: {errors:?}");
        }
    }

    #[test]
    fn what_costs_time_or_space_is_a_warning() {
        for archiving in [
            Archiving { timeout_seconds: 0, ..good() },
            Archiving { may_switch: false, ..good() },
            Archiving { slot_exists: true, ..good() },
        ] {
            let levels: Vec<Level> = found(&archiving, WalSource::Archive).iter().map(|(level, _)| *level).collect();
            assert_eq!(levels, [Level::Ok, Level::Warning], "{archiving:?}");
            assert_eq!(found(&archiving, WalSource::Stream).len(), 1);
        }
    }

    #[test]
    fn a_stream_needs_no_archive_command() {
        let off = Archiving { mode: "off".to_owned(), command: "(disabled)".to_owned(), ..good() };
        assert_eq!(found(&off, WalSource::Stream), []);
    }
}
