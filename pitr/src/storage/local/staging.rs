//! What processes that died left in the staging directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::super::{Operation, Result};
use super::failed;
use super::root::{Root, STAGING};
use crate::fs::{Directory, EntryType, FileStatus, StagedFile};

/// Staged files are left alone for a day: where locks do not work, age is all that tells a dead process from a slow one.
const STALE_AFTER_NS: i128 = 24 * 60 * 60 * 1_000_000_000;

impl Root {
    /// Makes durable what was published without its sync, and removes what is stale. A reader without the right to write
    /// leaves everything as it is.
    pub(super) fn settle_staging(&self) -> Result<()> {
        let shown = &self.path().display();
        let root = self.directory(Operation::Open, shown)?;
        let staging = match root.open_dir(STAGING) {
            Ok(staging) => staging,
            Err(error) if matches!(error.kind(), crate::fs::FailureKind::NotFound | crate::fs::FailureKind::Denied) => {
                return Ok(());
            }
            Err(error) => return Err(failed(Operation::Open, shown, error)),
        };
        let entries = staging.entries().map_err(|error| failed(Operation::Open, shown, error))?;
        let left: Vec<_> = entries
            .into_iter()
            .filter(|(name, entry_type)| *entry_type == EntryType::File && name.as_bytes().ends_with(b".tmp"))
            .filter_map(|(name, _)| staging.status(&name).ok().map(|status| (name, status)))
            .collect();
        let published: Vec<_> =
            left.iter().filter(|(name, status)| status.links > 1 && is_abandoned(&staging, name)).collect();
        if !published.is_empty() {
            root.sync_file_system().map_err(|error| failed(Operation::Open, shown, error))?;
        }
        let stale = left.iter().filter(|(_, status)| status.links == 1 && self.is_stale(status));
        for (name, _) in published.into_iter().chain(stale) {
            // Whoever comes next tries again.
            let _ = staging.remove_file(name);
        }
        Ok(())
    }

    fn is_stale(&self, status: &FileStatus) -> bool {
        let now = i128::from(self.clock.now().timestamp_micros()) * 1000;
        now - status.modified_ns > STALE_AFTER_NS
    }
}

fn is_abandoned(staging: &Directory, name: &OsStr) -> bool {
    // One that cannot be opened is left to somebody with more rights; gone is gone.
    staging.open_file(name).is_ok_and(|file| StagedFile::is_abandoned(&file))
}
