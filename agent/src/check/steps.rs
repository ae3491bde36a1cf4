//! Looking at one thing after the other; what fails does not keep the rest from being looked at.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use pitr::clock::Clock;
use pitr::config::{Config, Environment, WalSource};
use pitr::repository::Repository;
use pitr::storage::{ObjectStore, probe_create_only};

use super::archiving::Archiving;
use super::report::CheckReport;
use crate::daemon::prepare::{APPLICATION_NAME, Choice, choose_lineage, open_store, server_address};
use crate::error_text::in_full;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::instance::{Instance, STANDBY, STANDBY_HINT, Severity, Slot};
use crate::postgres::origin::Origin;
use crate::postgres::sql::SqlSession;
use crate::postgres::{Error, replication, sql};
use crate::schedule::Schedule;

/// Beyond this the times of markers and the clock of the host tell different stories.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::seconds(2);
const FIRINGS_SHOWN: usize = 3;

/// Looks at everything the agent needs. Leaves nothing behind but the local directory of a repository.
pub async fn check(config: &Config, environment: &Environment, clock: &dyn Clock) -> CheckReport {
    let mut report = CheckReport::default();
    report.ok("configuration", format!("\"{}\" for cluster \"{}\"", config.file().display(), config.cluster));
    check_schedule(config, clock, &mut report);
    check_valve(config, &mut report);
    let instance = check_server(config, environment, clock, &mut report).await;
    check_repository(config, environment, instance.as_ref(), &mut report).await;
    report
}

fn check_schedule(config: &Config, clock: &dyn Clock, report: &mut CheckReport) {
    let Some(text) = &config.backup.schedule else {
        let hint = Some("set [backup] schedule; restores take longer the older the last backup is".to_owned());
        report.warning("schedule", "no backups are scheduled", hint);
        return;
    };
    match Schedule::parse(text, config.backup.timezone) {
        Ok(schedule) => {
            let next: Vec<String> = schedule
                .upcoming(clock.now(), FIRINGS_SHOWN)
                .iter()
                .map(|time| time.with_timezone(&schedule.zone()).format("%Y-%m-%d %H:%M %Z").to_string())
                .collect();
            report.ok("schedule", format!("the next backups: {}", next.join(", ")));
        }
        Err(error) => report.error("schedule", &error, Some(error.hint().to_owned())),
    }
}

fn check_valve(config: &Config, report: &mut CheckReport) {
    match config.wal.max_retained {
        Some(limit) => report.ok("retained WAL", format!("the slot is given up when it holds more than {limit}")),
        None => {
            let text = "[wal] max_retained is not set: while the repository takes nothing, WAL fills the server's disk";
            let hint = "set it to what the disk can bear; beyond it WAL is lost, and a new backup is taken".to_owned();
            report.warning("retained WAL", text, Some(hint));
        }
    }
}

async fn check_server(
    config: &Config,
    environment: &Environment,
    clock: &dyn Clock,
    report: &mut CheckReport,
) -> Option<Instance> {
    let conninfo = match server_address(config, environment) {
        Ok(conninfo) => conninfo,
        Err(error) => {
            report.error("server", &error, error.hint());
            return None;
        }
    };
    let streams = config.wal.source == WalSource::Stream;
    let instance = match read_instance(&conninfo, config, clock, report).await {
        Ok(instance) => instance,
        Err(error) => {
            report.error("server", &error, error.hint());
            return None;
        }
    };
    let name = conninfo.application_name.as_deref().unwrap_or(APPLICATION_NAME);
    let findings =
        if streams { instance.findings(name, config.wal.synchronous) } else { instance.findings_without_stream(name) };
    for finding in findings {
        match finding.severity {
            Severity::Warning => report.warning("server", finding.text, finding.hint),
            Severity::Error => report.error("server", &Said(finding.text), finding.hint),
        }
    }
    if instance.in_recovery {
        report.error("server", &Said(STANDBY.to_owned()), Some(STANDBY_HINT.to_owned()));
    }
    if streams {
        check_replication(&conninfo, &instance, report).await;
    }
    check_data_directory(&instance, report);
    Some(instance)
}

async fn read_instance(
    conninfo: &ConnInfo,
    config: &Config,
    clock: &dyn Clock,
    report: &mut CheckReport,
) -> Result<Instance, Error> {
    let session = sql::connect(conninfo).await?;
    let instance = Instance::read(&session).await?;
    report.ok(
        "server",
        format!(
            "PostgreSQL {} as \"{}\", system identifier {}, timeline {}",
            instance.version, instance.user, instance.system_identifier, instance.timeline
        ),
    );
    let time: DateTime<Utc> = session.query_one("SELECT pg_catalog.clock_timestamp()", &[]).await?.get(0);
    let skew = (time - clock.now()).abs();
    if skew > MAX_CLOCK_SKEW {
        let text = format!("the server's clock and this host's differ by {} ms", skew.num_milliseconds());
        report.warning("clock", text, Some("synchronise the clocks: targets in time follow the server's".to_owned()));
    }
    let (slot, source) = (config.wal.slot.as_str(), config.wal.source);
    if source == WalSource::Stream {
        check_slot(&session, slot, report).await?;
    }
    Archiving::read(&session, slot).await?.report(source, report);
    drop(session.close().await);
    Ok(instance)
}

