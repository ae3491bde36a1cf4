//! `pitr restore`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use pitr::recovery::{RecoveryTarget, TargetTimeline};
use pitr::repository::backup::BackupId;

use super::UsageError;
use super::target::{TARGET, TargetArgs, TargetOrder};

const DESTINATION: &str = "Destination";

/// Restore a cluster to a moment, into a directory
#[derive(Debug, Args)]
#[command(after_help = "\
The plan is printed first; --dry-run prints nothing else and touches nothing. The directory must
be empty or not exist, unless --delta says that it may hold the same cluster.

--delta compares every page of the directory with the backup's by content and fetches only those
that differ. The server must be stopped. Files that the backup lacks go; the old pg_wal is moved
aside, never removed. Interrupted, it is finished by the same command.

The plan follows from WAL summaries and the WAL around the target. Damage in other WAL is met when
it is replayed, which then stops with an error; --check-wal finds it beforehand.

Times need a zone (\"2026-11-22 06:31:00+01\", \"2026-11-22T05:31:00Z\", \"2026-11-22 06:31:00
Europe/Berlin\") or are relative (\"10 min ago\").

Examples:
  pitr restore --before release-42 --into /srv/restored --dry-run
  pitr restore --before release-42 --into /srv/restored --start --port 5433
  pitr restore --before release-42 --into /var/lib/postgresql/15/main --delta
  pitr restore --time \"10 min ago\" --into /srv/restored --tablespaces-into /srv/tablespaces
  pitr restore --latest --into /srv/restored --owner postgres")]
pub struct RestoreArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// What the server does when it gets there
    #[arg(long, value_enum, default_value_t, value_name = "ACTION", help_heading = TARGET)]
    pub target_action: TargetAction,
    /// Begin with this backup instead of the best one
    #[arg(long, value_name = "ID", help_heading = TARGET)]
    pub backup: Option<String>,

    /// The data directory to be
    #[arg(long, value_name = "DIR", help_heading = DESTINATION)]
    pub into: PathBuf,
    /// Reuse what DIR holds, an old data directory of the same cluster, and fetch only what differs
    #[arg(long, help_heading = DESTINATION)]
    pub delta: bool,
    /// Put the tablespace that was at OLD, or has the OID OLD, to NEW; may be repeated
    #[arg(long, value_name = "OLD=NEW", help_heading = DESTINATION)]
    pub tablespace: Vec<String>,
    /// Put every other tablespace below DIR, under its OID
    #[arg(long, value_name = "DIR", help_heading = DESTINATION)]
    pub tablespaces_into: Option<PathBuf>,
    /// Who shall own the files, by default whoever runs this
    #[arg(long, value_name = "USER[:GROUP]", help_heading = DESTINATION)]
    pub owner: Option<String>,
    /// Where the programs of the server's version are
    #[arg(long, value_name = "DIR", help_heading = DESTINATION)]
    pub bin_directory: Option<PathBuf>,

    /// Read and decode beforehand all the WAL that is to be replayed, so that damage in it is found now
    #[arg(long)]
    pub check_wal: bool,
    /// Print the plan, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Start the server, wait for the target and print the certificate
    #[arg(long, conflicts_with = "dry_run")]
    pub start: bool,
    /// Port of the started server
    #[arg(long, requires = "start", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Files that are fetched and written at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Ask nothing
    #[arg(long, short)]
    pub yes: bool,
}

/// `recovery_target_action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TargetAction {
    #[default]
    Promote,
    Pause,
    Shutdown,
}

/// Where tablespaces go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tablespaces {
    /// What each was, a path or an OID, and where it goes.
    pub moved: Vec<(String, PathBuf)>,
    pub others_into: Option<PathBuf>,
}

/// A user, and a group where one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerName {
    pub user: String,
    pub group: Option<String>,
}

/// What to restore, and to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOrder {
    pub target: RecoveryTarget,
    pub timeline: TargetTimeline,
    pub exclusive: bool,
    pub target_action: TargetAction,
    pub backup: Option<BackupId>,
    pub into: PathBuf,
    pub delta: bool,
    pub tablespaces: Tablespaces,
    pub owner: Option<OwnerName>,
    pub bin_directory: Option<PathBuf>,
    pub check_wal: bool,
    pub dry_run: bool,
    pub start: bool,
    pub port: Option<u16>,
    pub threads: Option<NonZeroU32>,
    pub yes: bool,
}

impl RestoreArgs {
    /// `now` is what relative times count from, `current` what relative paths start from.
    ///
    /// # Errors
    /// A value that cannot be what it should, options that contradict each other.
    pub fn validate(self, now: DateTime<Utc>, current: &Path) -> Result<RestoreOrder, UsageError> {
        let TargetOrder { target, timeline, exclusive } = self.target.validate(now)?;
        let backup = self.backup.as_deref().map(str::parse::<BackupId>).transpose();
        Ok(RestoreOrder {
            target,
            timeline,
            exclusive,
            target_action: self.target_action,
            backup: backup
                .map_err(|error| UsageError::new(error.to_string()).with_hint("pitr info lists the backups"))?,
            into: absolute(current, &self.into),
            delta: self.delta,
            tablespaces: Tablespaces {
                moved: parse_tablespaces(&self.tablespace)?,
                others_into: self.tablespaces_into.as_deref().map(|path| absolute(current, path)),
            },
            owner: self.owner.as_deref().map(parse_owner).transpose()?,
            bin_directory: self.bin_directory.as_deref().map(|path| absolute(current, path)),
            check_wal: self.check_wal,
            dry_run: self.dry_run,
            start: self.start,
            port: self.port,
            threads: self.threads.and_then(NonZeroU32::new),
            yes: self.yes,
        })
    }
}

fn absolute(current: &Path, path: &Path) -> PathBuf {
    current.join(path).components().collect()
}

fn parse_tablespaces(texts: &[String]) -> Result<Vec<(String, PathBuf)>, UsageError> {
    let mut moved: Vec<(String, PathBuf)> = Vec::new();
    for text in texts {
        let invalid = || {
            UsageError::new(format!("invalid tablespace \"{text}\""))
                .with_hint("write --tablespace OLD=NEW with absolute paths; an equal sign in a path is written \\=")
        };
        let (old, new) = split_unescaped(text).ok_or_else(invalid)?;
        let known = Path::new(&old).is_absolute() || old.parse::<u32>().is_ok();
        if !known || !new.is_absolute() {
            return Err(invalid());
        }
        if moved.iter().any(|(known, _)| *known == old) {
            return Err(UsageError::new(format!("the tablespace \"{old}\" is given twice")));
        }
        if moved.iter().any(|(_, known)| *known == new) {
            return Err(UsageError::new(format!("two tablespaces go to \"{}\"", new.display())));
        }
        moved.push((old, new));
    }
    Ok(moved)
}

/// Splits at the one `=` that has no backslash before it, as `pg_basebackup --tablespace-mapping` does.
fn split_unescaped(text: &str) -> Option<(String, PathBuf)> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'=') => {
                characters.next();
                parts.last_mut()?.push('=');
            }
            '=' => parts.push(String::new()),
            other => parts.last_mut()?.push(other),
        }
    }
    match parts.as_slice() {
        [old, new] => Some((old.clone(), Path::new(new).components().collect())),
        _ => None,
    }
}

fn parse_owner(text: &str) -> Result<OwnerName, UsageError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    if user.is_empty() || group == Some("") {
        return Err(UsageError::new(format!("invalid owner \"{text}\"")).with_hint("write --owner USER or USER:GROUP"));
    }
    Ok(OwnerName { user: user.to_owned(), group: group.map(str::to_owned) })
}
