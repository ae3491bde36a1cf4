//! A directory of a test's own, under a short path: a unix socket's path holds at most 107 bytes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Account;

/// Removed with all that is in it, unless `PITR_KEEP=1` is set.
#[derive(Debug)]
pub struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    /// # Errors
    /// The temporary directory can't be written.
    pub fn new() -> Result<Self> {
        let mut directory = tempfile::Builder::new()
            .prefix("pt-")
            .rand_bytes(5)
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("make a scratch directory")?;
        Account::of_servers()?.own(directory.path())?;
        directory.disable_cleanup(std::env::var_os("PITR_KEEP").is_some());
        Ok(Self { directory })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a directory in it that belongs to the servers' account.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir(&path).with_context(|| format!("mkdir {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        Account::of_servers()?.own(&path)?;
        Ok(path)
    }

    /// Writes a file that the servers' account owns and nobody else reads.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Account::of_servers()?.own(&path)?;
        Ok(path)
    }
}
