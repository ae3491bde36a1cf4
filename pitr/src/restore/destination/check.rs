//! The checks, which only read.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};

use super::old_cluster::{ClusterIdentity, OldCluster};
use super::owner::{Accounts, OwnerRequest, Ownership};
use super::running_server::{RunningServer, running_servers};
use super::space::existing_ancestor;
use super::tablespaces::{TablespaceMapping, TablespaceTarget, check_apart};
use super::{Error, Result};
use crate::fs::{self, Action};
use crate::repository::backup::BackupManifest;
use crate::restore::stamp::RestoreStamp;

/// What stands at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationState {
    Absent,
    Empty,
    /// The rest of a restore that did not finish; it is removed before the next one begins.
    Unfinished(Box<RestoreStamp>),
    /// Holds files that are compared and reused.
    Old(Box<OldCluster>),
}

/// What becomes of files that stand at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// There may be none.
    #[default]
    Nothing,
    /// Those of the same cluster are compared with the backup's, and kept where they are equal.
    SameCluster,
}

/// A destination that passed the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Without symbolic links in it.
    pub directory: PathBuf,
    pub mode: u32,
    pub state: DestinationState,
    pub tablespaces: Vec<TablespaceTarget>,
    pub ownership: Ownership,
    /// What a person should know, and what does not keep the restore from being done.
    pub notes: Vec<String>,
}

impl Destination {
    /// Whether `backup` can be restored into `directory`.
    ///
    /// # Errors
    /// Every reason against it but missing space, see [`check_space`](super::check_space).
    pub fn check(
        backup: &BackupManifest,
        directory: &Path,
        mapping: &TablespaceMapping,
        owner: Option<&OwnerRequest>,
        accounts: &dyn Accounts,
        reuse: Reuse,
    ) -> Result<Self> {
        let servers = running_servers();
        let directory = resolve_links(directory)?;
        check_apart_from_clusters(&directory, &servers)?;
        let state = match reuse {
            Reuse::Nothing => data_directory_state(&directory)?,
            Reuse::SameCluster => reusable_state(&directory, &ClusterIdentity::of(backup))?,
        };
        check_writable(&directory)?;
        let ownership = Ownership::resolve(owner, &backup.owner, accounts)?;
        let mut tablespaces = mapping.resolve(&backup.tablespaces, &directory)?;
        for target in &mut tablespaces {
            if let Some(base) = mapping.all_into.as_deref().filter(|base| target.path.starts_with(base)) {
                target.path = resolve_links(base)?.join(target.oid.to_string());
                check_writable(&resolve_links(base)?)?;
            } else {
                target.path = resolve_links(&target.path)?;
                check_writable(&target.path)?;
            }
            check_apart_from_clusters(&target.path, &servers)?;
            check_tablespace(&target.path, &state)?;
        }
        // Once more: links may lead to one place.
        check_apart(&tablespaces, &directory)?;
        let mut notes: Vec<String> = unreachable_note(&directory, &ownership, accounts).into_iter().collect();
        if let DestinationState::Unfinished(stamp) = &state {
            notes.push(format!(
                "\"{}\" holds what the restore {} did not finish; it is removed first",
                directory.display(),
                stamp.restore
            ));
        }
        if let DestinationState::Old(old) = &state {
            notes.extend(old_cluster_notes(&directory, old, &tablespaces));
        }
        Ok(Self { directory, mode: backup.directory_mode & 0o750 | 0o700, state, tablespaces, ownership, notes })
    }
}

impl Destination {
    /// Where the cluster that is overwritten has tablespaces, all of which may be made anew.
    #[must_use]
    pub fn former_tablespaces(&self) -> Vec<PathBuf> {
        match &self.state {
            DestinationState::Old(old) => old.tablespaces.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether the data directory and all tablespaces share their space.
    ///
    /// # Errors
    /// A directory cannot be examined.
    pub fn is_one_file_system(&self) -> Result<bool> {
        let (_, device) = existing_ancestor(&self.directory)?;
        for target in &self.tablespaces {
            if existing_ancestor(&target.path)?.1 != device {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// `path` with its parent's symbolic links, and its own, followed. Only the last part may be missing.
fn resolve_links(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::NotAbsolute { path: path.to_owned() });
    }
    match std::fs::canonicalize(path) {
        Ok(resolved) => return Ok(resolved),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fs::Error::new(Action::Open, path, error).into()),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotAbsolute { path: path.to_owned() });
    };
    // A link that leads nowhere would be replaced by no one knows what.
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(Error::NotADirectory { path: path.to_owned() });
    }
    match std::fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::NoParent { path: path.to_owned(), parent: parent.to_owned() })
        }
        Err(error) => Err(fs::Error::new(Action::Open, parent, error).into()),
    }
}

fn check_apart_from_clusters(path: &Path, servers: &[RunningServer]) -> Result<()> {
    for server in servers {
        if server.overlaps(path) {
            let (data_directory, pid) = (server.data_directory.clone(), server.pid);
            return Err(Error::RunningServer { path: path.to_owned(), data_directory, pid });
        }
        for tablespace in server.tablespaces() {
            if tablespace.starts_with(path) || path.starts_with(&tablespace) {
                return Err(Error::WithinCluster { path: path.to_owned(), cluster: tablespace });
            }
        }
    }
    for ancestor in path.ancestors().skip(1) {
        let is_data_directory = ancestor.join("PG_VERSION").is_file() && ancestor.join("global").is_dir();
        if is_data_directory || is_tablespace_version(ancestor) {
            return Err(Error::WithinCluster { path: path.to_owned(), cluster: ancestor.to_owned() });
        }
    }
    Ok(())
}

