//! What the threads of one copy share.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pitr::codec::Compressor;
use pitr::repository::backup::{CorruptPage, PackId, StoredPath};
use pitr::repository::hash::ContentHash;
use tokio_util::sync::CancellationToken;

use super::error::CopyError;
use super::ledger::Ledger;
use super::live_frames::LiveBytes;
use super::maps::{CopiedPart, FinishedMap, OpenMap};
use super::pace::Pace;
use super::page_check::PageCheck;
use super::plan::{MapPlan, Unit};
use super::sharing::{Feed, Sharing};
use super::upload::UploadQueue;
use super::worker::MAX_CORRUPT_PAGES;
use crate::backup::incremental::packs::Packs;
use crate::backup::listing::FileList;

/// How far the copy is.
#[derive(Debug, Default)]
pub struct CopyProgress {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    /// Pages of relations that were read.
    pub pages: AtomicU64,
    /// Those of them that were only held against the parent's.
    pub sampled_pages: AtomicU64,
    /// Bytes that the repository took.
    pub stored_bytes: Arc<AtomicU64>,
    pub corrupt_pages: Arc<AtomicU64>,
}

impl CopyProgress {
    /// What was copied so far does not count.
    pub fn start_over(&self) {
        for count in [&self.files, &self.bytes, &self.pages, &self.sampled_pages, &*self.corrupt_pages] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// One map that is part of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSummary {
    pub hash: ContentHash,
    /// Path of its first file, of a map whose files a later backup may share.
    pub first: Option<StoredPath>,
    pub files: u64,
    pub file_bytes: u64,
    pub stored_bytes: u64,
}

/// What of the backup is in one tablespace, or in none of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceCopy {
    pub maps: Vec<MapSummary>,
    /// Bytes that are needed of each pack.
    pub live_bytes: BTreeMap<PackId, u64>,
}

/// What is shared, and does not change but for `state`.
#[derive(Debug)]
pub struct Shared {
    pub data_directory: PathBuf,
    pub files: Arc<FileList>,
    pub packs: Arc<Packs>,
    pub sharing: Sharing,
    pub compression_level: i32,
    pub page_check: PageCheck,
    pub pace: Option<Pace>,
    pub uploads: UploadQueue,
    pub next_pack: Arc<AtomicU32>,
    pub ledger: Arc<Ledger>,
    pub progress: Arc<CopyProgress>,
    pub cancel: CancellationToken,
    /// Between two looks whether a directory goes.
    pub drop_pause: Duration,
    pub state: CopyState,
}

#[derive(Debug, Default)]
pub struct CopyState {
    /// The next map, and the parents' files beside it. Held while a parent's map is waited for.
    feed: Mutex<Feed>,
    pending: Mutex<Pending>,
    /// Told whenever `pending` changes.
    changed: Condvar,
    done: Mutex<Done>,
}

impl CopyState {
    #[must_use]
    pub fn new(feed: Feed) -> Self {
        Self { feed: Mutex::new(feed), ..Self::default() }
    }
}

#[derive(Debug, Default)]
struct Pending {
    units: VecDeque<Unit>,
    open: HashMap<u32, OpenMap>,
    /// Threads that prepare a map just now: there may be units soon.
    preparing: usize,
    /// No map is left to prepare.
    exhausted: bool,
}

#[derive(Debug, Default)]
struct Done {
    tablespaces: BTreeMap<Option<u32>, (Vec<MapSummary>, LiveBytes)>,
    corrupt_pages: Vec<CorruptPage>,
}

/// What a thread is to do next.
pub enum Work {
    Copy(Unit),
    /// Find out what is to be done for the next map.
    Prepare,
}

