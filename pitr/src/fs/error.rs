//! What went wrong with a file, told apart by `errno`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What was done to the path when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Open,
    Create,
    Read,
    Write,
    Sync,
    Publish,
    Move,
    Remove,
    Stat,
    List,
    Lock,
    /// Owner, mode or times.
    Change,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Publish => "publish",
            Self::Move => "move",
            Self::Remove => "remove",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Lock => "lock",
            Self::Change => "change",
        })
    }
}

/// The cause, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    NotFound,
    AlreadyExists,
    /// A part of the path is no directory, or is a symbolic link where none may be.
    NotADirectory,
    /// `ENOSPC` or `EDQUOT`.
    Full,
    /// `EACCES`, `EPERM` or a read-only file system.
    Denied,
    /// A name or file that this file system cannot have.
    Invalid,
    /// A device, a network file system or a limit of the machine; it may pass.
    Trouble,
}

/// A failed operation on a path. `Display` leaves out the source, which is the system's own message.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} \"{}\"", path.display())]
pub struct Error {
    action: Action,
    path: PathBuf,
    source: io::Error,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(action: Action, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.into(), source: source.into() }
    }

    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub const fn io(&self) -> &io::Error {
        &self.source
    }

    /// The system's own error alone, for those who tell the rest in their own words.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        self.source
    }

    #[must_use]
    pub fn kind(&self) -> FailureKind {
        let Some(errno) = self.source.raw_os_error() else {
            return match self.source.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                io::ErrorKind::AlreadyExists => FailureKind::AlreadyExists,
                io::ErrorKind::InvalidInput => FailureKind::Invalid,
                _ => FailureKind::Trouble,
            };
        };
        match Errno::from_raw_os_error(errno) {
            Errno::NOENT => FailureKind::NotFound,
            Errno::EXIST => FailureKind::AlreadyExists,
            Errno::NOTDIR | Errno::LOOP => FailureKind::NotADirectory,
            Errno::NOSPC | Errno::DQUOT => FailureKind::Full,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => FailureKind::Denied,
            Errno::NAMETOOLONG | Errno::ISDIR | Errno::INVAL | Errno::FBIG | Errno::OPNOTSUPP | Errno::NOSYS => {
                FailureKind::Invalid
            }
            _ => FailureKind::Trouble,
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == FailureKind::NotFound
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self.kind() {
            FailureKind::Full => Some("free space or raise the quota on that file system, then try again"),
            FailureKind::Denied => {
                Some("check owner and mode of the path, and whether its file system is mounted read-only")
            }
            FailureKind::NotADirectory => {
                Some("a part of the path is a file or a symbolic link where a directory is needed")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_errno() {
        for (errno, kind) in [
            (Errno::NOSPC, FailureKind::Full),
            (Errno::DQUOT, FailureKind::Full),
            (Errno::ACCESS, FailureKind::Denied),
            (Errno::ROFS, FailureKind::Denied),
            (Errno::NOENT, FailureKind::NotFound),
            (Errno::EXIST, FailureKind::AlreadyExists),
            (Errno::LOOP, FailureKind::NotADirectory),
            (Errno::IO, FailureKind::Trouble),
        ] {
            assert_eq!(Error::new(Action::Write, "/x", errno).kind(), kind, "{errno}");
        }
    }

    #[test]
    fn names_the_path_and_leaves_the_cause_to_the_chain() {
        let error = Error::new(Action::Publish, "/srv/a", Errno::NOSPC);
        assert_eq!(error.to_string(), "could not publish \"/srv/a\"");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("No space left"));
    }
}
