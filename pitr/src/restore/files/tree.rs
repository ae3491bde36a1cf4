//! The directories of a restored cluster, by the paths that a backup stores.
//!
//! Names are looked up from the directories that the restore holds open, part by part and without following symbolic
//! links: whatever a damaged map says, nothing is written outside them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;

use crate::fs::{Action, Directory, EntryType, Error, Result};
use crate::repository::backup::StoredPath;
use crate::restore::destination::PreparedDestination;

/// Directories that stay open.
const OPEN_DIRECTORIES: usize = 64;

/// Where files of a backup go.
#[derive(Debug)]
pub(crate) struct Tree {
    data_directory: Arc<Directory>,
    tablespaces: BTreeMap<u32, Arc<Directory>>,
    owner: Option<(u32, u32)>,
    /// Whether files may be there, which then make way.
    reuses_files: bool,
    open: Mutex<HashMap<String, Arc<Directory>>>,
}

/// A name in an open directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: Arc<Directory>,
    pub(super) name: OsString,
}

impl Place {
    /// Removes what has the name, unless `may_stay`. What a symbolic link leads to is left alone.
    ///
    /// # Errors
    /// What the system says, but for the name being free.
    pub(super) fn make_way(&self, may_stay: impl Fn(EntryType) -> bool) -> Result<()> {
        match self.directory.status(&self.name) {
            Ok(status) if may_stay(status.entry_type) => Ok(()),
            Ok(status) => remove(&self.directory, &self.name, status.entry_type),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes a name and all that is below it, through no symbolic link.
///
/// # Errors
/// What the system says.
pub(super) fn remove(directory: &Directory, name: &OsStr, entry_type: EntryType) -> Result<()> {
    if entry_type != EntryType::Directory {
        return directory.remove_file(name);
    }
    let path = directory.path_of(name);
    std::fs::remove_dir_all(&path).map_err(|error| Error::new(Action::Remove, path, error))
}

impl Tree {
    pub(crate) fn new(destination: &PreparedDestination) -> Self {
        Self {
            data_directory: Arc::clone(destination.data_directory()),
            tablespaces: destination.tablespaces().map(|(oid, directory)| (oid, Arc::clone(directory))).collect(),
            owner: destination.owner(),
            reuses_files: destination.reuses_files(),
            open: Mutex::default(),
        }
    }

    pub(super) const fn reuses_files(&self) -> bool {
        self.reuses_files
    }

    pub(super) const fn data_directory(&self) -> &Arc<Directory> {
        &self.data_directory
    }

    pub(super) fn tablespaces(&self) -> impl Iterator<Item = (u32, &Arc<Directory>)> {
        self.tablespaces.iter().map(|(oid, directory)| (*oid, directory))
    }

    pub(in crate::restore) fn roots(&self) -> impl Iterator<Item = &Arc<Directory>> {
        std::iter::once(&self.data_directory).chain(self.tablespaces.values())
    }

    /// The root that `path` is under, and the rest of it; none for the rest where `path` is the root of a tablespace.
    fn root_of<'a>(&self, path: &'a Path) -> (&Arc<Directory>, Option<&'a Path>) {
        let within = path.strip_prefix("pg_tblspc").ok().and_then(|rest| {
            let oid = rest.components().next()?.as_os_str();
            let directory = self.tablespaces.get(&oid.to_str()?.parse::<u32>().ok()?)?;
            Some((directory, rest.strip_prefix(oid).ok()?))
        });
        match within {
            Some((directory, rest)) => (directory, (rest != Path::new("")).then_some(rest)),
            None => (&self.data_directory, Some(path)),
        }
    }

    /// The open directory that `path` stands in.
    ///
    /// # Errors
    /// A directory on the way that is missing or is a symbolic link.
    pub(super) fn place(&self, path: &StoredPath) -> Result<Place> {
        let (parent, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
        let whole = path.to_path();
        let name = whole.file_name().unwrap_or_else(|| OsStr::new(name)).to_owned();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = open.get(parent) {
            return Ok(Place { directory: Arc::clone(directory), name });
        }
        let (root, rest) = self.root_of(&whole);
        let mut directory = Arc::clone(root);
        for part in rest.and_then(Path::parent).into_iter().flat_map(Path::components) {
            if let Component::Normal(part) = part {
                directory = Arc::new(directory.open_dir(part)?);
            }
        }
        if open.len() >= OPEN_DIRECTORIES {
            open.clear();
        }
        open.insert(parent.to_owned(), Arc::clone(&directory));
        Ok(Place { directory, name })
    }

    /// Makes the directory `path`; one that is there gets the mode.
    ///
    /// # Errors
    /// What `mkdir(2)` says.
    pub(crate) fn make_directory(&self, path: &StoredPath, mode: u32) -> Result<()> {
        if self.root_of(&path.to_path()).1.is_none() {
            return Ok(()); // the destination made it
        }
        let place = self.place(path)?;
        // We write into it, so it has to be open to its owner, whatever the original was.
        let mode = mode & 0o7777 | 0o700;
        if self.reuses_files {
            // A link in its place may lead anywhere.
            place.make_way(|found| found == EntryType::Directory)?;
        }
        place.directory.make_dir(&place.name, mode)?;
        let directory = place.directory.open_dir(&place.name)?;
        self.give(&directory, || directory.path().to_owned())?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))
            .map_err(|errno| Error::new(Action::Change, directory.path(), errno))
    }

    /// Makes the symbolic link `path`, unless a directory or, in a directory that was empty, something else has that name
    /// already.
    ///
    /// # Errors
    /// What `symlink(2)` says, but for the name being taken.
    pub(crate) fn make_link(&self, path: &StoredPath, target: &str) -> Result<bool> {
        let place = self.place(path)?;
        self.link_at(&place, target)
    }

    /// Links `pg_tblspc/<oid>` to where the tablespace is. The server makes these links anew from `tablespace_map`; until
    /// then they serve whoever looks.
    ///
    /// # Errors
    /// What `symlink(2)` says.
    pub(crate) fn make_tablespace_links(&self) -> Result<()> {
        if self.tablespaces.is_empty() {
            return Ok(());
        }
        let links = Arc::new(self.data_directory.open_dir("pg_tblspc")?);
        for (oid, directory) in &self.tablespaces {
            let place = Place { directory: Arc::clone(&links), name: oid.to_string().into() };
            self.link_at(&place, directory.path())?;
        }
        Ok(())
    }

    fn link_at(&self, place: &Place, target: impl AsRef<Path>) -> Result<bool> {
        let failed = |action, errno| Error::new(action, place.directory.path_of(&place.name), errno);
        if self.reuses_files {
            place.make_way(|found| found == EntryType::Directory)?;
        }
        match rustix::fs::symlinkat(target.as_ref(), &place.directory, &place.name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(failed(Action::Create, errno)),
        }
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(&place.directory, &place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed(Action::Change, errno))?;
        }
        Ok(true)
    }

    /// Gives an open file or directory to the owner of the cluster.
    ///
    /// # Errors
    /// What `chown(2)` says.
    pub(super) fn give(&self, file: impl std::os::fd::AsFd, path: impl FnOnce() -> std::path::PathBuf) -> Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|errno| Error::new(Action::Change, path(), errno))
    }
}
