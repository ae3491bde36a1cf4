//! What of a copy is stored, as far as a later backup could take it up should this one be interrupted.
//!
//! A piece of a file is entered when it was read, and is given out once, when all packs that it stands in are stored. What is
//! the complete parent's alone is not entered: the next backup has that parent too.
//!
//! Memory is bounded. What was taken over without being read comes faster than it can be recorded: it waits for its turn, as long
//! as records are put. What was read does not wait: what does not fit is left out, and would be read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pitr::repository::backup::{CorruptPage, Extent, PackId, ProgressLine, StoredPath};

use super::frame::Extents;
use super::maps::CopiedPart;
use super::worker::MAX_CORRUPT_PAGES;
use crate::backup::incremental::cursor::Parent;
use crate::backup::incremental::packs::Packs;
use crate::backup::listing::FileList;

/// Extents that are held, of about fifty bytes each.
const MAX_EXTENTS: usize = 128 << 10;
/// Of these, those of pieces in no pack of this backup.
const MAX_FOREIGN_EXTENTS: usize = MAX_EXTENTS / 2;
/// Where nothing was given out for so long nobody waits for it.
const STUCK: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Shared by the threads that copy, the uploader, and whoever writes records.
#[derive(Debug)]
pub struct Ledger {
    packs: Arc<Packs>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parents: Vec<Parent>,
    /// Of other backups' packs: whether the next backup might not know them.
    foreign: HashMap<u32, bool>,
    entered: Vec<Entry>,
    extents: usize,
    /// Those in pieces that need no pack of this backup, and can be given out at any time.
    foreign_extents: usize,
    /// When something was given out, or the copy began.
    given: Option<Instant>,
    /// Sizes of packs of this backup that are stored.
    stored: BTreeMap<u32, u64>,
    corrupt: Vec<CorruptPage>,
    corrupt_given: usize,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    path: StoredPath,
    from: u64,
    extents: Extents,
    foreign: bool,
}

/// What a record is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub lines: Vec<ProgressLine>,
    /// Bytes of files in its pieces.
    pub file_bytes: u64,
}