async fn check_slot(session: &SqlSession, slot: &str, report: &mut CheckReport) -> Result<(), Error> {
    match Slot::read(session, slot).await? {
        Some(found) if found.is_lost() => report.warning(
            "replication",
            format!("the slot \"{slot}\" has lost WAL"),
            Some("the agent makes it anew at its next start, and takes a backup".to_owned()),
        ),
        Some(_) => report.ok("replication", format!("the slot \"{slot}\" exists")),
        None => report.ok("replication", format!("the slot \"{slot}\" will be made at the first start")),
    }
    Ok(())
}

async fn check_replication(conninfo: &ConnInfo, instance: &Instance, report: &mut CheckReport) {
    let identified = async { replication::connect(conninfo).await?.identify_system().await }.await;
    match identified {
        Ok(facts) if facts.system_identifier == instance.system_identifier => {
            report.ok("replication", "the server streams WAL to this role");
        }
        Ok(facts) => {
            let text = format!("the replication connection reaches another cluster, {}", facts.system_identifier);
            report.error("replication", &Said(text), Some("check [postgres] connection".to_owned()));
        }
        Err(error) => report.error("replication", &error, error.hint()),
    }
}

fn check_data_directory(instance: &Instance, report: &mut CheckReport) {
    let Some(path) = &instance.data_directory else {
        let hint = Some("GRANT pg_read_all_settings TO the agent's role".to_owned());
        report.error("data directory", &Said("the server does not tell where it is".to_owned()), hint);
        return;
    };
    if let Err(error) = std::fs::read(path.join("global/pg_control")) {
        let hint = "run pitr-agent on the server's host, as the user that owns the data directory".to_owned();
        let text = format!("\"{}\" cannot be read: {error}", path.display());
        report.error("data directory", &Said(text), Some(hint));
        return;
    }
    report.ok("data directory", format!("\"{}\" can be read", path.display()));
}

async fn check_repository(
    config: &Config,
    environment: &Environment,
    instance: Option<&Instance>,
    report: &mut CheckReport,
) {
    let url = &config.repository.storage.url;
    let store = match open_store(config, environment).await {
        Ok(store) => store,
        Err(error) => {
            report.error("repository", &error, error.hint());
            return;
        }
    };
    match probe_create_only(store.as_ref()).await {
        Ok(true) => report.ok("repository", format!("{url} can be written, read and deleted from")),
        Ok(false) => report.warning(
            "repository",
            format!("{url} overwrites objects that were to be created only where there are none"),
            Some("set [repository] create_only = \"emulated\", and never let two agents write here".to_owned()),
        ),
        Err(error) => {
            let hint = error.hint().map(str::to_owned);
            report.error("repository", &Said(format!("{url} cannot be used: {}", in_full(&error))), hint);
            return;
        }
    }
    check_lineages(config, store, instance, report).await;
}

async fn check_lineages(
    config: &Config,
    store: Arc<dyn ObjectStore>,
    instance: Option<&Instance>,
    report: &mut CheckReport,
) {
    let lineages = match Repository::open(store).await {
        Ok(repository) => repository.lineages(&config.cluster).await,
        Err(pitr::repository::Error::NotARepository) => {
            report.ok("repository", "there is none yet; the agent makes it at its first start");
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    };
    let lineages = match lineages {
        Ok(lineages) => lineages,
        Err(error) => return report.error("repository", &error, error.hint().map(str::to_owned)),
    };
    let Some(instance) = instance else { return };
    let ids: Vec<String> = lineages.iter().map(|lineage| lineage.lineage().lineage.to_string()).collect();
    let path = instance.data_directory.clone().unwrap_or_default();
    let chosen = Origin::read(&path).and_then(|origin| {
        Ok(match choose_lineage(&lineages, instance, &origin)? {
            Choice::Known(lineage) => {
                Some(format!("the repository knows \"{}\" as {}", config.cluster, lineage.lineage))
            }
            Choice::First => Some(format!("\"{}\" is new to the repository", config.cluster)),
            Choice::Another(_) => None,
        })
    });
    match chosen {
        Ok(Some(text)) => report.ok("cluster", text),
        Ok(None) => {
            let text = format!("the repository knows \"{}\" as another cluster, {}", config.cluster, ids.join(", "));
            let hint = "give this cluster a name of its own; after pg_upgrade or initdb run \"pitr-agent adopt\"";
            report.error("cluster", &Said(text), Some(hint.to_owned()));
        }
        Err(error) => report.error("data directory", &error, Some(error.hint().to_owned())),
    }
}

/// A finding that is no error of a call.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);
