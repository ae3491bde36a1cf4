//! Where a data directory comes from, and with that, which lineages its server may write to.
//!
//! Two servers that a restore made from one archive have one identity and may be on one timeline, so nothing that they write
//! tells them apart. What does is the name of the restore: each leaves it in the directory that it makes. A lineage names
//! the restore whose directory goes on in it; one that names none belongs to the server that was archived all along, and to
//! its standbys. So a restored server writes nowhere before it has a lineage of its own, and the live one is never disturbed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pitr::repository::lineage::{Lineage, LineageId};
use serde::Deserialize;

/// Left in its data directory by a restore.
const RESTORE_FILE: &str = "pitr_restore.json";

/// Only what matters here is read of it, so that a file of another version is understood too.
#[derive(Deserialize)]
struct RestoreFile {
    #[serde(default)]
    archive: bool,
    restore: Option<String>,
    lineage: Option<LineageId>,
}

/// How a data directory came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By `initdb`, or as a standby of one that was.
    Server,
    /// Rolled back in place: it goes on where it was before.
    RolledBack { lineage: Option<LineageId> },
    /// By this restore, in a directory of its own.
    Restore { restore: Option<String> },
}

/// Why the server of a data directory must not write to a lineage.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error(
        "the data directory \"{}\" is a restored copy (it holds {RESTORE_FILE}): archiving it here would mix two histories",
        .0.display()
    )]
    Copy(PathBuf),
    #[error(
        "lineage {lineage} is that of a restored copy, and the data directory \"{}\" is not that copy: archiving it here \
         would mix two histories", path.display()
    )]
    NotTheCopy { path: PathBuf, lineage: LineageId },
    #[error("\"{}\" cannot be read, so it cannot be told whether this is a restored copy", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("\"{}\" does not hold what a restore writes", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
}

impl OriginError {
    /// What a person can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Copy(_) => {
                "nothing was stored. Where this server takes the place of the old one: stop the old one's agent, then \
                 \"pitr-agent adopt --new-history\" gives this one a lineage of its own, beside what was stored before, which \
                 stays restorable. Where it is to live beside the old one: give it a cluster name of its own in the \
                 configuration, then \"pitr-agent adopt\""
            }
            Self::NotTheCopy { .. } => {
                "nothing was stored: give each server a cluster name of its own in its configuration"
            }
            Self::Unreadable { .. } | Self::Malformed { .. } => {
                "run the agent as the server's user; remove the file only if this server is the original"
            }
        }
    }
}

impl Origin {
    /// By what stands in the data directory. Blocks.
    ///
    /// # Errors
    /// It cannot be told: then nothing may be stored of it.
    pub fn read(data_directory: &Path) -> Result<Self, OriginError> {
        let path = data_directory.join(RESTORE_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Server),
            Err(source) => return Err(OriginError::Unreadable { path, source }),
        };
        match serde_json::from_slice::<RestoreFile>(&bytes) {
            Ok(RestoreFile { archive: true, lineage, .. }) => Ok(Self::RolledBack { lineage }),
            Ok(RestoreFile { archive: false, restore, .. }) => Ok(Self::Restore { restore }),
            Err(source) => Err(OriginError::Malformed { path, source }),
        }
    }

    /// The newest of `known` that its server may write to. All are of the server's system identifier.
    #[must_use]
    pub fn newest_own<'a>(&self, known: &[&'a Lineage]) -> Option<&'a Lineage> {
        let wanted = match self {
            Self::Server => None,
            Self::RolledBack { lineage } => {
                known.iter().find(|known| Some(known.lineage) == *lineage).and_then(|known| known.restore.as_deref())
            }
            Self::Restore { restore } => Some(restore.as_deref()?),
        };
        let own = known.iter().filter(|lineage| lineage.restore.as_deref() == wanted);
        own.max_by_key(|lineage| lineage.lineage.generation()).copied()
    }

    /// Of a server that went on in `lineage` so far: its data directory may have been replaced meanwhile.
    ///
    /// # Errors
    /// It was, by a restored copy or by what is not that copy.
    pub fn may_go_on(&self, path: &Path, lineage: &Lineage) -> Result<(), OriginError> {
        match (self, &lineage.restore) {
            (Self::RolledBack { .. }, _) | (Self::Server, None) => Ok(()),
            (Self::Restore { restore: Some(found) }, Some(wanted)) if found == wanted => Ok(()),
            (Self::Restore { .. }, _) => Err(OriginError::Copy(path.to_owned())),
            (Self::Server, Some(_)) => Err(OriginError::NotTheCopy { path: path.to_owned(), lineage: lineage.lineage }),
        }
    }
}

