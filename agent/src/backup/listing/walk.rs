//! The walk itself. Blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pitr::postgres::Fork;
use pitr::postgres::data_directory::{EntryKind, SpecialFile, classify};
use pitr::postgres::relation_file::InitForks;
use pitr::repository::backup::{BackupTablespace, StoredPath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::error::ListingError;
use super::file_list::{DirectoryIndex, FileKind, FileList, Stat};
use super::{DataDirectoryStat, ListedDirectory, ListedLink, Listing, ListingRequest};

type Result<T> = std::result::Result<T, ListingError>;

/// Lists what belongs into a backup.
///
/// # Errors
/// Anything that cannot be read, but for what disappears meanwhile; links that lead somewhere unexpected.
pub fn list(request: &ListingRequest, cancel: &CancellationToken) -> Result<Listing> {
    let root = std::fs::canonicalize(&request.data_directory)
        .map_err(|error| ListingError::io(&request.data_directory, error))?;
    let stat = rustix::fs::stat(&root).map_err(|errno| ListingError::io(&root, errno))?;
    let mut walk = Walk {
        root: root.clone(),
        version_directory: &request.tablespace_version_directory,
        cancel,
        pending: vec![Directory { disk: root, relative: PathBuf::new(), behind_link: false }],
        directories: BTreeMap::new(),
        tablespace_directories: BTreeSet::new(),
        listing: Listing {
            directories: Vec::new(),
            links: Vec::new(),
            files: FileList::default(),
            tablespaces: Vec::new(),
            data_directory: DataDirectoryStat { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 },
            warnings: Vec::new(),
        },
    };
    walk.find_tablespaces()?;
    while let Some(directory) = walk.pending.pop() {
        walk.read(&directory)?;
    }
    Ok(walk.finish())
}

struct Walk<'a> {
    root: PathBuf,
    version_directory: &'a str,
    cancel: &'a CancellationToken,
    pending: Vec<Directory>,
    /// Found so far, with their modes; sorted, parents come first.
    directories: BTreeMap<StoredPath, u32>,
    /// Device and inode of the directories that tablespaces keep their databases in: where one stands within the data
    /// directory, it is reached through its link only.
    tablespace_directories: BTreeSet<(u64, u64)>,
    listing: Listing,
}

/// A directory yet to be read.
struct Directory {
    disk: PathBuf,
    /// Path within the data directory; empty for the data directory itself.
    relative: PathBuf,
    behind_link: bool,
}

/// One name in a directory, looked at.
struct Entry<'a> {
    name: &'a OsStr,
    disk: PathBuf,
    relative: PathBuf,
    /// What the name means for a file.
    kind: EntryKind,
    stat: rustix::fs::Stat,
}

impl Entry<'_> {
    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn stored(&self) -> Result<StoredPath> {
        StoredPath::from_path(&self.relative).map_err(|_| ListingError::Unstorable { path: self.disk.clone() })
    }
}

