//! A small file system of a test's own, to fill it up.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Account, Scratch};

/// A tmpfs of a given size, mounted in a scratch directory; needs root.
#[derive(Debug)]
pub struct Disk {
    mount: PathBuf,
    // After the mount point in the order of dropping.
    _scratch: Scratch,
}

impl Disk {
    /// Whether this run may mount one.
    #[must_use]
    pub fn available() -> bool {
        nix::unistd::Uid::effective().is_root()
    }

    /// # Errors
    /// The mount is refused.
    pub fn of_megabytes(megabytes: u32) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mount = scratch.directory("disk")?;
        let options = format!("size={megabytes}m,mode=0700,uid={}", Account::of_servers()?.uid());
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "pitr-test"]).arg(&mount).output()?;
        ensure!(output.status.success(), "mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { mount, _scratch: scratch })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Changes its size, as an operator would who adds space.
    ///
    /// # Errors
    /// The mount is refused.
    pub fn resize(&self, megabytes: u32) -> Result<()> {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={megabytes}m")])
            .arg(&self.mount)
            .status()
            .context("start mount")?;
        ensure!(status.success(), "resize {}", self.mount.display());
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that is still ending may hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