/// Whether the running server that started at `started` (seconds since 1970) runs in this directory of this host. Blocks.
#[must_use]
pub fn is_served_from(data_directory: &Path, started: i64) -> bool {
    // `LOCK_FILE_LINE_START_TIME` in pidfile.h; it is noted a moment before `pg_postmaster_start_time`.
    let text = std::fs::read_to_string(data_directory.join("postmaster.pid")).unwrap_or_default();
    let noted = text.lines().nth(2).and_then(|line| line.trim().parse::<i64>().ok());
    noted.is_some_and(|noted| (noted..=noted.saturating_add(2)).contains(&started))
}

#[cfg(test)]
mod tests {
    use pitr::postgres::{ServerVersion, SystemIdentifier, WalSegmentSize};

    use super::*;

    fn lineage(generation: u32, restore: Option<&str>) -> Lineage {
        Lineage {
            cluster: "main".parse().unwrap(),
            lineage: LineageId::new(SystemIdentifier::new(7), generation),
            postgres_version: ServerVersion::new(170_006),
            wal_segment_size: WalSegmentSize::DEFAULT,
            created: chrono::DateTime::UNIX_EPOCH,
            restore: restore.map(str::to_owned),
        }
    }

    fn of(text: &str) -> Result<Origin, OriginError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(RESTORE_FILE), text).unwrap();
        Origin::read(directory.path())
    }

    #[test]
    fn a_directory_tells_where_it_comes_from() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Origin::read(directory.path()).unwrap(), Origin::Server);
        assert_eq!(of(r#"{"id": "x"}"#).unwrap(), Origin::Restore { restore: None });
        let restored = of(r#"{"archive": false, "restore": "r1", "lineage": "7-1"}"#).unwrap();
        assert_eq!(restored, Origin::Restore { restore: Some("r1".to_owned()) });
        let rolled_back = of(r#"{"archive": true, "restore": "r1", "lineage": "7-1"}"#).unwrap();
        assert_eq!(rolled_back, Origin::RolledBack { lineage: Some(lineage(1, None).lineage) });
        assert!(matches!(of(""), Err(OriginError::Malformed { .. })));
    }

    #[test]
    fn each_restored_copy_has_lineages_of_its_own_and_takes_none_from_the_server() {
        let lineages = [
            lineage(1, None),
            lineage(2, Some("r1")),
            lineage(3, None),
            lineage(4, Some("r2")),
            lineage(5, Some("r1")),
        ];
        let known: Vec<&Lineage> = lineages.iter().collect();
        let generation = |origin: &Origin| origin.newest_own(&known).map(|lineage| lineage.lineage.generation());
        let restored = |name: &str| Origin::Restore { restore: Some(name.to_owned()) };
        assert_eq!(generation(&Origin::Server), Some(3));
        assert_eq!(generation(&restored("r1")), Some(5));
        assert_eq!(generation(&restored("r2")), Some(4));
        assert_eq!(generation(&restored("r3")), None);
        assert_eq!(generation(&Origin::Restore { restore: None }), None);
        let back = |generation| Origin::RolledBack { lineage: Some(lineage(generation, None).lineage) };
        assert_eq!(generation(&back(1)), Some(3));
        assert_eq!(generation(&back(2)), Some(5));
    }

    #[test]
    fn a_data_directory_that_was_replaced_by_a_copy_does_not_go_on() {
        let path = Path::new("/data");
        let restored = Origin::Restore { restore: Some("r1".to_owned()) };
        assert!(matches!(restored.may_go_on(path, &lineage(1, None)), Err(OriginError::Copy(_))));
        assert!(matches!(restored.may_go_on(path, &lineage(2, Some("r2"))), Err(OriginError::Copy(_))));
        assert!(restored.may_go_on(path, &lineage(2, Some("r1"))).is_ok());
        assert!(Origin::Server.may_go_on(path, &lineage(1, None)).is_ok());
        assert!(matches!(Origin::Server.may_go_on(path, &lineage(2, Some("r1"))), Err(OriginError::NotTheCopy { .. })));
        assert!(Origin::RolledBack { lineage: None }.may_go_on(path, &lineage(1, None)).is_ok());
    }

    #[test]
    fn a_server_of_another_host_is_not_judged_by_a_directory_of_this_one() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_served_from(directory.path(), 1_790_000_000));
        std::fs::write(directory.path().join("postmaster.pid"), "4711\n/data\n1790000000\n5433\n").unwrap();
        assert!(is_served_from(directory.path(), 1_790_000_001));
        assert!(!is_served_from(directory.path(), 1_790_000_060));
    }
}