impl Walk<'_> {
    fn finish(mut self) -> Listing {
        self.listing.files.finish();
        self.listing.directories =
            self.directories.into_iter().map(|(path, mode)| ListedDirectory { path, mode }).collect();
        self.listing.links.sort_by(|a, b| a.path.cmp(&b.path));
        self.listing.tablespaces.sort_by_key(|tablespace| tablespace.oid);
        self.listing
    }

    fn read(&mut self, directory: &Directory) -> Result<()> {
        let Some((handle, names)) = open(directory)? else { return Ok(()) };
        let mut names: Vec<(OsString, EntryKind)> = names
            .into_iter()
            .map(|name| {
                let kind = classify(&directory.relative.join(&name), false);
                (name, kind)
            })
            .collect();
        let mut init_forks = InitForks::default();
        for (_, kind) in &names {
            if let EntryKind::Relation(file) = kind {
                init_forks.note(file.relation, file.fork);
            }
        }
        names.sort_by(|a, b| stat_order(a).cmp(&stat_order(b)));
        let stored = StoredPath::from_path(&directory.relative).ok();
        let index = self.listing.files.add_directory(stored.as_ref());
        for (name, kind) in &names {
            if self.cancel.is_cancelled() {
                return Err(ListingError::Cancelled);
            }
            let Some(entry) = look_at(&handle, directory, name, kind.clone())? else { continue };
            if matches!(kind, EntryKind::Relation(file) if init_forks.resets(file.relation, file.fork)) {
                continue;
            }
            self.take(directory, index, &entry)?;
        }
        Ok(())
    }

    fn take(&mut self, directory: &Directory, index: DirectoryIndex, entry: &Entry<'_>) -> Result<()> {
        match entry.file_type() {
            FileType::Directory => self.enter(directory, entry),
            FileType::Symlink => self.follow(directory, index, entry),
            FileType::RegularFile => self.add_file(index, entry, &entry.stat),
            _ if matches!(entry.kind, EntryKind::Skip(_)) => Ok(()),
            other => {
                let what = match other {
                    FileType::Socket => "socket",
                    FileType::Fifo => "fifo",
                    _ => "device",
                };
                self.listing.warnings.push(format!("left out the {what} \"{}\"", entry.disk.display()));
                Ok(())
            }
        }
    }

    fn add_file(&mut self, index: DirectoryIndex, entry: &Entry<'_>, stat: &rustix::fs::Stat) -> Result<()> {
        let Some(kind) = file_kind(&entry.kind) else { return Ok(()) };
        let name = part(entry.name, &entry.disk)?;
        let stat =
            Stat { size: u64::try_from(stat.st_size).unwrap_or(0), mode: stat.st_mode & 0o7777, mtime: stat.st_mtime };
        self.listing.files.push(index, &name, &stat, kind);
        Ok(())
    }

    /// Takes up a directory, or the link to one.
    fn enter(&mut self, parent: &Directory, entry: &Entry<'_>) -> Result<()> {
        match classify(&entry.relative, true) {
            EntryKind::Skip(_) => return Ok(()),
            EntryKind::TablespaceVersion { directory, .. } if directory != self.version_directory => return Ok(()),
            _ => {}
        }
        let target = match rustix::fs::stat(&entry.disk) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(ListingError::io(&entry.disk, errno)),
        };
        if self.tablespace_directories.contains(&(target.st_dev, target.st_ino)) {
            return Ok(());
        }
        self.directories.insert(entry.stored()?, target.st_mode & 0o7777);
        let behind_link = parent.behind_link || entry.file_type() == FileType::Symlink;
        self.pending.push(Directory { disk: entry.disk.clone(), relative: entry.relative.clone(), behind_link });
        Ok(())
    }

    fn follow(&mut self, parent: &Directory, index: DirectoryIndex, entry: &Entry<'_>) -> Result<()> {
        if matches!(entry.kind, EntryKind::Tablespace { .. }) {
            return Ok(());
        }
        let target = match rustix::fs::stat(&entry.disk) {
            Ok(target) => Some(target),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(ListingError::io(&entry.disk, errno)),
        };
        match target.map(|target| (FileType::from_raw_mode(target.st_mode), target)) {
            Some((FileType::Directory, _)) => {
                match classify(&entry.relative, true) {
                    // Nothing behind the link is copied.
                    EntryKind::Skip(_) | EntryKind::EmptyDirectory => {}
                    _ => self.refuse_strange_links(parent, entry)?,
                }
                self.enter(parent, entry)
            }
            // Below the top such a file holds the server's data; its place elsewhere is of no use to a copy.
            Some((FileType::RegularFile, target)) if !parent.relative.as_os_str().is_empty() => {
                self.add_file(index, entry, &target)
            }
            _ if matches!(entry.kind, EntryKind::Skip(_)) => Ok(()),
            _ => {
                let Some(target) = read_link(&entry.disk)? else { return Ok(()) };
                self.listing.links.push(ListedLink { path: entry.stored()?, target: utf8(target)? });
                Ok(())
            }
        }
    }

    /// Directories behind links are copied as directories, one link deep.
    fn refuse_strange_links(&self, parent: &Directory, entry: &Entry<'_>) -> Result<()> {
        let Some(target) = read_link(&entry.disk)? else { return Ok(()) };
        let target = parent.disk.join(target);
        if std::fs::symlink_metadata(&target).is_ok_and(|target| target.is_symlink()) {
            return Err(ListingError::LinkToLink { path: entry.disk.clone(), target });
        }
        if parent.behind_link {
            return Err(ListingError::LinkBehindLink { path: entry.disk.clone(), parent: parent.disk.clone() });
        }
        match std::fs::canonicalize(&target) {
            Ok(real) if real.starts_with(&self.root) || self.root.starts_with(&real) => {
                Err(ListingError::LinkBack { path: entry.disk.clone(), target: real })
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ListingError::io(&entry.disk, error)),
        }
    }

    /// Tablespaces come first, so that one within the data directory is known by then.
    fn find_tablespaces(&mut self) -> Result<()> {
        let relative = PathBuf::from("pg_tblspc");
        let directory = Directory { disk: self.root.join(&relative), relative, behind_link: false };
        let Some((handle, names)) = open(&directory)? else { return Ok(()) };
        for name in &names {
            let kind = classify(&directory.relative.join(name), true);
            let EntryKind::Tablespace { oid } = kind else { continue };
            let Some(entry) = look_at(&handle, &directory, name, kind)? else { continue };
            let Some(tablespace) = tablespace(oid, &entry)? else { continue };
            if !tablespace.in_place {
                self.enter_tablespace(&entry)?;
            }
            self.listing.tablespaces.push(tablespace);
        }
        Ok(())
    }

    /// Of the directory that a tablespace's link leads to, only what belongs to this version is the cluster's.
    fn enter_tablespace(&mut self, entry: &Entry<'_>) -> Result<()> {
        let disk = entry.disk.join(self.version_directory);
        let relative = entry.relative.join(self.version_directory);
        let target = match rustix::fs::stat(&disk) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(ListingError::io(disk, errno)),
        };
        let stored = StoredPath::from_path(&relative).map_err(|_| ListingError::Unstorable { path: disk.clone() })?;
        self.tablespace_directories.insert((target.st_dev, target.st_ino));
        self.directories.insert(stored, target.st_mode & 0o7777);
        self.pending.push(Directory { disk, relative, behind_link: true });
        Ok(())
    }
}

