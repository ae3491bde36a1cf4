//! Objects as files below a root directory.
//!
//! The object `a/b/c` is the file `a/b/c`. Files are staged in `.tmp` in the root and published durably by [`crate::fs`], so a
//! reader never sees a part of an object, and `Ok` from a put means that file and name are on the disk.
//!
//! - **Hidden names**: a name that starts with a dot is no object and is left out of listings, as is `lost+found` in the root,
//!   which a file system of its own brings along. Any other name that is no object key, and anything that is neither a file nor
//!   a directory, makes a listing fail: it would otherwise be incomplete without saying so.
//! - **Symbolic links** below the root are never followed; the root itself may be reached through one.
//! - **Create** is a hard link from the staged file, which never overwrites. **Replace**, overwrite and delete hold a lock
//!   (`flock` on a file in `.tmp` that few directories share, also between processes) while they look and act, but not while
//!   they sync. Whoever waits for it in vain gets an [`ErrorKind::Transient`].
//! - **Crash** between the link and the sync of the directory: the object is visible, yet may be lost with the power. The
//!   staged name is removed only after the sync; [`LocalStore::open`] syncs the file system where it finds one that still
//!   shares its file with an object. So what a reopened store shows is durable.
//! - **Tags** are size, time in nanoseconds and inode. A replacement is always stamped later than what it replaces.
//! - Directories are made on demand and never removed. A missing root is [`ErrorKind::NoContainer`], never made on demand: it
//!   may be a file system that is not mounted.
//!
//! A dropped put runs to its end in the background, and takes effect or not, as a whole.

mod read;
mod root;
mod staging;
mod walk;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use self::root::Root;
use super::{
    ByteRange, Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation, Payload,
    PutMode, Result,
};
use crate::clock::{Clock, SystemClock};
use crate::fs;

/// A directory as an object store.
#[derive(Clone)]
pub struct LocalStore {
    root: Arc<Root>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("root", &self.root.path()).finish()
    }
}

impl LocalStore {
    /// The store in the directory `root`, which exists. Clears up behind processes that died.
    ///
    /// # Errors
    /// [`ErrorKind::NoContainer`] where `root` is missing.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with_clock(root, Arc::new(SystemClock)).await
    }

    /// As [`LocalStore::open`], with another clock.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub async fn open_with_clock(root: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let root = Arc::new(Root::new(root.as_ref().to_owned(), clock));
        let opened = Arc::clone(&root);
        blocking(Operation::Open, root.path().display(), move || opened.settle_staging()).await?;
        Ok(Self { root })
    }

    /// Makes the directory `root` with what is missing above it, durably, and opens it. One that exists is taken as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`], [`ErrorKind::Full`], or [`ErrorKind::Invalid`] where a part of the path is a file.
    pub async fn create(root: impl AsRef<Path>) -> Result<Self> {
        let path = root.as_ref().to_owned();
        let shown = path.display().to_string();
        blocking(Operation::Open, shown.clone(), move || {
            fs::create_dir_all_durable(&path, root::DIRECTORY_MODE)
                .map_err(|error| failed(Operation::Open, shown, error))
        })
        .await?;
        Self::open(root).await
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        let (root, owned) = (Arc::clone(&self.root), key.clone());
        blocking(Operation::Put, key, move || root.put(&owned, &body, &mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let (root, owned) = (Arc::clone(&self.root), key.clone());
        blocking(Operation::Get, key, move || root.open_object(&owned, range)).await.map(read::OpenObject::into_reader)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let (root, owned) = (Arc::clone(&self.root), key.clone());
        blocking(Operation::Head, key, move || root.head(&owned)).await
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        walk::list(Arc::clone(&self.root), prefix.clone())
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        let (root, owned) = (Arc::clone(&self.root), prefix.clone());
        blocking(Operation::List, prefix, move || root.children(&owned)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let (root, owned) = (Arc::clone(&self.root), keys.to_vec());
        let shown = keys.first().map(ToString::to_string).unwrap_or_default();
        blocking(Operation::Delete, shown, move || root.delete(&owned)).await
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    operation: Operation,
    key: impl fmt::Display,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::new(ErrorKind::Cancelled, operation, key, "the runtime is shutting down")),
    }
}

/// The port's words for an error of the file system.
fn failed(operation: Operation, key: impl fmt::Display, error: fs::Error) -> Error {
    let kind = match error.kind() {
        fs::FailureKind::NotFound => ErrorKind::NotFound,
        fs::FailureKind::AlreadyExists => ErrorKind::AlreadyExists,
        fs::FailureKind::Full => ErrorKind::Full,
        fs::FailureKind::Denied => ErrorKind::Denied,
        fs::FailureKind::NotADirectory | fs::FailureKind::Invalid => ErrorKind::Invalid,
        fs::FailureKind::Trouble => ErrorKind::Transient,
    };
    Error::new(kind, operation, key, error.to_string()).with_source(error.into_io())
}

#[cfg(test)]
mod tests;
