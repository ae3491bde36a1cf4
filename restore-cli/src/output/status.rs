//! `pitr status`: one screen, anything wrong first.

use chrono::{DateTime, TimeDelta, Utc};
use pitr::api::{AgentStatus, BackupState, StreamingState};
use pitr::postgres::{ServerVersion, SystemIdentifier};
use pitr::repository::catalog::Catalog;
use pitr::repository::layout::ClusterName;
use pitr::repository::lease::{Lease, WalPosition};
use serde::Serialize;

use super::View;
use super::human;
use super::info::{
    BackupDocument, ClusterDocument, GapDocument, LineageEnds, MomentDocument, SealedDocument, WindowDocument,
};
use super::job::JobDocument;
use super::json::Time;
use super::marker::{MarkerDocument, marker_table};
use super::table::printable;

/// The newest markers that fit on the screen.
const MARKERS: usize = 5;

/// What is known of a cluster at one moment.
pub struct StatusInput<'a> {
    pub cluster: &'a ClusterName,
    pub repository: String,
    /// Of the cluster's lineages, oldest first.
    pub catalogs: &'a [Catalog],
    /// What they can be restored to, and the last transactions of that.
    pub ends: &'a [LineageEnds],
    pub agent: AgentWord,
    pub now: DateTime<Utc>,
}

/// What the agent itself says.
#[derive(Debug, Clone)]
pub enum AgentWord {
    Says(Box<AgentStatus>),
    /// It was asked where it should be, and does not answer.
    Silent {
        address: String,
    },
    /// It is not where it could be asked: its lease has to tell.
    Elsewhere,
}

#[derive(Debug, Clone, Serialize)]
pub struct StatusDocument {
    pub format: u32,
    pub cluster: String,
    pub repository: String,
    pub system_identifier: Option<SystemIdentifier>,
    pub postgres_version: Option<ServerVersion>,
    /// In words, the worst first.
    pub problems: Vec<String>,
    pub window: Vec<WindowDocument>,
    pub gaps: Vec<GapDocument>,
    pub sealed: Option<SealedDocument>,
    pub behind: Behind,
    pub last_backup: Option<BackupDocument>,
    pub running_backup: Option<JobDocument>,
    pub next_backup: Option<Time>,
    /// The newest, oldest first.
    pub markers: Vec<MarkerDocument>,
    pub agent: AgentDocument,
}

/// What the server has and the repository does not, yet.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Behind {
    pub bytes: Option<u64>,
    /// How old what is sealed may be: zero where nothing is missing; else since the last transaction that is sealed. Where
    /// the agent is not heard of, since it last said that nothing is missing.
    pub seconds: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Streaming,
    /// Served by `archive_command`.
    Archiving,
    Connecting,
    Stalled,
    /// By the lease: alive, and nothing to do.
    Idle,
    /// By the lease: alive.
    Alive,
    /// It should answer here and does not, though its lease has not run out yet.
    Silent,
    /// By the lease: not heard of since it ran out.
    Dead,
    /// There is no lease.
    Absent,
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentSource {
    Agent,
    Lease,
}

#[derive(Debug, Clone, Serialize)]
pub struct AgentDocument {
    pub state: AgentState,
    pub source: AgentSource,
    pub version: Option<String>,
    pub host: Option<String>,
    pub pid: Option<u32>,
    pub started: Option<Time>,
    /// When it was last heard of.
    pub last_seen: Option<Time>,
}

