//! The files of a listing, in little memory: a cluster of 100,000 relations has some 300,000 files.

use std::cmp::Ordering;

use pitr::repository::backup::StoredPath;
use pitr::repository::backup::path::InvalidStoredPath;

/// What a file is to the server, as far as copying it depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Pages of a relation.
    Relation,
    /// `pg_filenode.map`: carries a checksum of its own, and its database is lost without it.
    FilenodeMap,
    /// `PG_VERSION`: without it, what it stands in is lost.
    Version,
    Other,
}

/// One file to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    pub path: StoredPath,
    pub kind: FileKind,
    pub size: u64,
    pub mode: u32,
    pub mtime: i64,
}

/// Place of a directory in a [`FileList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryIndex(u32);

#[derive(Debug)]
struct Slot {
    directory: DirectoryIndex,
    name_start: u32,
    name_bytes: u16,
    mode: u16,
    kind: FileKind,
    size: u64,
    mtime: i64,
}

/// Files in the order of their paths.
#[derive(Debug, Default)]
pub struct FileList {
    /// Stored paths with a `/` at the end; the data directory is the empty text.
    directories: Vec<String>,
    /// Stored names, one behind the other.
    names: String,
    slots: Vec<Slot>,
}

impl FileList {
    pub(super) fn add_directory(&mut self, path: Option<&StoredPath>) -> DirectoryIndex {
        let index = u32::try_from(self.directories.len()).unwrap_or(u32::MAX);
        self.directories.push(path.map_or_else(String::new, |path| format!("{path}/")));
        DirectoryIndex(index)
    }

    /// `name` is a single part of a path.
    pub(super) fn push(&mut self, directory: DirectoryIndex, name: &StoredPath, file: &Stat, kind: FileKind) {
        let slot = Slot {
            directory,
            name_start: u32::try_from(self.names.len()).unwrap_or(u32::MAX),
            name_bytes: u16::try_from(name.as_str().len()).unwrap_or(u16::MAX),
            mode: u16::try_from(file.mode & 0o7777).unwrap_or(0),
            kind,
            size: file.size,
            mtime: file.mtime,
        };
        self.names.push_str(name.as_str());
        self.slots.push(slot);
    }

    /// A list without a disk behind it.
    #[cfg(test)]
    pub(crate) fn of(files: impl Iterator<Item = (String, u64, FileKind)>) -> Self {
        let mut list = Self::default();
        let root = list.add_directory(None);
        for (path, size, kind) in files {
            let path = StoredPath::try_from(path).unwrap();
            list.push(root, &path, &Stat { size, mode: 0o600, mtime: 0 }, kind);
        }
        list.finish();
        list
    }

    pub(super) fn finish(&mut self) {
        let mut slots = std::mem::take(&mut self.slots);
        slots.sort_unstable_by(|a, b| self.compare(a, b));
        slots.shrink_to_fit();
        self.slots = slots;
    }

    fn compare(&self, a: &Slot, b: &Slot) -> Ordering {
        if a.directory == b.directory {
            return self.name(a).cmp(self.name(b));
        }
        let bytes = |slot| self.directory(slot).bytes().chain(self.name(slot).bytes());
        bytes(a).cmp(bytes(b))
    }

    fn directory(&self, slot: &Slot) -> &str {
        self.directories.get(slot.directory.0 as usize).map_or("", String::as_str)
    }

    fn name(&self, slot: &Slot) -> &str {
        let start = slot.name_start as usize;
        self.names.get(start..start + usize::from(slot.name_bytes)).unwrap_or("")
    }

    fn file(&self, slot: &Slot) -> Result<ListedFile, InvalidStoredPath> {
        let path = StoredPath::try_from(format!("{}{}", self.directory(slot), self.name(slot)))?;
        Ok(ListedFile { path, kind: slot.kind, size: slot.size, mode: u32::from(slot.mode), mtime: slot.mtime })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.size).sum()
    }

    /// The file at `index`; none beyond the end.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "parts were stored paths when they were added")]
    pub fn get(&self, index: usize) -> Option<ListedFile> {
        let slot = self.slots.get(index)?;
        Some(self.file(slot).expect("made of stored paths"))
    }

    pub fn iter(&self) -> impl Iterator<Item = ListedFile> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }
}

/// What of `stat` a listing keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: i64,
}
