//! What a server is and how it is set, as far as archiving and backups depend on it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use pitr::postgres::{Lsn, MajorVersion, SegmentName, ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};

use super::error::{Error, Result};
use super::sql::SqlSession;

/// Facts about a running server, read by one session.
#[derive(Clone, Debug)]
pub struct Instance {
    pub system_identifier: SystemIdentifier,
    pub version: ServerVersion,
    pub segment_size: WalSegmentSize,
    pub in_recovery: bool,
    /// Of the last checkpoint.
    pub timeline: TimelineId,
    /// None where the role may not see it.
    pub data_directory: Option<PathBuf>,
    pub wal_level: String,
    pub max_wal_senders: i64,
    pub wal_senders_in_use: i64,
    pub max_replication_slots: i64,
    pub replication_slots_in_use: i64,
    pub synchronous_standby_names: String,
    pub synchronous_commit: String,
    pub wal_sender_timeout: Duration,
    pub full_page_writes: bool,
    pub data_checksums: bool,
    pub fsync: bool,
    /// None is no limit.
    pub max_slot_wal_keep_size_bytes: Option<u64>,
    pub may_replicate: bool,
    pub superuser: bool,
    pub user: String,
}

/// How a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub physical: bool,
    pub active_pid: Option<i32>,
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why the server invalidated it; servers from 17 on say so.
    pub invalidation: Option<String>,
    /// Bytes from `restart_lsn` to the end of the server's WAL.
    pub retained_bytes: Option<u64>,
    /// Bytes that can be written before the slot is in danger; none where there is no limit.
    pub safe_bytes: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

/// Something about a server that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub text: String,
    pub hint: Option<String>,
}

const FACTS: &str = "SELECT (SELECT system_identifier FROM pg_control_system())::text,
       (SELECT timeline_id FROM pg_control_checkpoint()),
       pg_is_in_recovery(),
       current_user::text,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT count(*) FROM pg_stat_replication),
       (SELECT count(*) FROM pg_replication_slots)";

/// A standby's WAL can be archived, and that is all.
pub const STANDBY: &str =
    "the server is a standby: its WAL is archived, and neither backups nor markers can be made there";
/// What a person can do about it.
pub const STANDBY_HINT: &str =
    "let [postgres] connection lead to the primary: name every server, with target_session_attrs=read-write";

impl Instance {
    /// # Errors
    /// The role may not see something that is needed, or the connection ends.
    pub async fn read(session: &SqlSession) -> Result<Self> {
        let facts = session.query_one(FACTS, &[]).await?;
        let settings = Settings::read(session).await?;
        let version: i64 = settings.number("server_version_num")?;
        let segment_bytes = settings.number("wal_segment_size")?.saturating_mul(settings.unit("wal_segment_size"));
        let timeline: i32 = facts.get(1);
        let keep = settings.number("max_slot_wal_keep_size")?;
        Ok(Self {
            system_identifier: parse(&facts.get::<_, String>(0))?,
            version: ServerVersion::new(u32::try_from(version).unwrap_or(0)),
            segment_size: u32::try_from(segment_bytes)
                .ok()
                .and_then(|bytes| WalSegmentSize::new(bytes).ok())
                .ok_or_else(|| Error::Protocol(format!("wal_segment_size of {segment_bytes} bytes")))?,
            in_recovery: facts.get(2),
            timeline: u32::try_from(timeline)
                .ok()
                .and_then(TimelineId::new)
                .ok_or_else(|| Error::Protocol(format!("timeline {timeline}")))?,
            data_directory: settings.text("data_directory").map(PathBuf::from),
            wal_level: settings.text("wal_level").unwrap_or_default(),
            max_wal_senders: settings.number("max_wal_senders")?,
            wal_senders_in_use: facts.get(6),
            max_replication_slots: settings.number("max_replication_slots")?,
            replication_slots_in_use: facts.get(7),
            synchronous_standby_names: settings.text("synchronous_standby_names").unwrap_or_default(),
            synchronous_commit: settings.text("synchronous_commit").unwrap_or_default(),
            wal_sender_timeout: milliseconds(settings.number("wal_sender_timeout")?),
            full_page_writes: settings.is_on("full_page_writes"),
            data_checksums: settings.is_on("data_checksums"),
            fsync: settings.is_on("fsync"),
            max_slot_wal_keep_size_bytes: u64::try_from(keep).ok().map(|megabytes| megabytes.saturating_mul(1 << 20)),
            may_replicate: facts.get(5),
            superuser: facts.get(4),
            user: facts.get(3),
        })
    }