impl StatusDocument {
    pub fn new(input: StatusInput<'_>) -> Self {
        let StatusInput { cluster, repository, catalogs, ends, agent, now } = input;
        let mut all = ClusterDocument::new(cluster, catalogs);
        all.tell_ends(ends);
        let newest = catalogs.last();
        let lease = newest.and_then(|catalog| catalog.lease.as_ref());
        let (agent, silent) = match agent {
            AgentWord::Says(agent) => (Some(*agent), None),
            AgentWord::Silent { address } => (None, Some(address)),
            AgentWord::Elsewhere => (None, None),
        };
        let agent_document = AgentDocument::new(agent.as_ref(), silent.is_some(), lease, now);
        let heard = lease.filter(|_| !matches!(agent_document.state, AgentState::Silent | AgentState::Dead));
        let mut document = Self {
            format: 1,
            cluster: all.cluster,
            repository,
            system_identifier: newest.map(|catalog| catalog.lineage.lineage.system_identifier()),
            postgres_version: agent
                .as_ref()
                .and_then(|agent| agent.postgres_version)
                .or_else(|| newest.map(|catalog| catalog.lineage.postgres_version)),
            problems: Vec::new(),
            window: all.window,
            gaps: all.gaps,
            sealed: agent.as_ref().and_then(sealed_by_agent).or(all.sealed),
            behind: Behind::new(agent.as_ref(), lease, heard.is_some(), now),
            last_backup: all.backups.into_iter().next_back(),
            running_backup: None,
            next_backup: agent.as_ref().and_then(|agent| agent.next_backup).map(Time),
            markers: all.markers.split_off(all.markers.len().saturating_sub(MARKERS)),
            agent: agent_document,
        };
        if let Some(agent) = &agent {
            document.extend_window(agent);
        }
        document.find_problems(&all.damaged, agent.as_ref(), lease, silent.as_deref());
        document.running_backup =
            agent.and_then(|agent| agent.backup).filter(|job| job.state == BackupState::Running).map(JobDocument::new);
        document
    }

    /// The agent has seen later commits than its last lease tells of.
    fn extend_window(&mut self, agent: &AgentStatus) {
        let (Some(sealed), Some(time)) = (agent.sealed, agent.sealed_commit_time) else { return };
        for window in self.window.iter_mut().filter(|window| window.timeline == sealed.timeline) {
            if sealed.lsn <= window.to.lsn && sealed.lsn >= window.from.lsn {
                window.to.time = window.to.time.map(|known| known.0).max(Some(time)).map(Time);
            }
        }
    }

    fn find_problems(
        &mut self,
        damaged: &[super::info::DamagedDocument],
        agent: Option<&AgentStatus>,
        lease: Option<&Lease>,
        silent: Option<&str>,
    ) {
        let mut problems = Vec::new();
        if let (AgentState::Silent, Some(address)) = (self.agent.state, silent) {
            problems.push(format!("the agent does not answer at {address}: is it running?"));
        }
        if self.agent.state == AgentState::Dead {
            let seen = self.agent.last_seen.map_or_else(String::new, |time| format!(" since {}", utc(time.0)));
            let host = self.agent.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
            problems.push(format!("the agent{host} was not heard of{seen}: WAL is not archived"));
        }
        // What it said last: the reason why it ended, where it ended by itself.
        if let (None, Some(problem)) = (agent, lease.and_then(|lease| lease.problem.as_ref())) {
            problems.push(format!("the agent said: {problem}"));
        }
        if self.agent.state == AgentState::Absent {
            // One that cannot be read says nothing of who wrote it.
            problems.push(match damaged.iter().find(|damaged| damaged.key.ends_with("/lease")) {
                Some(lease) => format!(
                    "whether an agent archives this cluster cannot be told; delete {}, and an agent that runs makes it anew",
                    lease.key
                ),
                None => "no agent has ever archived this cluster".to_owned(),
            });
        }
        if self.agent.state == AgentState::Stalled {
            problems.push("uploads to the repository do not get on: the server keeps the WAL".to_owned());
        }
        if self.last_backup.is_none() {
            problems.push("there is no complete backup: nothing can be restored".to_owned());
        } else if self.window.is_empty() {
            problems.push("no backup has all the WAL that it needs: nothing can be restored".to_owned());
        }
        problems.extend(self.gaps.iter().filter(|gap| !gap.expired).map(|gap| self.gap_in_words(gap)));
        problems.extend(damaged.iter().map(|damaged| format!("{} is damaged: {}", damaged.key, damaged.reason)));
        if let Some(backup) = self.last_backup.as_ref().filter(|backup| !backup.corrupt_pages.is_empty()) {
            let pages = human::count(backup.corrupt_pages.len() as u64, "corrupt page");
            problems.push(format!("the backup {} holds {pages} of the server", backup.id));
        }
        if let Some(agent) = agent {
            problems.extend(agent.problems.iter().cloned());
            if let Some(job) = agent.backup.as_ref().filter(|job| job.state == BackupState::Failed) {
                let reason = job.error.as_deref().unwrap_or("no reason given");
                problems.push(format!("the backup {} failed: {reason}", job.id));
            }
        }
        self.problems = problems;
    }

