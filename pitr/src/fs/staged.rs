//! A file that is written in full before it gets its name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::{Action, Directory, Error, FileStatus, Result};

/// What publishing does where the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Fail with [`FailureKind::AlreadyExists`](super::FailureKind::AlreadyExists); never overwrite, whoever races.
    New,
    /// Take the place of what is there, in one step.
    Over,
}

/// A file under a temporary name, removed when dropped without having been published.
///
/// While it is open its owner holds a lock (`flock`) on it: [`StagedFile::is_abandoned`] finds the files of dead processes.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    staging: Directory,
    name: OsString,
    named: bool,
}

/// Whether a file of this name was staged, by whomever, and never published if nobody writes it now.
#[must_use]
pub fn is_staging_name(name: &str) -> bool {
    let mut parts = name.rsplitn(4, '.');
    let (tmp, random, pid) = (parts.next(), parts.next(), parts.next());
    tmp == Some("tmp")
        && random.is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
        && parts.next().is_some_and(|stem| stem.starts_with('.'))
}

impl StagedFile {
    /// A new file in `staging`, which must be in the same file system as its final place.
    ///
    /// # Errors
    /// What `open(2)` says.
    pub fn create(staging: Directory, mode: u32) -> Result<Self> {
        Self::create_named(staging, "stage", mode)
    }

    /// A new file in the directory of `target`, under a hidden name.
    ///
    /// # Errors
    /// What `open(2)` says; `target` without a file name.
    pub fn beside(target: &Path, mode: u32) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::new(Action::Create, target, io::ErrorKind::InvalidInput))?;
        // Long names are cut: the random end makes the name, this part only tells a person what it was to become.
        let stem: String = name.to_string_lossy().chars().take(40).collect();
        Self::create_named(Directory::open(parent_of(target))?, &format!(".{stem}"), mode)
    }

    fn create_named(staging: Directory, stem: &str, mode: u32) -> Result<Self> {
        loop {
            let name = OsString::from(format!("{stem}.{}.{:016x}.tmp", std::process::id(), rand::random::<u64>()));
            match staging.create_file_exclusively(&name, mode) {
                Ok(file) => {
                    // Best effort: it only spares the file from being taken for a dead process's.
                    let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
                    return Ok(Self { file, staging, name, named: true });
                }
                Err(error) if error.io().kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the process that staged `file` is gone. A file system without locks always answers no.
    #[must_use]
    pub fn is_abandoned(file: &File) -> bool {
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.staging.path_of(&self.name)
    }

    #[must_use]
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// What `write(2)` says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::new(Action::Write, self.path(), error))
    }

    /// Sets when the content was last changed, in nanoseconds since 1970: more exact than the kernel's own stamp, which moves
    /// in steps of some milliseconds.
    ///
    /// # Errors
    /// What `futimens(2)` says.
    pub fn set_modified(&self, modified_ns: u64) -> Result<()> {
        self.file
            .set_modified(UNIX_EPOCH + Duration::from_nanos(modified_ns))
            .map_err(|error| Error::new(Action::Write, self.path(), error))
    }

    /// What `stat(2)` says of it now.
    ///
    /// # Errors
    /// What `fstat(2)` says.
    pub fn status(&self) -> Result<FileStatus> {
        self.staging.status_of_open(&self.name, &self.file)
    }

    /// Makes the content durable; publishing does it too, so this is for those who publish under a lock.
    ///
    /// # Errors
    /// What `fsync(2)` says: the content must then be written again from the start, to another file.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::new(Action::Sync, self.path(), error))
    }

    /// Gives the file its name in `target`, durably: content, then name, then directory.
    ///
    /// # Errors
    /// [`FailureKind::AlreadyExists`](super::FailureKind::AlreadyExists) under [`Publish::New`]; the file that is there is
    /// then durable, so a caller that finds its own content in it may rely on it. After any other error the name may or may
    /// not be there.
    pub fn publish(mut self, target: &Directory, name: impl AsRef<OsStr>, how: Publish) -> Result<()> {
        self.sync()?;
        let named = self.give_name(target, name.as_ref(), how);
        if named.is_ok() || named.as_ref().is_err_and(|error| error.io().kind() == io::ErrorKind::AlreadyExists) {
            // The temporary name goes only after this has succeeded: a file in the staging directory that has a second
            // name is how others see that the second one may not be durable yet.
            if let Err(error) = target.sync() {
                self.named = false;
                return Err(error);
            }
        }
        named
    }

    /// The name only, without any sync.
    ///
    /// # Errors
    /// As [`StagedFile::publish`].
    pub fn give_name(&mut self, target: &Directory, name: &OsStr, how: Publish) -> Result<()> {
        let given = match how {
            Publish::New => self.link(target, name),
            Publish::Over => self.rename(target, name, RenameFlags::empty()),
        };
        given.map_err(|errno| Error::new(Action::Publish, target.path_of(name), errno))
    }

    fn link(&mut self, target: &Directory, name: &OsStr) -> std::result::Result<(), Errno> {
        match rustix::fs::linkat(self.staging.fd(), &self.name, target.fd(), name, AtFlags::empty()) {
            // FAT, some network and FUSE file systems have no hard links; fs.protected_hardlinks does not concern our own file.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                self.rename(target, name, RenameFlags::NOREPLACE)
            }
            linked => linked,
        }
    }

    fn rename(&mut self, target: &Directory, name: &OsStr, flags: RenameFlags) -> std::result::Result<(), Errno> {
        let renamed = if flags.is_empty() {
            rustix::fs::renameat(self.staging.fd(), &self.name, target.fd(), name)
        } else {
            rustix::fs::renameat_with(self.staging.fd(), &self.name, target.fd(), name, flags)
        };
        if renamed.is_ok() {
            self.named = false;
        }
        renamed
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.named {
            // Nothing is lost when this fails: the name is a temporary one and is cleaned up by its age.
            let _ = self.staging.remove_file(&self.name);
        }
    }
}

