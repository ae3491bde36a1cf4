//! What to do with a page whose checksum does not match: it may be half written just now, or damaged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pitr::postgres::Lsn;
use pitr::postgres::page::{Page, PageVerdict, page_lsn, verify_page};

/// How often such a page is read again, and how long before each time.
const REREADS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);
/// With so many damaged pages the disk is at fault, and patience would take hours.
const PATIENCE: u64 = 1000;

/// Tells where the server inserts WAL now. Blocking: asked from the threads that copy.
pub trait InsertLsn: Send + Sync + 'static {
    /// None where the server did not answer.
    fn insert_lsn(&self) -> Option<Lsn>;
}

/// How checksums are held against pages.
#[derive(Clone)]
pub struct PageCheck {
    /// Whether the cluster has data checksums at all.
    pub enabled: bool,
    /// Where replay of this backup begins.
    pub start_lsn: Lsn,
    pub insert_lsn: Arc<dyn InsertLsn>,
    /// Counts the pages found corrupt.
    pub corrupt: Arc<AtomicU64>,
}

impl std::fmt::Debug for PageCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageCheck")
            .field("enabled", &self.enabled)
            .field("start_lsn", &self.start_lsn)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOutcome {
    /// Whole, or replay makes it whole.
    Sound,
    Corrupt,
}

impl PageCheck {
    /// Verifies a page; `reread` reads it from disk again, and says whether all of it is still there.
    ///
    /// # Errors
    /// Those of `reread`.
    pub fn check(
        &self,
        page: &mut Page,
        absolute_block: u32,
        reread: impl FnMut(&mut Page) -> io::Result<bool>,
    ) -> io::Result<PageOutcome> {
        match verify_page(page, absolute_block) {
            PageVerdict::New | PageVerdict::Valid => Ok(PageOutcome::Sound),
            PageVerdict::Invalid { .. } => self.settle(page, absolute_block, reread),
        }
    }

    #[cold]
    fn settle(
        &self,
        page: &mut Page,
        absolute_block: u32,
        mut reread: impl FnMut(&mut Page) -> io::Result<bool>,
    ) -> io::Result<PageOutcome> {
        let patient = self.corrupt.load(Ordering::Relaxed) < PATIENCE;
        let mut again: Box<Page> = Box::new([0; _]);
        for _ in 0..if patient { REREADS } else { 1 } {
            if patient {
                std::thread::sleep(PAUSE);
            }
            if !reread(&mut again)? {
                // Cut off meanwhile: what was there is as if it had never been.
                page.fill(0);
                return Ok(PageOutcome::Sound);
            }
            // Whoever writes it now has logged a full image of it since the backup began: replay does not mind.
            let changing = *again != *page;
            page.copy_from_slice(again.as_slice());
            if changing || !matches!(verify_page(page, absolute_block), PageVerdict::Invalid { .. }) {
                return Ok(PageOutcome::Sound);
            }
        }
        // The kernel may hold the server's half-finished write for longer. An upper bound keeps garbage out.
        let lsn = page_lsn(page);
        if lsn >= self.start_lsn && self.insert_lsn.insert_lsn().is_some_and(|insert_lsn| lsn <= insert_lsn) {
            return Ok(PageOutcome::Sound);
        }
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        Ok(PageOutcome::Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use pitr::postgres::PAGE_SIZE;
    use pitr::postgres::page::page_checksum;

    use super::*;

    struct Fixed(Option<Lsn>);

    impl InsertLsn for Fixed {
        fn insert_lsn(&self) -> Option<Lsn> {
            self.0
        }
    }

    fn check(insert_lsn: Option<u64>) -> PageCheck {
        PageCheck {
            enabled: true,
            start_lsn: Lsn::new(1000),
            insert_lsn: Arc::new(Fixed(insert_lsn.map(Lsn::new))),
            corrupt: Arc::default(),
        }
    }

    fn valid(fill: u8, lsn: u32) -> Page {
        let mut page = [fill; PAGE_SIZE];
        page[..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        let checksum = page_checksum(&page, 3).to_le_bytes();
        page[8..10].copy_from_slice(&checksum);
        page
    }

    fn damaged(fill: u8, lsn: u32) -> Page {
        let mut page = valid(fill, lsn);
        page[5000] ^= 1;
        page
    }

    /// Checks a page while every reading of it finds the next of `readings`, the last for ever.
    /// No readings: it finds the same again.
    fn outcome(check: &PageCheck, page: &mut Page, readings: &[Page]) -> (PageOutcome, usize) {
        let same = [*page];
        let readings = if readings.is_empty() { &same } else { readings };
        let mut count = 0;
        let outcome = check.check(page, 3, |target| {
            *target = readings[count.min(readings.len() - 1)];
            count += 1;
            Ok(true)
        });
        (outcome.unwrap(), count)
    }

    #[test]
    fn a_valid_page_is_read_once() {
        let mut page = valid(1, 500);
        assert_eq!(outcome(&check(None), &mut page, &[]), (PageOutcome::Sound, 0));
        let mut zeros = [0; PAGE_SIZE];
        assert_eq!(outcome(&check(None), &mut zeros, &[page]), (PageOutcome::Sound, 0));
    }

    #[test]
    fn a_page_that_is_being_written_is_taken_as_it_is_now() {
        let mut page = damaged(1, 500);
        assert_eq!(outcome(&check(None), &mut page, &[valid(2, 2000)]), (PageOutcome::Sound, 1));
        assert_eq!(page, valid(2, 2000));

        let mut page = damaged(1, 500);
        let readings = [page, page, damaged(2, 600)];
        assert_eq!(outcome(&check(None), &mut page, &readings), (PageOutcome::Sound, 3));
        assert_eq!(page, damaged(2, 600));
    }

    #[test]
    fn a_torn_page_of_this_time_is_accepted() {
        for lsn in [1000, 1500, 2000] {
            let mut page = damaged(1, lsn);
            assert_eq!(outcome(&check(Some(2000)), &mut page, &[]).0, PageOutcome::Sound, "LSN {lsn}");
        }
    }

    #[test]
    fn damage_is_reported_and_its_bytes_are_kept() {
        // Older than the backup, or from a future that the server has not reached, or with nobody to ask.
        for (lsn, insert_lsn) in [(999, Some(2000)), (2001, Some(2000)), (1500, None)] {
            let check = check(insert_lsn);
            let mut page = damaged(1, lsn);
            assert_eq!(outcome(&check, &mut page, &[]), (PageOutcome::Corrupt, 5), "LSN {lsn}");
            assert_eq!(page, damaged(1, lsn));
            assert_eq!(check.corrupt.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn a_page_that_claims_to_be_new_and_is_not_is_damaged() {
        let mut page = [0; PAGE_SIZE];
        page[100] = 1;
        assert_eq!(outcome(&check(Some(2000)), &mut page, &[]).0, PageOutcome::Corrupt);
    }

    #[test]
    fn a_page_that_was_cut_off_is_zero() {
        let mut page = damaged(1, 500);
        assert_eq!(check(None).check(&mut page, 3, |_| Ok(false)).unwrap(), PageOutcome::Sound);
        assert_eq!(page, [0; PAGE_SIZE]);
    }

    #[test]
    fn loses_patience_with_a_broken_disk() {
        let check = check(None);
        check.corrupt.store(PATIENCE, Ordering::Relaxed);
        let mut page = damaged(1, 500);
        assert_eq!(outcome(&check, &mut page, &[]), (PageOutcome::Corrupt, 1));
    }
}
