//! `postmaster.pid`: where the server of a data directory listens.

use std::path::{Path, PathBuf};

use crate::postgres::ConnInfo;
use crate::postgres::conninfo::Endpoint;

/// What the file says, as far as it matters here (`LOCK_FILE_LINE_*` in `pidfile.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterFile {
    pub pid: u32,
    pub port: u16,
    /// None where the server listens on no socket.
    pub socket_directory: Option<PathBuf>,
}

impl PostmasterFile {
    /// Reads the file of a running server; none where there is none, or the server is just starting.
    #[must_use]
    pub fn read(data_directory: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let port = lines.nth(2)?.trim().parse().ok()?;
        let socket_directory = lines.next().map(str::trim).filter(|directory| directory.starts_with('/'));
        Some(Self { pid, port, socket_directory: socket_directory.map(PathBuf::from) })
    }

    /// The same login straight to this server, past anything that stands in the way of a session of its own. None where it
    /// has no socket.
    #[must_use]
    pub fn direct(&self, conninfo: &ConnInfo) -> Option<ConnInfo> {
        let host = self.socket_directory.as_ref()?.to_str()?.to_owned();
        let mut direct = conninfo.clone();
        direct.endpoints = vec![Endpoint { host, hostaddr: None, port: self.port }];
        Some(direct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::conninfo::Environment;

    const FILE: &str =
        "4711\n/var/lib/postgresql/15/main\n1790000000\n5433\n/var/run/postgresql\nlocalhost\n 12 34\nready\n";

    #[test]
    fn leads_straight_to_the_socket() {
        let file = PostmasterFile::parse(FILE).unwrap();
        let directory = PathBuf::from("/var/run/postgresql");
        assert_eq!(file, PostmasterFile { pid: 4711, port: 5433, socket_directory: Some(directory) });
        let pooler = ConnInfo::parse("host=127.0.0.1 port=6432 user=pitr", &Environment::default()).unwrap();
        let direct = file.direct(&pooler).unwrap();
        assert_eq!(direct.endpoints.len(), 1);
        assert_eq!((direct.endpoints[0].host.as_str(), direct.endpoints[0].port), ("/var/run/postgresql", 5433));
        assert_eq!(direct.user, "pitr");
    }

    #[test]
    fn a_server_without_a_socket_or_still_starting_leads_nowhere() {
        let file = PostmasterFile::parse(&FILE.replace("/var/run/postgresql\n", "\n")).unwrap();
        assert_eq!(file.socket_directory, None);
        for text in ["", "4711\n", "4711\n/data\n1790000000\n", "x\n/data\n1\n5432\n\n"] {
            assert_eq!(PostmasterFile::parse(text), None, "{text:?}");
        }
    }
}
