//! Why a destination cannot be used.

use std::path::PathBuf;

use crate::fs;

pub type Result<T> = std::result::Result<T, Error>;

/// A destination that is refused. Nothing was written when one of these is returned by a check.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the path \"{}\" is not absolute", path.display())]
    NotAbsolute { path: PathBuf },
    #[error("the directory \"{}\" is not empty, it holds \"{found}\"", path.display())]
    NotEmpty { path: PathBuf, found: String },
    #[error("\"{}\" cannot be reused: {reason}", path.display())]
    NotThisCluster { path: PathBuf, reason: String },
    #[error("\"{}\" holds a \"postmaster.pid\" of process {pid}, which is alive", path.display())]
    ServerInUse { path: PathBuf, pid: u64 },
    #[error("\"{}\" holds what a restore with --delta did not finish", path.display())]
    UnfinishedDelta { path: PathBuf },
    #[error("\"{}\" is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("\"{}\" is within the data directory or tablespace \"{}\" of a PostgreSQL cluster", path.display(), cluster.display())]
    WithinCluster { path: PathBuf, cluster: PathBuf },
    #[error("\"{}\" overlaps \"{}\", the data directory of a running PostgreSQL server (process {pid})", path.display(), data_directory.display())]
    RunningServer { path: PathBuf, data_directory: PathBuf, pid: u32 },
    #[error("the directory \"{}\", in which \"{}\" is to be made, does not exist", parent.display(), path.display())]
    NoParent { path: PathBuf, parent: PathBuf },
    #[error("the directory \"{}\" cannot be written", path.display())]
    NotWritable { path: PathBuf, source: std::io::Error },
    #[error(
        "the file system of \"{}\" has {free_bytes} bytes free, the restore needs {needed_bytes}",
        path.display()
    )]
    NoSpace { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("the backup has no tablespace \"{asked}\"")]
    UnknownTablespace { asked: String, known: Vec<String> },
    #[error("the tablespace \"{asked}\" is mapped twice")]
    MappedTwice { asked: String },
    #[error("\"{}\" and \"{}\" overlap; every tablespace and the data directory need a directory of their own", one.display(), other.display())]
    Overlap { one: PathBuf, other: PathBuf },
    #[error("there is no user \"{name}\" on this host to own the restored files")]
    UnknownOwner { name: String },
    #[error("there is no group \"{name}\" on this host to own the restored files")]
    UnknownGroup { name: String },
    #[error("only root can give the restored files to \"{name}\"; this is user \"{effective}\"")]
    OwnerNotAllowed { name: String, effective: String },
    #[error("another restore is writing to \"{}\"", path.display())]
    Busy { path: PathBuf },
    #[error("the destination could not be examined")]
    Inspect(#[from] fs::Error),
}

impl Error {
    /// What is unharmed, and what to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotAbsolute { .. } => "give the path from the root of the file system".to_owned(),
            Self::NotEmpty { .. } => {
                "nothing was changed; name a directory that is empty or does not exist, or for a tablespace map it \
                 elsewhere with --tablespace OLD=NEW; --delta reuses an old data directory of the same cluster"
                    .to_owned()
            }
            Self::NotThisCluster { .. } => {
                "nothing was changed; --delta reuses the data directory of the same cluster only: name that, or a directory \
                 that is empty or does not exist"
                    .to_owned()
            }
            Self::ServerInUse { .. } => {
                "nothing was changed; stop the server first, or if that process is no PostgreSQL server remove the file"
                    .to_owned()
            }
            Self::UnfinishedDelta { .. } => {
                "nothing was changed; run the restore again with --delta, which finishes it, or name another directory"
                    .to_owned()
            }
            Self::NotADirectory { .. } => "nothing was changed; name a directory".to_owned(),
            Self::WithinCluster { .. } | Self::RunningServer { .. } => {
                "nothing was changed; restore beside the other cluster, into a directory of its own, and its tablespaces \
                 too: --tablespaces-into DIR, or --tablespace OLD=NEW"
                    .to_owned()
            }
            Self::NoParent { parent, .. } => format!("make it first: mkdir -p '{}'", parent.display()),
            Self::NotWritable { .. } => {
                "nothing was changed; run as root or as the directory's owner, or restore elsewhere".to_owned()
            }
            Self::NoSpace { .. } => {
                "nothing was changed; free space, or map tablespaces to another file system with --tablespace"
                    .to_owned()
            }
            Self::UnknownTablespace { known, .. } if known.is_empty() => "it has none at all".to_owned(),
            Self::UnknownTablespace { known, .. } => format!("it has {}", known.join(", ")),
            Self::MappedTwice { .. } => "map every tablespace once, by its location or its OID".to_owned(),
            Self::Overlap { .. } => {
                "nothing was changed; choose directories that are not within one another".to_owned()
            }
            Self::UnknownOwner { .. } | Self::UnknownGroup { .. } => {
                "name the user the server will run as with --owner".to_owned()
            }
            Self::OwnerNotAllowed { .. } => "run as root, or leave out --owner".to_owned(),
            Self::Busy { .. } => "wait until it has ended; nothing was changed".to_owned(),
            Self::Inspect(error) => return error.hint().map(str::to_owned),
        };
        Some(text)
    }
}