    #[must_use]
    pub fn major(&self) -> Option<MajorVersion> {
        self.version.major()
    }

    /// What stands in the way of archiving this server, or makes it worth less. `application_name` is what we connect as, and
    /// `synchronous` whether commits are to wait for us.
    #[must_use]
    pub fn findings(&self, application_name: &str, synchronous: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |severity, text: String, hint: &str| {
            findings.push(Finding { severity, text, hint: Some(hint.to_owned()) });
        };
        if self.major().is_none() {
            let text = format!("the server is PostgreSQL {}; versions 13 to 18 are supported", self.version);
            add(Severity::Error, text, "use a version of pitr that supports it");
        }
        if self.wal_level == "minimal" {
            let text = "wal_level is minimal: WAL lacks what a recovery needs".to_owned();
            add(Severity::Error, text, "ALTER SYSTEM SET wal_level = 'replica'; and restart the server");
        }
        if self.max_wal_senders == 0 {
            let text = "max_wal_senders is 0: the server streams to nobody".to_owned();
            add(Severity::Error, text, "ALTER SYSTEM SET max_wal_senders = 10; and restart the server");
        } else if self.wal_senders_in_use >= self.max_wal_senders {
            let text = format!("all {} max_wal_senders are in use", self.max_wal_senders);
            add(Severity::Warning, text, "raise max_wal_senders (needs a restart), or end what uses them");
        }
        if self.max_replication_slots == 0 {
            let text = "max_replication_slots is 0: the server cannot keep WAL for us".to_owned();
            add(Severity::Error, text, "ALTER SYSTEM SET max_replication_slots = 10; and restart the server");
        }
        if !self.may_replicate {
            let text = format!("the role \"{}\" may not stream WAL", self.user);
            add(Severity::Error, text, &format!("as a superuser: ALTER ROLE \"{}\" REPLICATION;", self.user));
        }
        if !self.fsync {
            let text = "fsync is off: after a crash the server may have lost WAL that is archived".to_owned();
            add(Severity::Warning, text, "switch fsync on");
        }
        if !self.full_page_writes {
            let text = "full_page_writes is off: pages torn by a crash cannot be repaired".to_owned();
            add(Severity::Warning, text, "switch full_page_writes on");
        }
        if let Some((severity, text, hint)) = self.waiting(application_name, synchronous) {
            add(severity, text, &hint);
        }
        if self.max_slot_wal_keep_size_bytes.is_none() {
            let text =
                "max_slot_wal_keep_size is not set: while the repository does not take WAL it fills the server's disk";
            add(Severity::Warning, text.to_owned(), "set max_slot_wal_keep_size to what the disk can bear");
        }
        findings
    }
}

impl Instance {
    /// The findings of an agent that does not stream: what only a stream needs is as if there were enough of it.
    #[must_use]
    pub fn findings_without_stream(&self, application_name: &str) -> Vec<Finding> {
        let enough = Self {
            max_wal_senders: i64::MAX,
            max_replication_slots: i64::MAX,
            may_replicate: true,
            synchronous_standby_names: String::new(),
            max_slot_wal_keep_size_bytes: Some(0),
            ..self.clone()
        };
        enough.findings(application_name, false)
    }