    /// A hole, why it is there, and what can be reached on both sides of it.
    fn gap_in_words(&self, gap: &GapDocument) -> String {
        let before =
            self.window.iter().filter(|window| window.to.lsn <= gap.from_lsn).map(|window| window.to.lsn).max();
        let after = gap.to_lsn.and_then(|to| {
            self.window.iter().filter(|window| window.from.lsn >= to).map(|window| window.from.lsn).min()
        });
        let reach = match (before, after) {
            (Some(before), Some(after)) => format!("moments up to {before} and from {after} on can be restored"),
            (Some(before), None) => {
                format!("moments up to {before} can be restored, later ones once there is a backup behind the gap")
            }
            (None, Some(after)) => format!("moments from {after} on can be restored"),
            (None, None) => "it can be restored to again once there is a backup behind the gap".to_owned(),
        };
        format!("WAL is missing from {} on timeline {}: {}; {reach}", gap.range(), gap.timeline, gap.reason)
    }

    pub fn text(&self, view: &View) -> String {
        let mut text = view.paint.bold(&self.cluster);
        if let Some(version) = self.postgres_version {
            text += &format!("  PostgreSQL {version}");
        }
        if let Some(id) = self.system_identifier {
            text += &format!("  system {id}");
        }
        text += &format!("  {}\n", self.repository);
        if !self.problems.is_empty() {
            text.push('\n');
            for problem in &self.problems {
                text += &format!("  {} {}\n", view.paint.red("!"), view.paint.red(&printable(problem)));
            }
        }
        text.push('\n');
        for (name, lines) in [
            ("window", self.window_lines(view)),
            ("behind", vec![self.behind_line()]),
            ("backup", self.backup_lines(view)),
            ("agent", vec![self.agent.line(view)]),
        ] {
            for (index, line) in lines.iter().enumerate() {
                let name = if index == 0 { name } else { "" };
                text += &format!("  {}  {line}\n", view.paint.dim(&format!("{name:<7}")));
            }
        }
        if self.markers.is_empty() {
            text += &format!("  {}  none\n", view.paint.dim("markers"));
        } else {
            text += &format!("\n{}", marker_table(&self.markers, view).render(view.paint, "  "));
        }
        text
    }

    fn window_lines(&self, view: &View) -> Vec<String> {
        if self.window.is_empty() {
            return vec![view.paint.yellow("nothing can be restored yet")];
        }
        let moment = |moment: &MomentDocument| match moment.time {
            Some(time) => format!("{}  {}", view.zone.both(time.0), moment.lsn),
            None => format!("LSN {}", moment.lsn),
        };
        let mut lines = Vec::new();
        for window in &self.window {
            lines.push(format!("from {}  timeline {}", moment(&window.from), window.timeline));
            let last = window.last_transaction.as_ref().map_or_else(String::new, |last| format!(", {}", last.short()));
            lines.push(format!("to   {}{last}", moment(&window.to)));
        }
        lines
    }

