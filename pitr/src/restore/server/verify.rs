//! What the recovered server reached, against what was asked: from its log, its control file, its history file and its own
//! answers. One source would do; that they agree is what makes it proof.

use std::path::Path;

use super::probe::{SqlEndpoint, SqlProbe};
use super::watch::{Ended, Observed};
use crate::postgres::control_file::{ClusterState, ControlFile};
use crate::postgres::history::TimelineHistory;
use crate::postgres::{Lsn, MajorVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use crate::recovery::{ResolvedTarget, Transaction, TransactionEnd};
use crate::restore::certificate::Check;
use crate::restore::settings::TargetAction;

/// What there should be.
#[derive(Clone, Debug)]
pub(in crate::restore) struct Expected<'a> {
    pub(in crate::restore) target: &'a ResolvedTarget,
    pub(in crate::restore) system_identifier: SystemIdentifier,
    pub(in crate::restore) segment_size: WalSegmentSize,
    pub(in crate::restore) version: MajorVersion,
    pub(in crate::restore) action: TargetAction,
    pub(in crate::restore) data_directory: &'a Path,
}

/// Compares everything that can be compared. Blocks briefly on small files.
pub(in crate::restore) async fn verify(
    expected: &Expected<'_>,
    observed: &Observed,
    ended: Ended,
    probe: Option<(&dyn SqlProbe, &[SqlEndpoint])>,
) -> Vec<Check> {
    let target = expected.target;
    let mut checks = vec![
        Check::equal("recovery ended", action_word(expected.action), Some(ended_word(ended))),
        Check::equal("last record replayed", target.lsn, observed.stopping_after),
    ];
    checks.extend(control_file_checks(expected, observed, ended));
    if ended == Ended::Promoted {
        checks.extend(history_checks(expected, observed));
    }
    if let (Some((probe, endpoints)), Ended::Promoted | Ended::Paused) = (probe, ended) {
        checks.extend(sql_checks(expected, observed, ended, probe, endpoints).await);
    }
    checks
}

const fn action_word(action: TargetAction) -> &'static str {
    match action {
        TargetAction::Promote => "promoted",
        TargetAction::Pause => "paused",
        TargetAction::Shutdown => "shut down",
    }
}

const fn ended_word(ended: Ended) -> &'static str {
    match ended {
        Ended::Promoted => "promoted",
        Ended::Paused => "paused",
        Ended::ShutDown => "shut down",
    }
}

fn control_file_checks(expected: &Expected<'_>, observed: &Observed, ended: Ended) -> Vec<Check> {
    let control = match read_control_file(expected.data_directory) {
        Ok(control) => control,
        Err(reason) => {
            return vec![Check {
                name: "control file".to_owned(),
                expected: "readable".to_owned(),
                found: reason,
                ok: false,
            }];
        }
    };
    let (word, state) = match ended {
        Ended::Promoted => ("in production", ClusterState::InProduction),
        Ended::Paused => ("in archive recovery", ClusterState::InArchiveRecovery),
        Ended::ShutDown => ("shut down in recovery", ClusterState::ShutDownInRecovery),
    };
    let found = if control.state == state { word.to_owned() } else { format!("{:?}", control.state) };
    let mut checks = vec![
        Check::equal("state in the control file", word, Some(found)),
        Check::equal("system identifier", expected.system_identifier, Some(control.system_identifier)),
    ];
    if let (Ended::Promoted, Some(timeline)) = (ended, observed.timeline) {
        checks.push(Check::equal("timeline in the control file", timeline, Some(control.tli)));
    }
    checks
}

/// The server writes the file in place, so a reading can be torn; the next is not.
fn read_control_file(data_directory: &Path) -> Result<ControlFile, String> {
    let mut last = String::new();
    for _ in 0..20 {
        let bytes = std::fs::read(data_directory.join("global/pg_control")).map_err(|error| error.to_string())?;
        match ControlFile::parse(&bytes) {
            Err(error) if error.may_be_torn() => last = error.to_string(),
            parsed => return parsed.map_err(|error| error.to_string()),
        }
    }
    Err(last)
}

/// The first line of the new timeline's history that is its own is written by the server that made it.
fn history_checks(expected: &Expected<'_>, observed: &Observed) -> Vec<Check> {
    let target = expected.target;
    let parent = target.timeline;
    let Some(timeline) = observed.timeline else {
        return vec![Check::equal("new timeline", format!("after {parent}"), None::<TimelineId>)];
    };
    let mut checks = vec![Check {
        name: "new timeline".to_owned(),
        expected: format!("after {parent}"),
        found: timeline.to_string(),
        ok: timeline > parent,
    }];
    let path = expected.data_directory.join(format!("pg_wal/{}.history", timeline.to_hex()));
    let history = std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| TimelineHistory::parse(timeline, &bytes).map_err(|error| error.to_string()));
    let last = match &history {
        Ok(history) => history.switches().last(),
        Err(_) => None,
    };
    checks.push(Check::equal("timeline it left", parent, last.map(|switch| switch.parent)));
    checks.push(Check {
        name: "position it left at".to_owned(),
        expected: target.end_lsn.to_string(),
        found: last.map_or_else(|| "nothing".to_owned(), |switch| switch.switch_lsn.to_string()),
        ok: last.is_some_and(|switch| is_end_of_record(target, expected.segment_size, switch.switch_lsn)),
    });
    let reason = format!("after LSN {}", target.lsn);
    checks.push(Check::equal("reason in its history", reason, last.map(|switch| switch.reason.trim())));
    checks
}

