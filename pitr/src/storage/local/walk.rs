//! Listing: a walk through the directories in the order of the keys.

use std::ffi::OsString;
use std::sync::Arc;
use std::vec;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::super::{Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, Operation, Result};
use super::root::{Root, meta, unfit};
use super::{blocking, failed};
use crate::fs::{Directory, EntryType};

/// Objects of one hand-over from the blocking threads.
const BATCH: usize = 512;

/// A directory that file systems bring along in their root; it belongs to root and cannot be read.
const FSCK_DIRECTORY: &str = "lost+found";

/// Memory is that of the names of one directory per level.
pub(super) fn list(root: Arc<Root>, prefix: KeyPrefix) -> BoxStream<'static, Result<ObjectMeta>> {
    let first = stream::once(async move {
        let shown = prefix.to_string();
        blocking(Operation::List, shown, move || Walk::start(&root, &prefix)).await
    });
    first
        .map_ok(|walk| {
            stream::try_unfold(walk, |mut walk| async move {
                let shown = walk.prefix.clone();
                blocking(Operation::List, shown, move || {
                    let batch = walk.next_batch()?;
                    Ok((!batch.is_empty()).then_some((batch, walk)))
                })
                .await
            })
        })
        .try_flatten()
        .map_ok(|batch| stream::iter(batch.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}

impl Root {
    pub(super) fn children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        let Some(directory) = self.directory_of_prefix(prefix)? else { return Ok(Vec::new()) };
        let mut children = Vec::new();
        for entry in read(&directory, prefix.as_str())? {
            if let Entry::Directory(child) = entry {
                let levels = enter(&directory, child.as_str())?.into_iter().collect();
                // A directory without a file in it is not the beginning of any key.
                if (Walk { prefix: child.clone(), levels }).next()?.is_some() {
                    children.push(child);
                }
            }
        }
        Ok(children)
    }

    fn directory_of_prefix(&self, prefix: &KeyPrefix) -> Result<Option<Directory>> {
        let parts = prefix.as_str().split('/').filter(|part| !part.is_empty());
        self.existing_directory(Operation::List, prefix, parts)
    }
}

/// A name in a directory, as the key or the prefix that it stands for.
enum Entry {
    File(ObjectKey),
    Directory(KeyPrefix),
}

impl Entry {
    fn as_str(&self) -> &str {
        match self {
            Self::File(key) => key.as_str(),
            Self::Directory(prefix) => prefix.as_str(),
        }
    }
}

struct Level {
    directory: Directory,
    entries: vec::IntoIter<Entry>,
}

struct Walk {
    prefix: KeyPrefix,
    levels: Vec<Level>,
}

impl Walk {
    fn start(root: &Root, prefix: &KeyPrefix) -> Result<Self> {
        let mut levels = Vec::new();
        if let Some(directory) = root.directory_of_prefix(prefix)? {
            let entries = read(&directory, prefix.as_str())?.into_iter();
            levels.push(Level { directory, entries });
        }
        Ok(Self { prefix: prefix.clone(), levels })
    }

    fn next_batch(&mut self) -> Result<Vec<ObjectMeta>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match self.next()? {
                Some(meta) => batch.push(meta),
                None => break,
            }
        }
        Ok(batch)
    }

    fn next(&mut self) -> Result<Option<ObjectMeta>> {
        while let Some(level) = self.levels.last_mut() {
            match level.entries.next() {
                None => {
                    self.levels.pop();
                }
                Some(Entry::File(key)) => match level.directory.status(key.file_name()) {
                    Ok(status) => return Ok(Some(meta(key, &status))),
                    // Deleted since the directory was read.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(failed(Operation::List, key, error)),
                },
                Some(Entry::Directory(prefix)) => {
                    let below = enter(&level.directory, prefix.as_str())?;
                    self.levels.extend(below);
                }
            }
        }
        Ok(None)
    }
}

/// The directory that `prefix` names in `parent`; none when it has gone since `parent` was read.
fn enter(parent: &Directory, prefix: &str) -> Result<Option<Level>> {
    let name = prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match parent.open_dir(name) {
        Ok(directory) => {
            let entries = read(&directory, prefix)?.into_iter();
            Ok(Some(Level { directory, entries }))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(failed(Operation::List, prefix, error)),
    }
}

/// The entries of a directory in the order of the keys below them: a directory sorts as if its name ended in a slash.
fn read(directory: &Directory, prefix: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (name, entry_type) in directory.entries().map_err(|error| failed(Operation::List, prefix, error))? {
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let fsck = prefix.is_empty() && name == FSCK_DIRECTORY && entry_type == EntryType::Directory;
        if !hidden && !fsck {
            entries.push(entry(directory, prefix, &name, entry_type)?);
        }
    }
    entries.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(entries)
}

fn entry(directory: &Directory, prefix: &str, name: &OsString, entry_type: EntryType) -> Result<Entry> {
    let foreign = || {
        let reason = format!("\"{}\" is no object of a repository", directory.path_of(name).display());
        Error::new(ErrorKind::Corrupt, Operation::List, prefix, reason)
    };
    let name_text = name.to_str().ok_or_else(foreign)?;
    match entry_type {
        EntryType::File => ObjectKey::new(format!("{prefix}{name_text}")).map(Entry::File).map_err(|_| foreign()),
        EntryType::Directory => {
            KeyPrefix::new(format!("{prefix}{name_text}/")).map(Entry::Directory).map_err(|_| foreign())
        }
        EntryType::Symlink | EntryType::Other => Err(unfit(Operation::List, prefix, &directory.path_of(name))),
    }
}