    /// What is wrong with how commits wait for us, or do not.
    fn waiting(&self, application_name: &str, synchronous: bool) -> Option<(Severity, String, String)> {
        let names = &self.synchronous_standby_names;
        match (synchronous, waits_for(names, application_name)) {
            (false, true) => Some((
                Severity::Error,
                format!(
                    "synchronous_standby_names = '{names}' includes \"{application_name}\": each commit would wait for \
                     the next flush to the repository"
                ),
                "name the standbys that are meant; or, if no commit may be lost with the host, set [wal] synchronous = \
                 true and read what that means"
                    .to_owned(),
            )),
            (true, false) => Some((
                Severity::Warning,
                format!(
                    "[wal] synchronous is set, and synchronous_standby_names = '{names}' does not include \
                     \"{application_name}\": commits do not wait for the repository"
                ),
                format!(
                    "ALTER SYSTEM SET synchronous_standby_names = '{application_name}'; SELECT pg_reload_conf(); from \
                     then on an outage of the repository stops commits"
                ),
            )),
            (true, true) if self.synchronous_commit == "remote_apply" => Some((
                Severity::Error,
                "synchronous_commit = remote_apply waits until WAL is applied, and a repository applies none: commits \
                 would wait for ever"
                    .to_owned(),
                "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();".to_owned(),
            )),
            (true, true) if matches!(self.synchronous_commit.as_str(), "local" | "off") => Some((
                Severity::Warning,
                format!(
                    "[wal] synchronous is set, and synchronous_commit = {}: commits do not wait for the repository",
                    self.synchronous_commit
                ),
                "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();".to_owned(),
            )),
            _ => None,
        }
    }
}

/// Whether `names` (the value of `synchronous_standby_names`) covers the standby `name`. Errs on the side of yes.
fn waits_for(names: &str, name: &str) -> bool {
    let words = names.split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | '"'));
    words.into_iter().any(|word| word == "*" || word.eq_ignore_ascii_case(name))
}

fn milliseconds(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::Protocol(format!("\"{text}\" in an answer")))
}

/// Rows of `pg_settings`.
struct Settings(Vec<(String, Option<String>, Option<String>)>);

impl Settings {
    async fn read(session: &SqlSession) -> Result<Self> {
        let sql = "SELECT name::text, setting::text, unit::text FROM pg_settings WHERE name IN (
            'server_version_num', 'wal_segment_size', 'data_directory', 'wal_level', 'max_wal_senders',
            'max_replication_slots', 'synchronous_standby_names', 'synchronous_commit', 'wal_sender_timeout', 'full_page_writes',
            'data_checksums', 'fsync', 'max_slot_wal_keep_size')";
        let rows = session.query(sql, &[]).await?;
        Ok(Self(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(found, ..)| found == name)?.1.clone()
    }

    fn number(&self, name: &'static str) -> Result<i64> {
        let text = self.text(name).ok_or_else(|| Error::Protocol(format!("the server has no setting {name}")))?;
        parse(&text)
    }

    fn unit(&self, name: &str) -> i64 {
        match self.0.iter().find(|(found, ..)| found == name).and_then(|(.., unit)| unit.as_deref()) {
            Some("kB") => 1 << 10,
            Some("8kB") => 8 << 10,
            Some("MB") => 1 << 20,
            Some("GB") => 1 << 30,
            _ => 1,
        }
    }

    fn is_on(&self, name: &str) -> bool {
        self.text(name).as_deref() == Some("on")
    }
}

impl Slot {
    /// The slot of that name; none where there is none.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn read(session: &SqlSession, name: &str) -> Result<Option<Self>> {
        // Its row as JSON has the columns of newer servers without naming them.
        let sql = "SELECT slot_type = 'physical', active_pid, restart_lsn::text, wal_status::text,
                          to_jsonb(s) ->> 'invalidation_reason', safe_wal_size,
                          (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END
                           - restart_lsn)::int8
                   FROM pg_replication_slots AS s WHERE slot_name::text = $1";
        let rows = session.query(sql, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let restart_lsn: Option<String> = row.get(2);
        Ok(Some(Self {
            physical: row.get(0),
            active_pid: row.get(1),
            restart_lsn: restart_lsn.map(|text| parse(&text)).transpose()?,
            wal_status: row.get(3),
            invalidation: row.get(4),
            safe_bytes: row.get(5),
            retained_bytes: row.get::<_, Option<i64>>(6).map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        }))
    }

