//! Servers that run on this host, found by their processes: every process of PostgreSQL works in its data directory.

use std::fs;
use std::path::{Path, PathBuf};

/// A data directory with a server on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningServer {
    /// One process of the server; the smallest number, as a rule the postmaster.
    pub pid: u32,
    pub data_directory: PathBuf,
}

impl RunningServer {
    /// Whether the server's data directory and `path` are within one another.
    #[must_use]
    pub fn overlaps(&self, path: &Path) -> bool {
        self.data_directory.starts_with(path) || path.starts_with(&self.data_directory)
    }

    /// Where the server's tablespaces stand.
    #[must_use]
    pub fn tablespaces(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.data_directory.join("pg_tblspc")) else { return Vec::new() };
        entries.filter_map(|entry| fs::canonicalize(entry.ok()?.path()).ok()).collect()
    }
}

/// The servers whose processes we may look at: those of every user for root, else our own user's.
#[must_use]
pub fn running_servers() -> Vec<RunningServer> {
    servers_in(Path::new("/proc"))
}

fn servers_in(proc: &Path) -> Vec<RunningServer> {
    let mut servers: Vec<RunningServer> = Vec::new();
    let Ok(entries) = fs::read_dir(proc) else { return servers };
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let process = proc.join(pid.to_string());
        // A process may end while we look: what cannot be read is not a running server.
        let is_postgres = fs::read_to_string(process.join("comm"))
            .is_ok_and(|name| matches!(name.trim_end(), "postgres" | "postmaster"));
        if !is_postgres {
            continue;
        }
        let Ok(data_directory) = fs::read_link(process.join("cwd")) else { continue };
        if data_directory.join("PG_VERSION").exists()
            && !servers.iter().any(|server| server.data_directory == data_directory)
        {
            servers.push(RunningServer { pid, data_directory });
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn process(proc: &Path, pid: u32, name: &str, cwd: &Path) {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
        symlink(cwd, directory.join("cwd")).unwrap();
    }

    #[test]
    fn finds_each_data_directory_once() {
        let scratch = tempfile::tempdir().unwrap();
        let (proc, data, other) =
            (scratch.path().join("proc"), scratch.path().join("data"), scratch.path().join("other"));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        process(&proc, 20, "postgres", &data);
        process(&proc, 10, "postgres", &data);
        process(&proc, 30, "bash", &data);
        process(&proc, 40, "postgres", &other);
        fs::create_dir_all(proc.join("self")).unwrap();
        assert_eq!(servers_in(&proc), [RunningServer { pid: 10, data_directory: data }]);
    }

    #[test]
    fn overlap_is_mutual_and_by_whole_names() {
        let server = RunningServer { pid: 1, data_directory: "/srv/pg/main".into() };
        for path in ["/srv/pg/main", "/srv/pg", "/srv/pg/main/base/new", "/"] {
            assert!(server.overlaps(Path::new(path)), "{path}");
        }
        for path in ["/srv/pg/main2", "/srv/pg/mai", "/srv/other"] {
            assert!(!server.overlaps(Path::new(path)), "{path}");
        }
    }
}