    fn behind_line(&self) -> String {
        let sealed = match &self.sealed {
            Some(sealed) => format!("sealed up to {} on timeline {}", sealed.lsn, sealed.timeline),
            None => "nothing sealed yet".to_owned(),
        };
        match (self.behind.bytes, self.behind.seconds) {
            (Some(0), _) => format!("nothing, {sealed}"),
            (Some(bytes), Some(seconds)) => {
                format!("{}, {}, {sealed}", human::bytes(bytes), human::span(TimeDelta::seconds(seconds)))
            }
            (Some(bytes), None) => format!("{}, {sealed}", human::bytes(bytes)),
            (None, Some(seconds)) if self.sealed.is_some() => {
                let span = human::span(TimeDelta::seconds(seconds));
                format!("unknown; {sealed} when last heard of, at most {span} behind")
            }
            (None, None) if self.sealed.is_some() => format!("unknown; {sealed} when last heard of"),
            (None, _) => format!("unknown, {sealed}"),
        }
    }

    fn backup_lines(&self, view: &View) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.last_backup {
            Some(backup) => lines.push(format!(
                "{}, finished {} ago, {}, {} stored",
                backup.id,
                human::span(view.now - backup.stop_time.0),
                human::bytes(backup.size_bytes),
                human::bytes(backup.stored_bytes)
            )),
            None => lines.push(view.paint.yellow("none")),
        }
        if let Some(job) = &self.running_backup {
            lines.push(job.line());
        }
        if let Some(next) = self.next_backup {
            lines.push(format!("next at {}", view.zone.both(next.0)));
        }
        lines
    }
}

/// Problems are words for a log as well: there the time is in UTC.
fn utc(time: DateTime<Utc>) -> String {
    time.format("%F %T UTC").to_string()
}

fn sealed_by_agent(agent: &AgentStatus) -> Option<SealedDocument> {
    let sealed = agent.sealed?;
    Some(SealedDocument { timeline: sealed.timeline, lsn: sealed.lsn, time: agent.sealed_commit_time.map(Time) })
}

impl Behind {
    /// Whoever is `heard` of would tell of anything new; of one that is silent or dead nobody knows what came since.
    fn new(agent: Option<&AgentStatus>, lease: Option<&Lease>, heard: bool, now: DateTime<Utc>) -> Self {
        let (bytes, sealed_commit_time) = match (agent, lease) {
            (Some(agent), _) => (agent.lag_bytes.or_else(|| lag(agent.server, agent.sealed)), agent.sealed_commit_time),
            (None, Some(lease)) => (lag(lease.server, lease.sealed), lease.sealed_commit_time),
            (None, None) => (None, None),
        };
        let seconds_since = |time: DateTime<Utc>| (now - time).num_seconds().max(0);
        if agent.is_none() && !heard {
            let complete = lease.filter(|_| bytes == Some(0)).map(|lease| lease.time);
            return Self { bytes: None, seconds: complete.or(sealed_commit_time).map(seconds_since) };
        }
        let seconds = if bytes == Some(0) { Some(0) } else { sealed_commit_time.map(seconds_since) };
        Self { bytes, seconds: seconds.filter(|_| bytes.is_some()) }
    }
}

fn lag(server: Option<WalPosition>, sealed: Option<WalPosition>) -> Option<u64> {
    Some(server?.lsn.distance_from(sealed?.lsn).unwrap_or(0))
}