/// `PG_15_202209061`: what a server makes in the location of a tablespace (`TABLESPACE_VERSION_DIRECTORY`).
fn is_tablespace_version(path: &Path) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix("PG_"))
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(major, catalog)| digits(major) && digits(catalog))
}

pub(super) fn data_directory_state(directory: &Path) -> Result<DestinationState> {
    let Some(found) = first_entry(directory)? else { return Ok(DestinationState::Absent) };
    let Some(found) = found else { return Ok(DestinationState::Empty) };
    let not_empty = || Error::NotEmpty { path: directory.to_owned(), found };
    // With pg_control a server may have started here, and written; without it none can have.
    if directory.join("global/pg_control").exists() {
        return Err(not_empty());
    }
    match RestoreStamp::read(directory) {
        // Besides files of the backup it holds what belongs to the user, and maybe what a dead server left.
        Ok(Some(stamp)) if stamp.delta => Err(Error::UnfinishedDelta { path: directory.to_owned() }),
        _ if directory.join("postmaster.pid").exists() => Err(not_empty()),
        Ok(Some(stamp)) => Ok(DestinationState::Unfinished(Box::new(stamp))),
        _ => Err(not_empty()),
    }
}

/// What stands at `directory`, where the files of the cluster `identity` may be reused.
pub(super) fn reusable_state(directory: &Path, identity: &ClusterIdentity) -> Result<DestinationState> {
    match first_entry(directory)? {
        None => Ok(DestinationState::Absent),
        Some(None) => Ok(DestinationState::Empty),
        Some(Some(_)) => Ok(DestinationState::Old(Box::new(OldCluster::inspect(directory, identity)?))),
    }
}

/// Whether the files at `path` may be removed, or be reused where `state` permits it.
pub(super) fn check_tablespace(path: &Path, state: &DestinationState) -> Result<()> {
    match state {
        DestinationState::Old(old) if old.owns(path) => Ok(()),
        _ => check_tablespace_free(path),
    }
}

/// A tablespace's stamp is removed before the restore finishes: where there is one, the restore did not finish.
pub(super) fn check_tablespace_free(path: &Path) -> Result<()> {
    match first_entry(path)? {
        Some(Some(_)) if matches!(RestoreStamp::read(path), Ok(Some(stamp)) if stamp.delta) => {
            Err(Error::UnfinishedDelta { path: path.to_owned() })
        }
        Some(Some(found)) if !matches!(RestoreStamp::read(path), Ok(Some(_))) => {
            Err(Error::NotEmpty { path: path.to_owned(), found })
        }
        _ => Ok(()),
    }
}

fn old_cluster_notes(directory: &Path, old: &OldCluster, tablespaces: &[TablespaceTarget]) -> Vec<String> {
    let place = directory.display();
    let mut notes = vec![match &old.unfinished {
        Some(stamp) => format!(
            "\"{place}\" holds what the restore {} did not finish; its files are compared and reused",
            stamp.restore
        ),
        None => format!(
            "the cluster in \"{place}\" is overwritten: its files are compared and reused, those that the backup lacks are \
             removed, and its pg_wal is moved aside"
        ),
    }];
    let left = old.tablespaces.iter().filter(|path| !tablespaces.iter().any(|target| target.path == **path));
    notes.extend(left.map(|path| {
        format!(
            "\"{}\" is a tablespace that goes elsewhere or is not in the backup; its files are left there",
            path.display()
        )
    }));
    notes
}

/// None where `directory` does not exist, `Some(None)` where it is empty, else the name of something in it.
fn first_entry(directory: &Path) -> Result<Option<Option<String>>> {
    let failed = |action, error: std::io::Error| Error::Inspect(fs::Error::new(action, directory, error));
    let mut entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Error::NotADirectory { path: directory.to_owned() });
        }
        Err(error) => return Err(failed(Action::List, error)),
    };
    match entries.next() {
        None => Ok(Some(None)),
        Some(Ok(entry)) => Ok(Some(Some(entry.file_name().to_string_lossy().into_owned()))),
        Some(Err(error)) => Err(failed(Action::List, error)),
    }
}

/// Whether the file `path` can be written, whose directory is made where it is missing.
///
/// # Errors
/// [`Error::NotWritable`] for the directory that would have to be written.
pub fn check_companion(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(path);
    check_writable(&existing_ancestor(directory)?.0)
}

/// Whether we can write into `path`, or make it.
fn check_writable(path: &Path) -> Result<()> {
    use rustix::fs::Access;

    let place = if path.exists() { path } else { path.parent().unwrap_or(path) };
    if !place.is_dir() {
        return Err(Error::NotADirectory { path: place.to_owned() });
    }
    rustix::fs::accessat(CWD, place, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| Error::NotWritable { path: place.to_owned(), source: errno.into() })
}

/// A note where the owner of the files cannot get at them, because a directory above is closed to it.
fn unreachable_note(directory: &Path, ownership: &Ownership, accounts: &dyn Accounts) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    if !ownership.give_away {
        return None;
    }
    let groups = accounts.groups_of(&ownership.account);
    let closed = directory.ancestors().skip(1).find(|ancestor| {
        std::fs::metadata(ancestor).is_ok_and(|metadata| {
            let bit = if metadata.uid() == ownership.account.uid {
                0o100
            } else if groups.contains(&metadata.gid()) {
                0o010
            } else {
                0o001
            };
            metadata.mode() & bit == 0
        })
    })?;
    Some(format!(
        "the user \"{}\" may not enter \"{}\": the server will not be able to open its data directory there",
        ownership.account.name,
        closed.display()
    ))
}