    /// Whether the server has let go of WAL that it was to keep.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost")
    }
}

/// Names of the WAL segments in the server's `pg_wal`; none where the role may not see them.
pub async fn wal_files(session: &SqlSession) -> Option<BTreeSet<SegmentName>> {
    let rows = session.query("SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'", &[]).await;
    match rows {
        Ok(rows) => Some(rows.iter().filter_map(|row| row.get::<_, String>(0).parse().ok()).collect()),
        Err(error) => {
            tracing::debug!(%error, "the server's pg_wal cannot be listed");
            None
        }
    }
}

/// The name that a cluster's slot has unless the configuration says otherwise: `pitr_` and the cluster's name in the
/// characters that a slot may have.
#[must_use]
pub fn default_slot_name(cluster: &str) -> String {
    let valid = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = "pitr_".chars().chain(cluster.chars().map(valid)).collect();
    name.chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_have_the_characters_of_slots() {
        assert_eq!(default_slot_name("main"), "pitr_main");
        assert_eq!(default_slot_name("Main-2"), "pitr_main_2");
        assert_eq!(default_slot_name(&"a".repeat(63)).len(), 63);
    }

    #[test]
    fn knows_when_commits_would_wait_for_us() {
        for names in ["*", "FIRST 1 (a, *)", "pitr-agent", "ANY 2 (a, \"PITR-agent\")"] {
            assert!(waits_for(names, "pitr-agent"), "{names}");
        }
        for names in ["", "a, b", "FIRST 1 (pitr, agent)"] {
            assert!(!waits_for(names, "pitr-agent"), "{names}");
        }
    }

    fn instance(names: &str, commit: &str) -> Instance {
        Instance {
            system_identifier: SystemIdentifier::new(7),
            version: ServerVersion::new(170_006),
            segment_size: WalSegmentSize::DEFAULT,
            in_recovery: false,
            timeline: TimelineId::FIRST,
            data_directory: None,
            wal_level: "replica".to_owned(),
            max_wal_senders: 10,
            wal_senders_in_use: 0,
            max_replication_slots: 10,
            replication_slots_in_use: 0,
            synchronous_standby_names: names.to_owned(),
            synchronous_commit: commit.to_owned(),
            wal_sender_timeout: Duration::from_secs(60),
            full_page_writes: true,
            data_checksums: true,
            fsync: true,
            max_slot_wal_keep_size_bytes: Some(1 << 30),
            may_replicate: true,
            superuser: true,
            user: "postgres".to_owned(),
        }
    }

    #[test]
    fn commits_wait_for_us_only_where_that_is_wanted_and_possible() {
        use Severity::{Error, Warning};
        for (synchronous, names, commit, expected) in [
            (false, "", "on", None),
            (false, "other", "remote_apply", None),
            (false, "*", "on", Some(Error)),
            (false, "ANY 1 (pitr_main, b)", "on", Some(Error)),
            (true, "pitr_main", "on", None),
            (true, "FIRST 1 (pitr_main)", "remote_write", None),
            (true, "pitr_main", "remote_apply", Some(Error)),
            (true, "pitr_main", "local", Some(Warning)),
            (true, "", "on", Some(Warning)),
            (true, "other", "on", Some(Warning)),
        ] {
            let found = instance(names, commit).findings("pitr_main", synchronous);
            let found = found.first().map(|finding| finding.severity);
            assert_eq!(found, expected, "{synchronous} {names} {commit}");
        }
    }
}