impl Ledger {
    #[must_use]
    pub fn new(packs: Arc<Packs>) -> Self {
        Self { packs, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy begins that takes over from `parents`; what was entered before is forgotten.
    pub fn begin(&self, parents: &[Parent]) {
        let mut state = self.state();
        let (stored, closed) = (std::mem::take(&mut state.stored), state.closed);
        let given = Some(Instant::now());
        *state = State { parents: parents.to_vec(), stored, closed, given, ..State::default() };
    }

    /// Nothing more is entered or given out.
    pub fn close(&self) {
        *self.state() = State { closed: true, ..State::default() };
    }

    /// Waits until there is room for what was taken over without being read, or it is no use to wait. Blocking.
    pub fn await_room(&self, cancelled: impl Fn() -> bool) {
        let is_full = || {
            let state = self.state();
            let gets_on = state.given.is_some_and(|given| given.elapsed() < STUCK);
            !state.closed && gets_on && state.foreign_extents >= MAX_FOREIGN_EXTENTS
        };
        while is_full() && !cancelled() {
            std::thread::sleep(PAUSE);
        }
    }

    /// What a unit of work came to.
    pub fn enter(&self, files: &FileList, parts: &[CopiedPart]) {
        let state = &mut *self.state();
        for copied in parts {
            let Some(extents) = &copied.extents else { continue };
            if state.closed || state.extents + extents.len() > MAX_EXTENTS || !self.is_new(state, extents) {
                continue;
            }
            let Some(file) = files.get(copied.part.file) else { continue };
            let foreign = extents.iter().all(|extent| own_pack(extent).is_none());
            state.extents += extents.len();
            state.foreign_extents += if foreign { extents.len() } else { 0 };
            let (path, from, extents) = (file.path, copied.part.offset, extents.clone());
            state.entered.push(Entry { path, from, extents, foreign });
        }
    }

    /// Whether something stands in a pack that no complete parent names.
    fn is_new(&self, state: &mut State, extents: &Extents) -> bool {
        let State { parents, foreign, .. } = state;
        extents.iter().any(|extent| match extent {
            Extent::Zeros { .. } => false,
            Extent::Frame(frame) if !Packs::is_other(frame.pack) => true,
            Extent::Frame(frame) => *foreign.entry(frame.pack).or_insert_with(|| {
                let id = self.packs.id(frame.pack);
                !parents.iter().any(|parent| !parent.is_interrupted() && parent.packs().contains_key(&id))
            }),
        })
    }

    pub fn note_stored(&self, pack: u32, bytes: u64) {
        self.state().stored.insert(pack, bytes);
    }

    pub fn note_corrupt(&self, page: CorruptPage) {
        let mut state = self.state();
        if state.corrupt.len() < MAX_CORRUPT_PAGES {
            state.corrupt.push(page);
        } else {
            // Those that nobody names would be taken for sound.
            *state = State { closed: true, ..State::default() };
        }
    }

    /// How many extents wait to be given out.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().extents
    }

    /// All pieces whose packs are stored; none where there are no such.
    #[must_use]
    pub fn take(&self) -> Option<Batch> {
        let state = &mut *self.state();
        let is_stored = |entry: &mut Entry| {
            entry.foreign || entry.extents.iter().filter_map(own_pack).all(|pack| state.stored.contains_key(&pack))
        };
        let mut ready: Vec<Entry> = state.entered.extract_if(.., is_stored).collect();
        if ready.is_empty() {
            return None;
        }
        state.extents = state.entered.iter().map(|entry| entry.extents.len()).sum();
        (state.foreign_extents, state.given) = (0, Some(Instant::now()));
        ready.sort_by(|a, b| (&a.path, a.from).cmp(&(&b.path, b.from)));
        let corrupt = state.corrupt.get(state.corrupt_given..).unwrap_or_default().to_vec();
        state.corrupt_given = state.corrupt.len();
        Some(self.batch(state, ready, corrupt))
    }

    fn batch(&self, state: &State, ready: Vec<Entry>, corrupt: Vec<CorruptPage>) -> Batch {
        let frames = ready.iter().flat_map(|entry| &entry.extents).filter_map(|extent| match extent {
            Extent::Frame(frame) => Some(frame.pack),
            Extent::Zeros { .. } => None,
        });
        let numbers: BTreeSet<u32> = frames.collect();
        let places: HashMap<u32, u32> = numbers.iter().copied().zip(0..).collect();
        let size = |number: u32, id: &PackId| {
            let of_parents = || state.parents.iter().find_map(|parent| parent.packs().get(id));
            state.stored.get(&number).or_else(of_parents).copied().unwrap_or(0)
        };
        let mut batch = Batch::default();
        batch.lines.extend(numbers.iter().map(|number| {
            let id = self.packs.id(*number);
            ProgressLine::Pack { bytes: size(*number, &id), id }
        }));
        for Entry { path, from, mut extents, .. } in ready {
            for extent in &mut extents {
                batch.file_bytes += extent.bytes();
                if let Extent::Frame(frame) = extent {
                    frame.pack = places.get(&frame.pack).copied().unwrap_or(u32::MAX);
                }
            }
            batch.lines.push(ProgressLine::Piece { path, from, extents });
        }
        let corrupt = corrupt.into_iter().map(|CorruptPage { path, block }| ProgressLine::Corrupt { path, block });
        batch.lines.extend(corrupt);
        batch
    }
}

/// The pack of this backup that an extent stands in.
fn own_pack(extent: &Extent) -> Option<u32> {
    match extent {
        Extent::Frame(frame) if !Packs::is_other(frame.pack) => Some(frame.pack),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use pitr::lookup::BackupFiles;
    use pitr::repository::backup::file_map::FrameExtent;
    use pitr::repository::hash::FrameHash;

    use super::*;
    use crate::backup::copy::plan::Part;
    use crate::backup::incremental::cursor::ParentFiles;
    use crate::backup::listing::FileKind;

    fn frame(pack: u32) -> Extent {
        let hash = FrameHash::from_bytes([1; 16]);
        Extent::Frame(FrameExtent { bytes: 8192, pack, offset: 100, stored_bytes: 10, at: 0, hash })
    }

    fn part(file: usize, offset: u64, extents: Option<Extents>) -> CopiedPart {
        CopiedPart { part: Part::read(file, offset, 8192, false), extents, stat: None }
    }

    fn ledger() -> (Ledger, FileList, u32, u32) {
        let packs = Arc::new(Packs::new("20261122T063100Z".parse().unwrap()));
        let (parents, foreign) = ("20261120T063100Z/00000001", "20261121T063100Z/00000001");
        let numbers = (packs.number(&parents.parse().unwrap()), packs.number(&foreign.parse().unwrap()));
        let ledger = Ledger::new(packs);
        let files = BackupFiles { packs: [(parents.parse().unwrap(), 70)].into(), maps: Vec::new() };
        ledger.begin(&[Parent { files: ParentFiles::Complete(Arc::new(files)), changes: None }]);
        let files = FileList::of((0..9).map(|n| (format!("base/5/{n}"), 1 << 20, FileKind::Relation)));
        (ledger, files, numbers.0, numbers.1)
    }

    fn pieces(batch: Option<Batch>) -> Vec<(String, u64)> {
        let of = |line: &ProgressLine| match line {
            ProgressLine::Piece { path, from, .. } => Some((path.to_string(), *from)),
            _ => None,
        };
        batch.iter().flat_map(|batch| &batch.lines).filter_map(of).collect()
    }

    #[test]
    fn a_piece_is_given_out_once_and_when_its_packs_are_stored() {
        let (ledger, files, parents, _) = ledger();
        ledger.enter(&files, &[part(3, 8192, Some(vec![frame(0), frame(parents), frame(1)]))]);
        ledger.enter(&files, &[part(2, 0, Some(vec![frame(1)])), part(1, 0, None)]);
        assert_eq!(ledger.take(), None);
        ledger.note_stored(1, 500);
        ledger.note_corrupt(CorruptPage { path: "base/5/2".to_owned().try_into().unwrap(), block: 7 });
        let batch = ledger.take().unwrap();
        assert_eq!((batch.lines.len(), batch.file_bytes), (3, 8192));
        assert_eq!(
            batch.lines.first(),
            Some(&ProgressLine::Pack { id: "20261122T063100Z/00000001".parse().unwrap(), bytes: 500 })
        );
        assert!(matches!(batch.lines.last(), Some(ProgressLine::Corrupt { block: 7, .. })));
        assert_eq!(pieces(Some(batch)), [("base/5/2".to_owned(), 0)]);
        ledger.note_stored(0, 400);
        let batch = ledger.take().unwrap();
        let packs: Vec<u64> = batch
            .lines
            .iter()
            .filter_map(|line| if let ProgressLine::Pack { bytes, .. } = line { Some(*bytes) } else { None })
            .collect();
        assert_eq!(packs, [400, 500, 70]);
        assert_eq!(pieces(Some(batch)), [("base/5/3".to_owned(), 8192)]);
        assert_eq!((ledger.take(), ledger.waiting()), (None, 0));
    }

    #[test]
    fn what_the_next_backup_finds_in_its_parent_is_not_entered() {
        let (ledger, files, parents, foreign) = ledger();
        ledger.enter(&files, &[part(1, 0, Some(vec![frame(parents), Extent::Zeros { bytes: 8192 }]))]);
        assert_eq!(ledger.take(), None);
        ledger.enter(&files, &[part(1, 0, Some(vec![frame(parents), frame(foreign)]))]);
        assert_eq!(pieces(ledger.take()), [("base/5/1".to_owned(), 0)]);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_entered_once_it_is_closed() {
        let (ledger, files, ..) = ledger();
        let many = || part(1, 0, Some(vec![frame(0); MAX_EXTENTS / 4]));
        (0..9).for_each(|_| ledger.enter(&files, &[many()]));
        assert_eq!(ledger.waiting(), MAX_EXTENTS);
        ledger.begin(&[]);
        assert_eq!(ledger.waiting(), 0);
        ledger.enter(&files, &[many()]);
        ledger.close();
        ledger.enter(&files, &[many()]);
        ledger.note_stored(0, 1);
        assert_eq!(ledger.take(), None);
    }

    #[test]
    fn what_was_taken_over_waits_for_its_turn() {
        let (ledger, files, _, foreign) = ledger();
        ledger.enter(&files, &[part(1, 0, Some(vec![frame(0); MAX_FOREIGN_EXTENTS - 1]))]);
        ledger.await_room(|| false);
        let taken_over = || part(1, 0, Some(vec![frame(foreign); MAX_FOREIGN_EXTENTS]));
        ledger.enter(&files, &[taken_over()]);
        let looks = std::cell::Cell::new(0);
        ledger.await_room(|| {
            looks.set(looks.get() + 1);
            looks.get() == 3 && ledger.take().is_none() || looks.get() > 100
        });
        assert_eq!(looks.get(), 3, "room was made by the third look");
        ledger.enter(&files, &[taken_over()]);
        ledger.close();
        ledger.await_room(|| false);
    }

    #[test]
    fn too_many_corrupt_pages_end_it() {
        let (ledger, files, ..) = ledger();
        for block in 0..=u32::try_from(MAX_CORRUPT_PAGES).unwrap() {
            ledger.note_corrupt(CorruptPage { path: "base/5/2".to_owned().try_into().unwrap(), block });
        }
        ledger.enter(&files, &[part(1, 0, Some(vec![frame(0)]))]);
        ledger.note_stored(0, 1);
        assert_eq!(ledger.take(), None);
    }
}
