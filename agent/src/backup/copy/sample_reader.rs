//! One page that should not have changed, held against the parent's. Blocking.

use std::time::Duration;

use pitr::postgres::page::{Page, page_lsn};
use pitr::postgres::{Lsn, PAGE_SIZE};
use pitr::repository::hash::BlockHash;

use super::error::CopyError;
use super::source::SourceFile;
use crate::backup::incremental::hashes::{LastTable, ParentHashes};
use crate::backup::incremental::parent_file::ParentFile;
use crate::backup::incremental::sample::same_but_for_hints;

/// The server may be writing the page just now.
const READS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Compares pages of one file.
#[derive(Debug)]
pub struct SampleReader<'a> {
    pub source: &'a SourceFile,
    pub parent: &'a ParentFile,
    pub hashes: &'a ParentHashes,
    /// What was changed from here on is replayed.
    pub start_lsn: Lsn,
}

impl SampleReader<'_> {
    /// Whether the page is the parent's, or one that replay will make right.
    ///
    /// # Errors
    /// The file or the parent cannot be read.
    pub fn is_unchanged(&self, number: u64, table: &mut LastTable) -> Result<bool, CopyError> {
        let (from, to) = (number * PAGE_SIZE as u64, (number + 1) * PAGE_SIZE as u64);
        let before = self.hashes.of_block(self.parent, from, to, table).map_err(CopyError::Parent)?;
        let mut page: Box<Page> = Box::new([0; _]);
        for read in 0..READS {
            if read > 0 {
                std::thread::sleep(PAUSE);
            }
            // Cut off or new since the backup began.
            if self.source.read(page.as_mut_slice(), from)? < PAGE_SIZE || page.iter().all(|byte| *byte == 0) {
                return Ok(true);
            }
            if before == Some(BlockHash::of(page.as_slice())) || page_lsn(&page) >= self.start_lsn {
                return Ok(true);
            }
        }
        let Some(frame) = self.parent.block(from, to) else { return Ok(false) };
        let content = self.hashes.content(&frame).map_err(CopyError::Parent)?;
        let before: Option<&Page> = content.as_slice().try_into().ok();
        Ok(before.is_some_and(|before| same_but_for_hints(before, &page)))
    }
}
