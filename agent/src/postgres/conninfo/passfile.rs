//! The password file (`~/.pgpass`): lines of `host:port:database:user:password`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pitr::secret::Secret;

use super::Endpoint;

/// No passfile of a sane size is larger.
const MAX_BYTES: u64 = 1 << 20;

/// A passfile that exists and cannot be used. libpq warns and goes on without; a daemon would then fail to log in for a
/// reason that nobody sees.
#[derive(Debug, thiserror::Error)]
pub enum PassfileError {
    #[error("the password file \"{}\" can be read by others, its mode must be 0600 or less", .0.display())]
    TooOpen(PathBuf),
    #[error("the password file \"{}\" is not a plain file of at most 1 MiB", .0.display())]
    NotAFile(PathBuf),
    #[error("the password file \"{}\" cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// The password of `user` for `database` at `endpoint`; none where the file does not exist or has no line for them.
/// Replication connections ask for the database `replication`. Blocks.
///
/// # Errors
/// The file exists and cannot be used.
pub fn find_password(
    path: &Path,
    endpoint: &Endpoint,
    database: &str,
    user: &str,
) -> Result<Option<Secret<String>>, PassfileError> {
    let unreadable = |source| PassfileError::Unreadable { path: path.to_owned(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // A home that this user cannot enter, left over from whoever started us, holds no password of ours.
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() || metadata.size() > MAX_BYTES {
        return Err(PassfileError::NotAFile(path.to_owned()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(PassfileError::TooOpen(path.to_owned()));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Ok(look_up(&text, endpoint, database, user).map(Secret::new))
}

fn look_up(text: &str, endpoint: &Endpoint, database: &str, user: &str) -> Option<String> {
    // For a socket libpq looks for "localhost" when it is in the default directory, else for the directory.
    let host = match endpoint.host.as_str() {
        super::DEFAULT_HOST | "/tmp" => "localhost",
        host => host,
    };
    let port = endpoint.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in [host, port.as_str(), database, user] {
            let (field, after) = field(rest)?;
            if field != "*" && unescape(field) != wanted {
                return None;
            }
            rest = after;
        }
        let password = unescape(rest.trim_end_matches('\r'));
        (!password.is_empty()).then_some(password)
    })
}

/// The text up to the next colon that no backslash protects, and what follows it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), hostaddr: None, port: 5432 }
    }

    #[test]
    fn first_line_that_fits_wins() {
        let text = "# db:*:*:*:comment\ndb:5433:*:backup:other port\ndb:*:replication:backup:p\\:w\\\\\n\
                    *:*:*:*:any\nshort:line\n";
        let find = |host: &str, database: &str| look_up(text, &endpoint(host), database, "backup");
        assert_eq!(find("db", "replication").as_deref(), Some("p:w\\"));
        assert_eq!(find("db", "postgres").as_deref(), Some("any"));
        assert_eq!(look_up("db:5432:*:a\\:b:x", &endpoint("db"), "d", "a:b").as_deref(), Some("x"));
        assert_eq!(look_up("localhost:5432:*:u:x", &endpoint("/var/run/postgresql"), "d", "u").as_deref(), Some("x"));
        assert_eq!(look_up("db:5432:*:u:", &endpoint("db"), "d", "u"), None);
    }

    #[test]
    fn refuses_a_file_that_others_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        assert!(find_password(&path, &endpoint("db"), "d", "u").unwrap().is_none());
        fs::write(&path, "db:*:*:u:secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(find_password(&path, &endpoint("db"), "d", "u"), Err(PassfileError::TooOpen(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let found = find_password(&path, &endpoint("db"), "d", "u").unwrap().unwrap();
        assert_eq!(found.expose(), "secret");
    }
}