/// The next record begins at a multiple of eight, which is what the server takes for the end of the last one; `XLOG_SWITCH`
/// reaches to the end of its segment for it (`XLogDecodeNextRecord`).
fn is_end_of_record(target: &ResolvedTarget, segment_size: WalSegmentSize, lsn: Lsn) -> bool {
    let end_of_segment = segment_size.end_of(segment_size.segment_of(target.lsn));
    (target.end_lsn <= lsn && lsn <= target.end_lsn.align_record()) || lsn == end_of_segment
}

async fn sql_checks(
    expected: &Expected<'_>,
    observed: &Observed,
    ended: Ended,
    probe: &dyn SqlProbe,
    endpoints: &[SqlEndpoint],
) -> Vec<Check> {
    const IN_RECOVERY: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN 'in recovery' ELSE 'not in recovery' END";

    let mut answers = Vec::new();
    for endpoint in endpoints {
        match probe.query(endpoint, IN_RECOVERY).await {
            Ok(answer) => {
                let wanted = if ended == Ended::Promoted { "not in recovery" } else { "in recovery" };
                let mut checks = vec![Check::equal("server says", wanted, answer)];
                let queries = queries(expected, observed, ended);
                for (name, wanted, sql) in queries {
                    checks.push(asked(probe, endpoint, &name, &wanted, &sql).await);
                }
                return checks;
            }
            Err(error) => answers.push(format!("as {}: {error}", endpoint.user)),
        }
    }
    vec![Check { name: "server answers".to_owned(), expected: "yes".to_owned(), found: answers.join("; "), ok: false }]
}

/// What an answer may be.
enum Wanted {
    Exactly(String),
    AnythingBut(&'static str),
}

async fn asked(probe: &dyn SqlProbe, endpoint: &SqlEndpoint, name: &str, wanted: &Wanted, sql: &str) -> Check {
    let found = match probe.query(endpoint, sql).await {
        Ok(answer) => answer.unwrap_or_else(|| "nothing".to_owned()),
        Err(error) => {
            let expected = "an answer".to_owned();
            return Check { name: name.to_owned(), expected, found: error.to_string(), ok: false };
        }
    };
    let (expected, ok) = match wanted {
        Wanted::Exactly(text) => (text.clone(), found == *text),
        Wanted::AnythingBut(text) => (format!("not {text}"), found != *text),
    };
    Check { name: name.to_owned(), expected, found, ok }
}

fn queries(expected: &Expected<'_>, observed: &Observed, ended: Ended) -> Vec<(String, Wanted, String)> {
    let mut queries = Vec::new();
    if let (Ended::Promoted, Some(timeline)) = (ended, observed.timeline) {
        let sql = "SELECT timeline_id::text FROM pg_control_checkpoint()".to_owned();
        queries.push(("timeline it is on".to_owned(), Wanted::Exactly(timeline.to_string()), sql));
    }
    if ended == Ended::Paused {
        let (wanted, sql) = if expected.version >= MajorVersion::V14 {
            ("paused", "SELECT pg_get_wal_replay_pause_state()")
        } else {
            ("true", "SELECT pg_is_wal_replay_paused()::text")
        };
        queries.push(("replay is".to_owned(), Wanted::Exactly(wanted.to_owned()), sql.to_owned()));
    }
    let name = |what: &str, transaction: &Transaction| format!("{what} {}", transaction.xid);
    if let Some(kept) = &expected.target.last_kept {
        let status = match kept.end {
            TransactionEnd::Commit => "committed",
            TransactionEnd::Abort => "aborted",
        };
        let wanted = Wanted::Exactly(status.to_owned());
        queries.push((name("last transaction kept,", kept), wanted, transaction_status(kept.xid)));
    }
    if let Some(left_out) = expected.target.first_left_out.as_ref().filter(|t| t.end == TransactionEnd::Commit) {
        let wanted = Wanted::AnythingBut("committed");
        queries.push((name("first transaction left out,", left_out), wanted, transaction_status(left_out.xid)));
    }
    queries
}

/// The fate of a transaction by the 32 bits of its number that the WAL has. The server counts in 64 bits: the number meant
/// is the one within half a round of its own next number.
fn transaction_status(xid: u32) -> String {
    format!(
        "WITH next AS (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid), \
         distance AS (SELECT xid, ({xid} - xid % 4294967296 + 6442450944) % 4294967296 - 2147483648 AS by FROM next) \
         SELECT CASE WHEN by >= 0 THEN 'not begun' \
         ELSE coalesce(pg_xact_status((xid + by)::text::xid8), 'too old to say') END FROM distance"
    )
}
