//! The copy: directories, files, links, and the steps that make all of it durable before it can start.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::contents::Contents;
use super::destination::PreparedDestination;
use super::files::{FileSystems, Removed, Transfer, TransferOptions, Tree};
use super::progress::{Phase, ProgressSender};
use super::{Error, Result};
use crate::postgres::control_file::ControlFile;
use crate::repository::LineageStore;
use crate::repository::backup::StoredPath;

/// Directories that a server needs and a backup leaves empty, or leaves out (`basebackup.c`, `excludeDirContents`).
const NEEDED_DIRECTORIES: [&str; 11] = [
    "global",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
];

/// A copy that is under way.
#[derive(Debug)]
pub(super) struct FileCopy {
    tree: Arc<Tree>,
    file_systems: FileSystems,
    reuses_files: bool,
}

/// What a copy brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    /// The content of `global/pg_control`, which is not written yet.
    pub(super) control_file: Vec<u8>,
    pub(super) notes: Vec<String>,
    /// Of what an old cluster had.
    pub(super) removed: Removed,
}

impl FileCopy {
    /// # Errors
    /// The destination cannot be opened.
    pub(super) fn new(destination: &PreparedDestination) -> Result<Self> {
        let tree = Arc::new(Tree::new(destination));
        let file_systems = FileSystems::open(tree.roots())?;
        Ok(Self { tree, file_systems, reuses_files: destination.reuses_files() })
    }

    /// Writes everything but `global/pg_control`. Nothing is durable yet.
    ///
    /// # Errors
    /// [`Error::Interrupted`], what the repository or the destination says, or damage.
    pub(super) async fn write(
        &self,
        lineage: &LineageStore,
        contents: &Arc<Contents>,
        options: TransferOptions,
        progress: &ProgressSender,
        cancel: &CancellationToken,
    ) -> Result<Copied> {
        progress.phase(Phase::Copying);
        let (tree, listed) = (Arc::clone(&self.tree), Arc::clone(contents));
        blocking(move || make_directories(&tree, &listed)).await?;
        let transfer = Transfer::new(lineage.clone(), Arc::clone(&self.tree), options, progress.clone(), cancel);
        let control_file = transfer.run(contents).await?.ok_or_else(|| Error::Damaged {
            object: lineage.layout().root().to_string(),
            reason: "holds no \"global/pg_control\" of this backup".to_owned(),
        })?;
        let removed = if self.reuses_files {
            let (listed, version) = (Arc::clone(contents), version_directory(&control_file)?);
            blocking(move || transfer.remove_surplus(other_paths(&listed).iter(), &version)).await?
        } else {
            Removed::default()
        };
        let (tree, listed) = (Arc::clone(&self.tree), Arc::clone(contents));
        let notes = blocking(move || make_links(&tree, &listed)).await?;
        Ok(Copied { control_file, notes, removed })
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// Something may not have reached the disk.
    pub(super) async fn sync(self, progress: &ProgressSender) -> Result<()> {
        progress.phase(Phase::Syncing);
        blocking(move || Ok(self.file_systems.sync(self.tree.roots())?)).await
    }
}

/// Runs what blocks off the async threads; it is never left running.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::panicked(&error))?
}

/// What the cluster has in each of its tablespaces (`TABLESPACE_VERSION_DIRECTORY`).
fn version_directory(control_file: &[u8]) -> Result<String> {
    let control = ControlFile::parse(control_file)
        .map_err(|error| Error::Damaged { object: "global/pg_control".to_owned(), reason: error.to_string() })?;
    Ok(format!("PG_{}_{}", control.major, control.catalog_version))
}

/// Everything of the backup that is no file.
fn other_paths(contents: &Contents) -> Vec<StoredPath> {
    let directories = contents.directories.iter().map(|(path, _)| path.clone());
    let links = contents.links.iter().map(|(path, _)| path.clone());
    directories.chain(links).chain(needed_directories()).collect()
}

fn make_directories(tree: &Tree, contents: &Contents) -> Result<()> {
    for (path, mode) in &contents.directories {
        tree.make_directory(path, *mode)?;
    }
    for path in needed_directories() {
        if !contents.directories.iter().any(|(listed, _)| *listed == path) {
            tree.make_directory(&path, 0o700)?;
        }
    }
    Ok(())
}

fn needed_directories() -> impl Iterator<Item = StoredPath> {
    NEEDED_DIRECTORIES.iter().filter_map(|path| StoredPath::try_from((*path).to_owned()).ok())
}

/// Links last: no file is written through one. Those that lead out of the data directory are worth a word, because a copy
/// then shares with its origin what they lead to.
fn make_links(tree: &Tree, contents: &Contents) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (path, target) in &contents.links {
        if !tree.make_link(path, target)? {
            notes.push(format!("\"{path}\" was a symbolic link to \"{target}\" and is a directory here"));
        } else if target.starts_with('/') {
            notes.push(format!("\"{path}\" is a symbolic link to \"{target}\", as it was in the original"));
        }
    }
    tree.make_tablespace_links()?;
    Ok(notes)
}