impl AgentDocument {
    fn new(agent: Option<&AgentStatus>, silent: bool, lease: Option<&Lease>, now: DateTime<Utc>) -> Self {
        let host = lease.map(|lease| lease.host.clone());
        let pid = lease.map(|lease| lease.pid);
        match (agent, lease) {
            (Some(agent), _) => Self {
                state: match agent.streaming {
                    StreamingState::Streaming => AgentState::Streaming,
                    StreamingState::Archiving => AgentState::Archiving,
                    StreamingState::Connecting => AgentState::Connecting,
                    StreamingState::Stalled => AgentState::Stalled,
                },
                source: AgentSource::Agent,
                version: Some(agent.version.clone()),
                host,
                pid,
                started: Some(agent.started.into()),
                last_seen: Some(now.into()),
            },
            (None, Some(lease)) => Self {
                state: if now > lease.expires {
                    AgentState::Dead
                } else if silent {
                    AgentState::Silent
                } else if lease.server.is_some() && lease.server == lease.sealed {
                    AgentState::Idle
                } else {
                    AgentState::Alive
                },
                source: AgentSource::Lease,
                version: None,
                host,
                pid,
                started: None,
                last_seen: Some(lease.time.into()),
            },
            (None, None) => Self {
                state: AgentState::Absent,
                source: AgentSource::Lease,
                version: None,
                host: None,
                pid: None,
                started: None,
                last_seen: None,
            },
        }
    }

    fn line(&self, view: &View) -> String {
        let state = match self.state {
            AgentState::Streaming => view.paint.green("streaming"),
            AgentState::Archiving => view.paint.green("archiving what archive_command hands over"),
            AgentState::Connecting => view.paint.yellow("connecting to the server"),
            AgentState::Stalled => view.paint.red("stalled"),
            AgentState::Idle => view.paint.green("alive, the server writes nothing"),
            AgentState::Alive => view.paint.green("alive"),
            AgentState::Silent => view.paint.red("does not answer"),
            AgentState::Dead => view.paint.red("dead"),
            AgentState::Absent => return view.paint.yellow("never seen"),
        };
        let version = self.version.as_ref().map_or_else(String::new, |version| format!(", version {version}"));
        let host = self.host.as_ref().map_or_else(String::new, |host| format!(", on {}", printable(host)));
        let seen = match (self.source, self.last_seen) {
            (AgentSource::Lease, Some(seen)) => {
                format!(", by its lease of {} ago", human::span(view.now - seen.0))
            }
            _ => String::new(),
        };
        format!("{state}{version}{host}{seen}")
    }
}

#[cfg(test)]
mod tests {
    use pitr::api::BackupPhase;
    use pitr::repository::catalog::DamagedObject;

    use super::*;
    use crate::output::info::tests::{harmed, healthy};
    use crate::output::job::tests::job;
    use crate::output::json;
    use crate::testing::{catalog, lease};

    fn agent() -> AgentStatus {
        let lease = lease(0x400_2900, 0x400_2100);
        AgentStatus {
            version: "0.1.0".to_owned(),
            cluster: "main".to_owned(),
            system_identifier: Some(SystemIdentifier::new(7_450_000_000_000_000_000)),
            postgres_version: Some(ServerVersion::new(150_018)),
            started: "2026-11-22T06:30:00Z".parse().unwrap(),
            streaming: StreamingState::Streaming,
            server: lease.server,
            received: lease.server,
            sealed: lease.sealed,
            sealed_commit_time: lease.sealed_commit_time,
            lag_bytes: Some(0x800),
            backup: Some(job(BackupState::Running, BackupPhase::Copying)),
            next_backup: Some("2026-11-23T02:00:00Z".parse().unwrap()),
            problems: Vec::new(),
        }
    }

    fn status(catalog: Catalog, agent: Option<AgentStatus>) -> StatusDocument {
        status_at(catalog, agent, "2026-11-22T12:00:00Z")
    }

    fn status_at(catalog: Catalog, agent: Option<AgentStatus>, now: &str) -> StatusDocument {
        StatusDocument::new(StatusInput {
            cluster: &"main".parse().unwrap(),
            repository: "s3://backups/pitr".to_owned(),
            catalogs: &[catalog],
            ends: &[],
            agent: agent.map_or(AgentWord::Elsewhere, |agent| AgentWord::Says(Box::new(agent))),
            now: now.parse().unwrap(),
        })
    }

