//! Pages whose checksum does not match, and which of those are no damage.

use crate::postgres::Lsn;
use crate::repository::backup::{BackupManifest, PackId, StoredPath};

/// A page of a relation in a frame that holds exactly what its hash says, and with a checksum that does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageFault {
    pub(super) pack: PackId,
    /// Start of the frame in the pack.
    pub(super) offset: u64,
    /// Where the page starts in the plain content of the frame.
    pub(super) at: u32,
    /// Counted from the start of the relation.
    pub(super) block: u32,
    pub(super) lsn: Lsn,
}

impl PageFault {
    /// The backup knows of the page, or replay makes it whole: a page that was being written while it was copied was logged
    /// in full since the backup began. That holds for the backup that copied it and for no later one.
    pub(super) fn is_excused(&self, path: &StoredPath, manifest: &BackupManifest) -> bool {
        let listed = manifest.corrupt_pages.iter().any(|page| page.block == self.block && page.path == *path);
        listed || self.pack.backup == manifest.id || self.lsn >= manifest.start_lsn
    }
}
