//! Where the agent's socket is when the configuration does not say.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Environment;
use crate::repository::layout::ClusterName;

/// `sizeof(sockaddr_un.sun_path)` without its final zero.
const LONGEST_SOCKET_PATH: usize = 107;
/// `RuntimeDirectory=` of the unit file.
const UNIT_RUNTIME_DIRECTORY: &str = "/run/pitr";

/// What the choice of a socket depends on, as the binary finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlaces {
    /// `RUNTIME_DIRECTORY`, which systemd sets: the first of a list.
    pub runtime_directory: Option<PathBuf>,
    /// `/run/user/UID`, where it exists.
    pub user_directory: Option<PathBuf>,
    pub temporary_directory: PathBuf,
    pub uid: u32,
}

impl SocketPlaces {
    /// The places of the user `uid`. Looks whether `/run/user/UID` is there.
    #[must_use]
    pub fn of(uid: u32, environment: &Environment) -> Self {
        let user_directory = PathBuf::from(format!("/run/user/{uid}"));
        let listed = environment.get("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next());
        Self {
            runtime_directory: listed.map(PathBuf::from),
            user_directory: user_directory.is_dir().then_some(user_directory),
            temporary_directory: environment.get("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
            uid,
        }
    }
}

/// The socket of `cluster`. Its directory may have to be made (0700), except `RUNTIME_DIRECTORY`.
#[must_use]
pub fn default_socket(cluster: &ClusterName, places: &SocketPlaces) -> PathBuf {
    let directory = match (&places.runtime_directory, &places.user_directory) {
        (Some(directory), _) => directory.clone(),
        (None, Some(directory)) => directory.join("pitr"),
        (None, None) => places.temporary_directory.join(format!("pitr-{}", places.uid)),
    };
    directory.join(format!("{cluster}.sock"))
}

/// The socket of `cluster` as somebody else than its agent finds it: the agent of the unit file has a runtime directory that
/// nobody else does.
#[must_use]
pub fn client_socket(cluster: &ClusterName, places: &SocketPlaces) -> PathBuf {
    let own = default_socket(cluster, places);
    let of_unit = Path::new(UNIT_RUNTIME_DIRECTORY).join(format!("{cluster}.sock"));
    if !own.exists() && of_unit.exists() { of_unit } else { own }
}

/// What a configuration says about the socket, read without the rest of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SocketKeys {
    pub cluster: ClusterName,
    #[serde(default)]
    http: HttpKeys,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct HttpKeys {
    socket: Option<PathBuf>,
}

impl SocketKeys {
    /// Reads two keys of a configuration. Whatever else is wrong with it is no matter here: the agent, which has read it
    /// whole, runs.
    ///
    /// # Errors
    /// It is not TOML, or does not name a cluster.
    pub fn read(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.message().replace('\n', ", "))
    }

    /// The socket that the configuration names.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.http.socket.as_deref()
    }
}

pub(super) fn check_length(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        return Err(format!("the path has {length} bytes, a socket's has at most {LONGEST_SOCKET_PATH}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_follows_systemd_then_the_user_then_the_temporary_directory() {
        let cluster = "main".parse().unwrap();
        let mut places = SocketPlaces {
            runtime_directory: Some("/run/pitr".into()),
            user_directory: Some("/run/user/7".into()),
            temporary_directory: "/tmp".into(),
            uid: 7,
        };
        assert_eq!(default_socket(&cluster, &places), Path::new("/run/pitr/main.sock"));
        places.runtime_directory = None;
        assert_eq!(default_socket(&cluster, &places), Path::new("/run/user/7/pitr/main.sock"));
        places.user_directory = None;
        assert_eq!(default_socket(&cluster, &places), Path::new("/tmp/pitr-7/main.sock"));
    }

    #[test]
    fn two_keys_are_read_whatever_else_stands_there() {
        let text =
            "cluster = \"main\"\nnew_key = 1\n[http]\nsocket = \"/srv/pitr.sock\"\ntoken = 3\n[wal]\nsource = \"x\"";
        let keys = SocketKeys::read(text).unwrap();
        assert_eq!((keys.cluster.as_str(), keys.socket()), ("main", Some(Path::new("/srv/pitr.sock"))));
        assert_eq!(SocketKeys::read("cluster = \"main\"").unwrap().socket(), None);
        assert!(SocketKeys::read("[http]\nsocket = \"/s\"").unwrap_err().contains("cluster"));
        assert!(SocketKeys::read("cluster = ").is_err());
    }

    #[test]
    fn places_come_from_the_environment_that_is_passed_in() {
        let environment = Environment::from_iter([("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("TMPDIR", "/var/tmp")]);
        let places = SocketPlaces::of(u32::MAX, &environment);
        assert_eq!(places.runtime_directory.as_deref(), Some(Path::new("/run/a")));
        assert_eq!(places.temporary_directory, Path::new("/var/tmp"));
        assert_eq!(places.user_directory, None);
    }
}