/// What came of the files of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedFiles {
    pub tablespaces: BTreeMap<Option<u32>, TablespaceCopy>,
    /// The first [`MAX_CORRUPT_PAGES`].
    pub corrupt_pages: Vec<CorruptPage>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The next piece of work, in the order of paths; none when all are given out. What is to be prepared must then be:
    /// others wait for it.
    pub fn next_work(&self) -> Option<Work> {
        let mut pending = lock(&self.state.pending);
        loop {
            if let Some(unit) = pending.units.pop_front() {
                return Some(Work::Copy(unit));
            }
            if self.cancel.is_cancelled() || (pending.exhausted && pending.preparing == 0) {
                return None;
            }
            if !pending.exhausted {
                pending.preparing += 1;
                return Some(Work::Prepare);
            }
            // With a limit, because a cancellation tells nobody.
            let waited = self.state.changed.wait_timeout(pending, Duration::from_millis(100));
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Prepares the next map, if there is one left.
    ///
    /// # Errors
    /// A parent cannot be read, zstd fails, or the copy is to stop.
    pub fn prepare(&self, compressor: &mut Compressor) -> Result<(), CopyError> {
        let prepared = self.prepare_next();
        let mut pending = lock(&self.state.pending);
        pending.preparing -= 1;
        let finished = match prepared {
            Ok(Some((plan, units, finished))) => {
                let map = OpenMap::new(&plan, units.len(), finished);
                if units.is_empty() {
                    Some(map)
                } else {
                    pending.open.insert(plan.number, map);
                    pending.units.extend(units);
                    None
                }
            }
            Ok(None) => {
                pending.exhausted = true;
                None
            }
            Err(error) => return Err(error),
        };
        drop(pending);
        self.state.changed.notify_all();
        match finished {
            Some(map) => self.finish_map(map.finish(&self.files, &self.packs, &self.sharing.known_maps, compressor)?),
            None => Ok(()),
        }
    }

    #[expect(clippy::type_complexity, reason = "taken apart where it is made")]
    fn prepare_next(&self) -> Result<Option<(MapPlan, Vec<Unit>, Vec<CopiedPart>)>, CopyError> {
        self.check_cancelled()?;
        let (plan, parents) = {
            let mut feed = lock(&self.state.feed);
            let Some(plan) = feed.planner.next(&self.files) else { return Ok(None) };
            let parents = feed.parents(&plan, &self.files)?;
            (plan, parents)
        };
        let (units, finished) = self.sharing.cut(&plan, &self.files, parents);
        self.ledger.await_room(|| self.cancel.is_cancelled());
        self.ledger.enter(&self.files, &finished);
        for part in &finished {
            self.progress.bytes.fetch_add(part.part.bytes, Ordering::Relaxed);
            self.progress.files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some((plan, units, finished)))
    }

    /// # Errors
    /// The copy is to stop.
    pub fn check_cancelled(&self) -> Result<(), CopyError> {
        if self.cancel.is_cancelled() { Err(CopyError::Cancelled) } else { Ok(()) }
    }

    pub fn note_corrupt(&self, page: CorruptPage) {
        self.ledger.note_corrupt(page.clone());
        let mut done = lock(&self.state.done);
        if done.corrupt_pages.len() < MAX_CORRUPT_PAGES {
            done.corrupt_pages.push(page);
        }
    }

    /// Takes up what a unit came to, and hands its map over once that was the last of it.
    ///
    /// # Errors
    /// zstd fails, or the copy is to stop.
    pub fn finish_unit(&self, map: u32, parts: Vec<CopiedPart>, compressor: &mut Compressor) -> Result<(), CopyError> {
        self.ledger.enter(&self.files, &parts);
        let finished = {
            let mut pending = lock(&self.state.pending);
            let complete = pending.open.get_mut(&map).is_some_and(|open| open.add(parts));
            if complete { pending.open.remove(&map) } else { None }
        };
        match finished {
            Some(open) => {
                self.finish_map(open.finish(&self.files, &self.packs, &self.sharing.known_maps, compressor)?)
            }
            None => Ok(()),
        }
    }

    fn finish_map(&self, map: FinishedMap) -> Result<(), CopyError> {
        if map.files == 0 {
            return Ok(());
        }
        let stored_bytes = self.sharing.stored_bytes(&map);
        {
            let mut done = lock(&self.state.done);
            let (maps, live) = done.tablespaces.entry(map.tablespace).or_default();
            let (hash, first, files, file_bytes) = (map.hash, map.first.clone(), map.files, map.file_bytes);
            maps.push(MapSummary { hash, first, files, file_bytes, stored_bytes });
            map.frames.iter().for_each(|frame| live.add(*frame));
        }
        if map.object.is_some() { self.uploads.map(map) } else { Ok(()) }
    }

    /// What has been copied, its corrupt pages in order. Takes it out.
    #[must_use]
    pub fn take_done(&self) -> CopiedFiles {
        let Done { tablespaces, mut corrupt_pages } = std::mem::take(&mut *lock(&self.state.done));
        corrupt_pages.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        let tablespaces = tablespaces.into_iter().map(|(tablespace, (mut maps, live))| {
            maps.sort_by(|a, b| a.first.cmp(&b.first));
            (tablespace, TablespaceCopy { maps, live_bytes: live.by_pack(&self.packs) })
        });
        CopiedFiles { tablespaces: tablespaces.collect(), corrupt_pages }
    }
}
