//! What replay does outside the data directory, decided before anything is written.
//!
//! `CREATE TABLESPACE` in the WAL names a path, and replay uses that very path, whatever tablespaces are mapped to: it
//! takes possession of the directory, removes what an equal version of the server has in it, and stops with an error where
//! there is none. On the host of the origin that would destroy the live tablespace.

use std::path::{Path, PathBuf};

use super::destination::{RunningServer, running_servers};
use super::{Error, Result};
use crate::postgres::Lsn;
use crate::recovery::PlanWarning;

/// What may be done about paths that the WAL names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TablespacePolicy {
    /// Only paths where nothing is, and empty directories.
    #[default]
    Careful,
    /// Also directories that hold something, unless a server that runs here uses them.
    Allowed,
}

/// What there is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathState {
    Absent,
    Empty,
    Occupied,
}

/// Directories that replay needs and that have to be made for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TablespacesInWal {
    pub(super) to_make: Vec<PathBuf>,
    pub(super) notes: Vec<String>,
}

/// Looks at every path that replay will use. Those of `former` are of the very cluster that is restored over, and replay may
/// make them anew as it did before. Blocks.
///
/// # Errors
/// [`Error::Tablespace`] for a path that `policy` does not permit, or that a running server uses.
pub(super) fn inspect(
    warnings: &[PlanWarning],
    policy: TablespacePolicy,
    former: &[PathBuf],
) -> Result<TablespacesInWal> {
    let mut found = TablespacesInWal::default();
    let mut seen = Vec::new();
    let servers = running_servers();
    for warning in warnings {
        let PlanWarning::TablespaceInWal { lsn, path } = warning else { continue };
        // Else it is a tablespace in place, or one that is dropped: both are reached through the data directory.
        if !path.starts_with('/') {
            continue;
        }
        let path = PathBuf::from(path);
        let state = state_of(&path);
        let is_former = std::fs::canonicalize(&path).is_ok_and(|path| former.contains(&path));
        let policy = if is_former { TablespacePolicy::Allowed } else { policy };
        decide(*lsn, &path, state, &servers, policy)?;
        if seen.contains(&path) {
            continue;
        }
        let what = if state == PathState::Absent { "the directory is made for it" } else { "the directory exists" };
        found.notes.push(format!(
            "replay creates or drops a tablespace at \"{}\", outside the restored directory; {what}",
            path.display()
        ));
        if state == PathState::Absent {
            found.to_make.push(path.clone());
        }
        seen.push(path);
    }
    Ok(found)
}

fn state_of(path: &Path) -> PathState {
    match std::fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => PathState::Empty,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => PathState::Absent,
        // What cannot be looked at may hold anything.
        _ => PathState::Occupied,
    }
}

fn decide(lsn: Lsn, path: &Path, state: PathState, servers: &[RunningServer], policy: TablespacePolicy) -> Result<()> {
    let refuse = |why: String| {
        let reason = format!("at {lsn} the WAL creates a tablespace at \"{}\", {why}", path.display());
        Err(Error::Tablespace { reason })
    };
    for server in servers {
        let theirs = |used: &Path| used.starts_with(path) || path.starts_with(used);
        if server.overlaps(path) || server.tablespaces().iter().any(|tablespace| theirs(tablespace)) {
            return refuse(format!(
                "which the server in \"{}\" uses (process {}); replay would destroy what it has there",
                server.data_directory.display(),
                server.pid
            ));
        }
    }
    match (state, policy) {
        (PathState::Absent | PathState::Empty, _) | (PathState::Occupied, TablespacePolicy::Allowed) => Ok(()),
        (PathState::Occupied, TablespacePolicy::Careful) => {
            refuse("which is not empty; replay may remove what is there".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(path: &str, state: PathState, policy: TablespacePolicy, running: &[&str]) -> bool {
        let servers: Vec<RunningServer> =
            running.iter().map(|path| RunningServer { pid: 7, data_directory: path.into() }).collect();
        decide(Lsn::new(0x28), Path::new(path), state, &servers, policy).is_ok()
    }

    #[test]
    fn what_holds_nothing_needs_no_permission() {
        use PathState::{Absent, Empty, Occupied};
        for (state, careful, allowed) in [(Absent, true, true), (Empty, true, true), (Occupied, false, true)] {
            assert_eq!(decided("/ts", state, TablespacePolicy::Careful, &["/pg"]), careful, "{state:?}");
            assert_eq!(decided("/ts", state, TablespacePolicy::Allowed, &["/pg"]), allowed, "{state:?}");
        }
    }

    #[test]
    fn a_running_server_is_never_touched() {
        for policy in [TablespacePolicy::Careful, TablespacePolicy::Allowed] {
            for state in [PathState::Absent, PathState::Occupied] {
                assert!(!decided("/pg/main/ts", state, policy, &["/pg/main"]));
                assert!(!decided("/pg", state, policy, &["/pg/main"]));
            }
        }
    }

    #[test]
    fn a_running_servers_tablespace_is_found_through_its_link() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, tablespace) = (scratch.path().join("data"), scratch.path().join("ts"));
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        std::fs::create_dir_all(&tablespace).unwrap();
        std::os::unix::fs::symlink(&tablespace, data.join("pg_tblspc/16400")).unwrap();
        let servers = [RunningServer { pid: 7, data_directory: data }];
        let decided = decide(Lsn::new(1), &tablespace, PathState::Empty, &servers, TablespacePolicy::Allowed);
        let error = decided.unwrap_err();
        assert!(error.to_string().contains("process 7"), "{error}");
    }

    #[test]
    fn absent_directories_are_to_be_made_once() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("new").to_str().unwrap().to_owned();
        let warning = |lsn| PlanWarning::TablespaceInWal { lsn: Lsn::new(lsn), path: path.clone() };
        let in_place = |path: &str| PlanWarning::TablespaceInWal { lsn: Lsn::new(3), path: path.to_owned() };
        let warnings = [warning(1), warning(2), in_place(""), in_place("pg_tblspc/16400")];
        let found = inspect(&warnings, TablespacePolicy::Careful, &[]).unwrap();
        assert_eq!(found.to_make, [PathBuf::from(path)]);
        assert_eq!(found.notes.len(), 1);
    }
}
