//! A directory whose files a restore may reuse: the data directory of the same cluster, without a server, or the rest of a
//! restore of it. Looking only reads.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::running_server::running_servers;
use super::{Error, Result};
use crate::fs::{self, Action, Directory, EntryType};
use crate::postgres::control_file::{CONTROL_FILE_SIZE, ControlFile};
use crate::postgres::{MajorVersion, SystemIdentifier};
use crate::repository::backup::BackupManifest;
use crate::restore::stamp::{RestoreStamp, StampState};

/// What a directory must be of, so that its files may be taken for those of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    pub system_identifier: SystemIdentifier,
    pub major: Option<MajorVersion>,
}

impl ClusterIdentity {
    #[must_use]
    pub fn of(backup: &BackupManifest) -> Self {
        Self { system_identifier: backup.system_identifier, major: backup.postgres_version.major() }
    }
}

/// A directory that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldCluster {
    pub identity: ClusterIdentity,
    /// The stamp of a restore that did not finish here.
    pub unfinished: Option<Box<RestoreStamp>>,
    /// Where its tablespaces stand, as far as its links or the stamp tell.
    pub tablespaces: Vec<PathBuf>,
}

impl OldCluster {
    /// Looks at `directory`, which is not empty and has no symbolic links in its path.
    ///
    /// # Errors
    /// It is not what `identity` says, or a server may run in it.
    pub(super) fn inspect(directory: &Path, identity: &ClusterIdentity) -> Result<Self> {
        refuse_server(directory)?;
        let refuse = |reason: String| Error::NotThisCluster { path: directory.to_owned(), reason };
        let opened = Directory::open(directory)?;
        check_version(&opened, identity, &refuse)?;
        if is_mount_point(directory, "pg_wal")? {
            return Err(refuse("its \"pg_wal\" is a mount point, which cannot be moved aside".to_owned()));
        }
        let stamp = RestoreStamp::read(directory).ok().flatten();
        let unfinished = match control_file(&opened)? {
            Some(bytes) => {
                let control = ControlFile::parse(&bytes)
                    .map_err(|error| refuse(format!("its \"global/pg_control\" cannot be used: {error}")))?;
                check_identifier(control.system_identifier, identity, &refuse)?;
                if identity.major.is_some_and(|major| major != control.major) {
                    return Err(refuse(format!("its \"global/pg_control\" is of PostgreSQL {}", control.major)));
                }
                // With the control file a finished restore is a cluster like any other.
                stamp.filter(|stamp| stamp.delta && stamp.state == StampState::Restoring)
            }
            None => {
                let stamp = stamp.ok_or_else(|| {
                    refuse("it has no \"global/pg_control\", and no stamp of a restore that did not finish".to_owned())
                })?;
                check_identifier(stamp.lineage.system_identifier(), identity, &refuse)?;
                Some(stamp)
            }
        };
        let mut tablespaces = linked_tablespaces(directory);
        if let Some(stamp) = &unfinished {
            tablespaces.extend(stamp.tablespaces.iter().chain(&stamp.former_tablespaces).cloned());
        }
        tablespaces.sort();
        tablespaces.dedup();
        Ok(Self { identity: identity.clone(), unfinished: unfinished.map(Box::new), tablespaces })
    }

    /// Whether what stands at `path` is of this cluster: a link of its own leads there, or the stamp of its restore does.
    pub(super) fn owns(&self, path: &Path) -> bool {
        let stamped = || match RestoreStamp::read(path) {
            Ok(Some(stamp)) => stamp.lineage.system_identifier() == self.identity.system_identifier,
            _ => false,
        };
        self.tablespaces.iter().any(|known| known == path) || stamped()
    }
}

/// # Errors
/// A server runs in `directory`, or one that cannot be told apart from one that does.
pub(super) fn refuse_server(directory: &Path) -> Result<()> {
    if let Some(server) = running_servers().into_iter().find(|server| server.overlaps(directory)) {
        let (data_directory, pid) = (server.data_directory, server.pid);
        return Err(Error::RunningServer { path: directory.to_owned(), data_directory, pid });
    }
    let path = directory.join("postmaster.pid");
    let content = match std::fs::read_to_string(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fs::Error::new(Action::Read, path, error).into()),
    };
    // Negative where a single backend runs.
    let pid = content.lines().next().and_then(|line| line.trim().parse::<i64>().ok()).map(i64::unsigned_abs);
    match pid {
        Some(pid) if Path::new("/proc").join(pid.to_string()).exists() => {
            Err(Error::ServerInUse { path: directory.to_owned(), pid })
        }
        _ => Ok(()),
    }
}

/// The rest of a restore may not have come to it; another version is never right.
fn check_version(directory: &Directory, identity: &ClusterIdentity, refuse: &dyn Fn(String) -> Error) -> Result<()> {
    let found = match regular_file(directory, "PG_VERSION", 64)? {
        Some(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        None if control_file(directory)?.is_some() => return Err(refuse("it has no \"PG_VERSION\"".to_owned())),
        None => return Ok(()),
    };
    let wanted = identity.major.map(|major| major.to_string()).unwrap_or_default();
    // An interrupted restore may have made the file and not written it yet.
    let unwritten = found.bytes().all(|byte| byte == 0) && control_file(directory)?.is_none();
    if found == wanted || unwritten {
        return Ok(());
    }
    Err(refuse(format!("its \"PG_VERSION\" says \"{found}\", the backup is of PostgreSQL {wanted}")))
}

fn check_identifier(
    found: SystemIdentifier,
    identity: &ClusterIdentity,
    refuse: &dyn Fn(String) -> Error,
) -> Result<()> {
    if found == identity.system_identifier {
        return Ok(());
    }
    Err(refuse(format!("it has the system identifier {found}, the backup has {}", identity.system_identifier)))
}

fn control_file(directory: &Directory) -> Result<Option<Vec<u8>>> {
    match directory.open_dir("global") {
        Ok(global) => regular_file(&global, "pg_control", CONTROL_FILE_SIZE as u64 + 1),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_mount_point(directory: &Path, name: &str) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;

    let path = directory.join(name);
    let device = |path: &Path| match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.dev())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fs::Error::new(Action::Stat, path, error)),
    };
    Ok(device(&path)?.is_some_and(|inner| device(directory).is_ok_and(|outer| outer != Some(inner))))
}

/// At most `limit` bytes of the file; nothing where there is none.
fn regular_file(directory: &Directory, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    match directory.status(name) {
        Ok(status) if status.entry_type == EntryType::File => {}
        Ok(_) => {
            let reason = format!("its \"{name}\" is not a file");
            return Err(Error::NotThisCluster { path: directory.path().to_owned(), reason });
        }
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut bytes = Vec::new();
    let file = directory.open_file(name)?;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| fs::Error::new(Action::Read, directory.path_of(name), error))?;
    Ok(Some(bytes))
}

/// Where the links in `pg_tblspc` lead.
fn linked_tablespaces(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory.join("pg_tblspc")) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_symlink().then(|| std::fs::canonicalize(entry.path()).ok())?
        })
        .collect()
}
