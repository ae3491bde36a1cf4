//! TCP ports that no other test of this machine takes meanwhile.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Below the range that the kernel hands out by itself (`ip_local_port_range`).
const FIRST: u16 = 21_000;
const COUNT: u16 = 9_000;

/// A port of ours for as long as this value lives: asking the kernel for a free one and letting go of it again would
/// race with every other test.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// # Errors
    /// None is free.
    pub fn take() -> Result<Self> {
        let directory = lock_directory()?;
        let start = rand::random_range(0..COUNT);
        for offset in 0..COUNT {
            let number = FIRST + (start + offset) % COUNT;
            let path = directory.join(number.to_string());
            let lock =
                File::options().create(true).append(true).open(&path).with_context(|| format!("open {path:?}"))?;
            let ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if ours && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port from {FIRST} to {}", FIRST + COUNT - 1)
    }

    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }
}

fn lock_directory() -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("pitr-ports-{}", nix::unistd::Uid::effective()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_takers_never_share_a_port() {
        let ports: Vec<Port> = (0..40).map(|_| Port::take().unwrap()).collect();
        let distinct: std::collections::BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(distinct.len(), ports.len());
    }
}
