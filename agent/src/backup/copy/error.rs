//! What ends a copy.

use std::io;
use std::path::PathBuf;

use pitr::codec;
use pitr::repository::backup::StoredPath;
use pitr::storage;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("could not read \"{}\"", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file without which a database or the cluster is lost.
    #[error("\"{}\" is missing", path.display())]
    Missing { path: PathBuf },
    /// A file with a checksum of its own, which never matched.
    #[error("\"{}\" is damaged: its checksum did not match, however often it was read", path.display())]
    Damaged { path: PathBuf },
    #[error("could not compress")]
    Compress(#[from] codec::Error),
    /// What WAL says cannot be relied on.
    #[error("block {block} of \"{path}\" has changed, and WAL does not say so")]
    Unlike { path: StoredPath, block: u32 },
    /// What is to be shared cannot be read.
    #[error("could not read the earlier backup whose pages are shared")]
    Parent(#[source] pitr::restore::Error),
    #[error("could not store a part of the backup")]
    Store(#[from] storage::Error),
    #[error("a part of the copy ended unexpectedly: {0}")]
    Broken(String),
    #[error("the copy was stopped")]
    Cancelled,
}

impl CopyError {
    pub(crate) fn read(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Read { path: path.into(), source: source.into() }
    }

    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run the agent as the user that owns the data directory")
            }
            Self::Read { .. } => Some("check the kernel's log and the disk of the data directory"),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}