fn tablespace(oid: u32, entry: &Entry<'_>) -> Result<Option<BackupTablespace>> {
    match entry.file_type() {
        FileType::Directory => {
            let mode = entry.stat.st_mode & 0o7777;
            Ok(Some(BackupTablespace { oid, location: String::new(), in_place: true, mode }))
        }
        FileType::Symlink => {
            let Some(location) = read_link(&entry.disk)? else { return Ok(None) };
            let mode = match rustix::fs::stat(&entry.disk) {
                Ok(target) => target.st_mode & 0o7777,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(ListingError::io(&entry.disk, errno)),
            };
            Ok(Some(BackupTablespace { oid, location: utf8(location)?, in_place: false, mode }))
        }
        _ => Ok(None),
    }
}

/// Opens a directory and reads its names; none where it is gone.
fn open(directory: &Directory) -> Result<Option<(OwnedFd, Vec<OsString>)>> {
    let failed = |errno: Errno| ListingError::io(&directory.disk, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = match rustix::fs::open(&directory.disk, flags, Mode::empty()) {
        Ok(handle) => handle,
        // A database or tablespace that was dropped; the data directory itself has no parent to be gone from.
        Err(Errno::NOENT) if !directory.relative.as_os_str().is_empty() => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&handle).map_err(failed)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT) if !directory.relative.as_os_str().is_empty() => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(Some((handle, names)))
}

fn look_at<'a>(handle: &OwnedFd, directory: &Directory, name: &'a OsStr, kind: EntryKind) -> Result<Option<Entry<'a>>> {
    let disk = directory.disk.join(name);
    match rustix::fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Entry { name, disk, relative: directory.relative.join(name), kind, stat })),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(ListingError::io(disk, errno)),
    }
}

/// The files of a relation from the first to the last; everything else by name.
fn stat_order((name, kind): &(OsString, EntryKind)) -> (Option<(u32, Fork, u32)>, &OsStr) {
    match kind {
        EntryKind::Relation(file) => (Some((file.relation.relfilenode, file.fork, file.segment)), name),
        _ => (None, name),
    }
}

/// None where the file does not belong into the listing.
fn file_kind(kind: &EntryKind) -> Option<FileKind> {
    match kind {
        EntryKind::Skip(_) | EntryKind::Special(SpecialFile::ControlFile) => None,
        EntryKind::Relation(_) => Some(FileKind::Relation),
        EntryKind::Special(SpecialFile::RelationMap) => Some(FileKind::FilenodeMap),
        EntryKind::Special(SpecialFile::Version) => Some(FileKind::Version),
        _ => Some(FileKind::Other),
    }
}

/// None where the link is gone, or no link any more.
fn read_link(path: &Path) -> Result<Option<PathBuf>> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput) => {
            Ok(None)
        }
        Err(error) => Err(ListingError::io(path, error)),
    }
}

fn utf8(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| ListingError::NotUtf8 { path: path.into() })
}

fn part(name: &OsStr, disk: &Path) -> Result<StoredPath> {
    StoredPath::from_path(Path::new(name)).map_err(|_| ListingError::Unstorable { path: disk.to_owned() })
}
