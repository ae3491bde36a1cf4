//! What keeps a data directory from being listed.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    #[error("could not read \"{}\"", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the symbolic link \"{}\" leads to another link, \"{}\"", path.display(), target.display())]
    LinkToLink { path: PathBuf, target: PathBuf },
    #[error("the symbolic link \"{}\" leads back into the data directory, to \"{}\"", path.display(), target.display())]
    LinkBack { path: PathBuf, target: PathBuf },
    #[error("the symbolic link \"{}\" stands in \"{}\", which is behind a link itself", path.display(), parent.display())]
    LinkBehindLink { path: PathBuf, parent: PathBuf },
    #[error("the path \"{}\" is not UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("the path \"{}\" cannot be stored in a backup", path.display())]
    Unstorable { path: PathBuf },
    #[error("stopped before the data directory was listed")]
    Cancelled,
}

impl ListingError {
    pub(super) fn io(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.into(), source: source.into() }
    }

    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run the agent as the user that owns the data directory")
            }
            Self::LinkToLink { .. } | Self::LinkBack { .. } | Self::LinkBehindLink { .. } => {
                Some("let the link lead straight to a directory outside the data directory")
            }
            _ => None,
        }
    }
}