    #[test]
    fn an_agent_that_does_not_answer_is_not_taken_for_alive() {
        let document = StatusDocument::new(StatusInput {
            cluster: &"main".parse().unwrap(),
            repository: "s3://backups/pitr".to_owned(),
            catalogs: &[healthy()],
            ends: &[],
            agent: AgentWord::Silent { address: "/run/pitr/main.sock".to_owned() },
            now: "2026-11-22T12:00:00Z".parse().unwrap(),
        });
        assert_eq!((document.agent.state, document.behind.bytes), (AgentState::Silent, None));
        assert_eq!(document.problems, ["the agent does not answer at /run/pitr/main.sock: is it running?"]);
        let text = document.text(&View::fixed());
        assert!(text.contains("behind   unknown; sealed up to") && text.contains("does not answer, on db1"), "{text}");
    }

    #[test]
    fn status_by_the_agent() {
        let document = status(healthy(), Some(agent()));
        insta::assert_snapshot!("status_text", document.text(&View::fixed()));
        insta::assert_snapshot!("status_json", json::document(&document));
    }

    #[test]
    fn the_lease_tells_an_idle_cluster_from_a_dead_agent() {
        let idle = status(healthy(), None);
        assert_eq!((idle.agent.state, idle.problems.len()), (AgentState::Idle, 0));
        assert_eq!(idle.behind.bytes, Some(0));
        insta::assert_snapshot!("status_idle_text", idle.text(&View::fixed()));

        let busy = Catalog { lease: Some(lease(0x400_2900, 0x400_2100)), ..healthy() };
        let alive = status(busy.clone(), None);
        assert_eq!(alive.agent.state, AgentState::Alive);
        assert_eq!((alive.behind.bytes, alive.behind.seconds), (Some(0x800), Some(9)));

        let dead = status_at(busy, None, "2026-11-22T12:00:28Z");
        assert_eq!(dead.agent.state, AgentState::Dead);
        assert_eq!(
            dead.problems,
            ["the agent on db1 was not heard of since 2026-11-22 11:59:57 UTC: WAL is not archived"]
        );
    }

    #[test]
    fn the_agent_knows_later_commits_than_its_lease() {
        let time = "2026-11-22T11:59:59Z".parse().unwrap();
        let agent = AgentStatus { sealed_commit_time: Some(time), ..agent() };
        assert_eq!(status(healthy(), Some(agent)).window[0].to.time, Some(Time(time)));
    }

    #[test]
    fn a_window_does_not_end_before_it_begins() {
        let early = Lease {
            sealed_commit_time: Some("2026-11-01T00:00:00Z".parse().unwrap()),
            ..lease(0x400_2100, 0x400_2100)
        };
        let document = status(Catalog { lease: Some(early), ..healthy() }, None);
        assert_eq!(document.window[0].to.time, document.window[0].from.time);
    }

    #[test]
    fn anything_wrong_comes_first() {
        let failed = job(BackupState::Failed, BackupPhase::Copying);
        let agent = AgentStatus {
            streaming: StreamingState::Stalled,
            problems: vec!["the slot holds back 3.2 GiB of WAL".to_owned()],
            backup: Some(pitr::api::BackupJob { error: Some("disk full".to_owned()), ..failed }),
            ..agent()
        };
        let document = status(harmed(), Some(agent));
        insta::assert_snapshot!("status_harmed_text", document.text(&View::fixed()));
    }

    #[test]
    fn a_lease_that_can_not_be_read_is_not_taken_for_an_agent_that_never_was() {
        let damaged = vec![DamagedObject { key: "main/7-1/lease".to_owned(), reason: "no seal".to_owned() }];
        let document = status(Catalog { lease: None, damaged, ..healthy() }, None);
        let told = document.problems.join("\n");
        assert!(!told.contains("ever archived") && told.contains("delete main/7-1/lease"), "{told}");
    }

    #[test]
    fn a_cluster_without_backup_and_agent_says_so() {
        let document = status(catalog(), None);
        assert_eq!(document.agent.state, AgentState::Absent);
        insta::assert_snapshot!("status_empty_text", document.text(&View::fixed()));
    }
}