/// The directory a path stands in: `.` for a bare name.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::fs::FailureKind;

    fn names(path: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = Directory::open(path).unwrap().entries().unwrap().into_iter().map(|e| e.0).collect();
        names.sort();
        names
    }

    fn staged(directory: &Path, content: &[u8]) -> StagedFile {
        let mut staged = StagedFile::create(Directory::open(directory).unwrap(), 0o600).unwrap();
        staged.write(content).unwrap();
        staged
    }

    #[test]
    fn dropped_file_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let file = staged(scratch.path(), b"x");
        assert_eq!(names(scratch.path()).len(), 1);
        drop(file);
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn new_never_overwrites_and_over_does() {
        let scratch = tempfile::tempdir().unwrap();
        let target = Directory::open(scratch.path()).unwrap();
        staged(scratch.path(), b"first").publish(&target, "a", Publish::New).unwrap();
        let error = staged(scratch.path(), b"second").publish(&target, "a", Publish::New).unwrap_err();
        assert_eq!(error.kind(), FailureKind::AlreadyExists);
        assert_eq!(std::fs::read(scratch.path().join("a")).unwrap(), b"first");
        staged(scratch.path(), b"third").publish(&target, "a", Publish::Over).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("a")).unwrap(), b"third");
        assert_eq!(names(scratch.path()), ["a"]);
    }

    #[test]
    fn one_of_many_creators_wins() {
        let scratch = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let barrier = Barrier::new(8);
            let name = format!("f{round}");
            let winners: Vec<u8> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|id| {
                        let (barrier, name, path) = (&barrier, &name, scratch.path());
                        scope.spawn(move || {
                            let file = staged(path, &[id]);
                            barrier.wait();
                            file.publish(&Directory::open(path).unwrap(), name, Publish::New).is_ok().then_some(id)
                        })
                    })
                    .collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(winners.len(), 1);
            assert_eq!(std::fs::read(scratch.path().join(&name)).unwrap(), winners);
        }
    }

    #[test]
    fn rename_without_replacing_is_as_safe_as_a_link() {
        let scratch = tempfile::tempdir().unwrap();
        let target = Directory::open(scratch.path()).unwrap();
        let name = OsStr::new("a");
        staged(scratch.path(), b"first").rename(&target, name, RenameFlags::NOREPLACE).unwrap();
        let second = staged(scratch.path(), b"second").rename(&target, name, RenameFlags::NOREPLACE);
        assert_eq!(second, Err(Errno::EXIST));
        assert_eq!(std::fs::read(scratch.path().join("a")).unwrap(), b"first");
        assert_eq!(names(scratch.path()), ["a"]);
    }

    #[test]
    fn owner_alive_is_not_abandoned() {
        let scratch = tempfile::tempdir().unwrap();
        let file = staged(scratch.path(), b"x");
        assert!(!StagedFile::is_abandoned(&File::open(file.path()).unwrap()));
        std::fs::write(scratch.path().join("left.tmp"), "").unwrap();
        assert!(StagedFile::is_abandoned(&File::open(scratch.path().join("left.tmp")).unwrap()));
    }
}
