//! One thread that copies: reads, verifies, hashes, compresses, packs. Every byte is touched once, while it is in the cache.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pitr::codec::Compressor;
use pitr::postgres::page::{Page, absolute_block};
use pitr::postgres::{PAGE_SIZE, RelationFileName};
use pitr::repository::backup::pack::FRAME_BYTES;
use pitr::repository::backup::{CorruptPage, StoredPath};
use pitr::repository::hash::BlockHash;

use super::error::CopyError;
use super::filenode_map;
use super::frame::{Extents, FrameBuffer, push_zeros};
use super::maps::CopiedPart;
use super::pack_writer::PackWriter;
use super::page_check::PageOutcome;
use super::plan::{ChangedFile, Part, Source, UNIT_BYTES, Unit};
use super::sample_reader::SampleReader;
use super::shared::{Shared, Work};
use super::source::{SourceFile, SourceStat};
use super::upload::PackPermit;
use crate::backup::incremental::hashes::LastTable;
use crate::backup::incremental::parent_file::{FrameCount, ParentFile};
use crate::backup::incremental::reading::REGION_FRAMES;
use crate::backup::listing::{FileKind, ListedFile};

const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// Of less than this the page cache is not asked.
const SMALL_RUN_BYTES: u64 = 256 << 10;
/// How often a file with a checksum of its own is read until it matches.
const REREADS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);
/// How often we look whether a database's directory goes, as its file did.
const DROP_LOOKS: u32 = 300;
/// More corrupt pages than this are counted, but not named.
pub const MAX_CORRUPT_PAGES: usize = 10_000;

pub struct Worker {
    shared: Arc<Shared>,
    compressor: Compressor,
    frame: FrameBuffer,
    pack: Option<(PackWriter, PackPermit)>,
    /// The parts of the unit at hand.
    parts: Vec<CopiedPart>,
    hashes: Vec<Option<BlockHash>>,
    /// Which of the blocks at the frame's tail the parent has.
    known: Vec<bool>,
    table: LastTable,
}

impl Worker {
    /// # Errors
    /// A compression level that zstd does not have.
    pub fn new(shared: Arc<Shared>) -> Result<Self, CopyError> {
        let compressor = Compressor::new(shared.compression_level)?;
        Ok(Self {
            shared,
            compressor,
            frame: FrameBuffer::default(),
            pack: None,
            parts: Vec::new(),
            hashes: Vec::new(),
            known: Vec::new(),
            table: LastTable::default(),
        })
    }

    /// Works until nothing is left. Blocking.
    ///
    /// # Errors
    /// The first failure; the copy is then to stop as a whole.
    pub fn run(mut self) -> Result<(), CopyError> {
        while let Some(work) = self.shared.next_work() {
            match work {
                Work::Copy(unit) => self.copy_unit(&unit)?,
                Work::Prepare => self.shared.prepare(&mut self.compressor)?,
            }
        }
        self.shared.check_cancelled()?;
        self.close_pack()
    }

    fn copy_unit(&mut self, unit: &Unit) -> Result<(), CopyError> {
        for part in &unit.parts {
            self.shared.check_cancelled()?;
            self.parts.push(CopiedPart { part: part.clone(), extents: Some(Extents::new()), stat: None });
            self.copy_part(part)?;
            self.shared.progress.bytes.fetch_add(part.bytes, Ordering::Relaxed);
            if part.offset == 0 {
                self.shared.progress.files.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.close_frame()?;
        let parts = std::mem::take(&mut self.parts);
        self.shared.finish_unit(unit.map, parts, &mut self.compressor)
    }

    fn copy_part(&mut self, part: &Part) -> Result<(), CopyError> {
        let Some(file) = self.shared.files.get(part.file) else { return Ok(()) };
        let disk = self.shared.data_directory.join(file.path.to_path());
        if file.kind == FileKind::FilenodeMap {
            return self.copy_filenode_map(&file, &disk, part);
        }
        let Some(source) = SourceFile::open(&disk)? else { return self.gone(&file, &disk) };
        if let Source::Pages(changed) = &part.source {
            return self.copy_changed(&source, part, changed, &Pages::of(&file.path));
        }
        match file.kind {
            FileKind::Relation => self.copy_range(&source, &Range::of(part), &Pages::of(&file.path)),
            _ if part.whole => self.copy_as_it_is(&source, part),
            _ => self.copy_range(&source, &Range::of(part), &Pages::None),
        }
    }

    /// A small file that is no relation's is replaced as a whole: what counts is its size now.
    fn copy_as_it_is(&mut self, source: &SourceFile, part: &Part) -> Result<(), CopyError> {
        let stat = source.stat()?;
        let most = part.bytes.max(2 * UNIT_BYTES);
        let range = Range { bytes: stat.size.min(most), fill_up: false, ..Range::of(part) };
        self.copy_range(source, &range, &Pages::None)?;
        if let Some(copied) = self.parts.last_mut() {
            copied.stat = Some(SourceStat { size: copied.bytes(), ..stat });
        }
        Ok(())
    }

    /// A file that was listed has disappeared. Most may.
    fn gone(&mut self, file: &ListedFile, disk: &Path) -> Result<(), CopyError> {
        let indispensable = matches!(file.kind, FileKind::Version | FileKind::FilenodeMap);
        if indispensable && !self.directory_goes(file, disk)? {
            return Err(CopyError::Missing { path: disk.to_owned() });
        }
        if let Some(copied) = self.parts.last_mut() {
            copied.extents = None;
        }
        Ok(())
    }

    /// Whether the file's whole directory is being removed, as DROP DATABASE does it: file by file.
    fn directory_goes(&self, file: &ListedFile, disk: &Path) -> Result<bool, CopyError> {
        let of_database = file.path.as_str().starts_with("base/") || file.path.as_str().starts_with("pg_tblspc/");
        if !of_database {
            return Ok(false);
        }
        for _ in 0..DROP_LOOKS {
            self.shared.check_cancelled()?;
            if disk.parent().is_some_and(|directory| !directory.exists()) {
                return Ok(true);
            }
            std::thread::sleep(self.shared.drop_pause);
        }
        Ok(false)
    }

    /// Reads some pages, and takes the others over from the parent.
    fn copy_changed(
        &mut self,
        source: &SourceFile,
        part: &Part,
        changed: &ChangedFile,
        pages: &Pages,
    ) -> Result<(), CopyError> {
        let end = part.offset + part.bytes;
        let mut position = part.offset;
        let first = changed.read.partition_point(|run| (u64::from(run.last) + 1) * PAGE_BYTES <= part.offset);
        for run in changed.read.iter().skip(first) {
            let from = (u64::from(run.first) * PAGE_BYTES).max(position);
            let to = ((u64::from(run.last) + 1) * PAGE_BYTES).min(end);
            if from >= to {
                break;
            }
            self.share(&changed.parent, position, from);
            self.copy_pages(source, from, to, pages)?;
            position = to;
        }
        self.share(&changed.parent, position, end);
        self.sample(source, part, changed, pages)
    }

    /// Holds pages that should not have changed against the parent's.
    fn sample(
        &mut self,
        source: &SourceFile,
        part: &Part,
        changed: &ChangedFile,
        pages: &Pages,
    ) -> Result<(), CopyError> {
        let (first, behind) = (part.offset / PAGE_BYTES, (part.offset + part.bytes) / PAGE_BYTES);
        let Some(hashes) = self.shared.sharing.hashes.as_ref().filter(|_| !changed.sample.is_empty()) else {
            return Ok(());
        };
        let reader =
            SampleReader { source, parent: &changed.parent, hashes, start_lsn: self.shared.page_check.start_lsn };
        for run in &changed.sample {
            let run = u64::from(run.first).max(first)..(u64::from(run.last) + 1).min(behind);
            for page in run {
                self.shared.check_cancelled()?;
                self.shared.progress.pages.fetch_add(1, Ordering::Relaxed);
                self.shared.progress.sampled_pages.fetch_add(1, Ordering::Relaxed);
                if !reader.is_unchanged(page, &mut self.table)?
                    && let Pages::Relation { path, segment } = pages
                {
                    let block = absolute_block(*segment, u32::try_from(page).unwrap_or(u32::MAX));
                    return Err(CopyError::Unlike { path: path.clone(), block });
                }
            }
        }
        Ok(())
    }

    /// Pages that have changed go where there is room: those of many files stand in one frame.
    fn copy_pages(&mut self, source: &SourceFile, from: u64, to: u64, pages: &Pages) -> Result<(), CopyError> {
        let keep_cached = to - from < SMALL_RUN_BYTES || source.is_cached(from, to - from);
        let mut offset = from;
        while offset < to {
            self.shared.check_cancelled()?;
            if self.frame.room() < PAGE_SIZE {
                self.close_frame()?;
            }
            let room = self.frame.room() / PAGE_SIZE * PAGE_SIZE;
            let wanted = usize::try_from(to - offset).unwrap_or(usize::MAX).min(room);
            let count = source.read(self.frame.tail(wanted), offset)?;
            if let Pages::Relation { path, segment } = pages {
                self.check_pages(source, path, *segment, offset, count)?;
            }
            self.keep(count);
            offset += count as u64;
            if count < wanted {
                break;
            }
        }
        // Cut meanwhile, as in a file that is read whole.
        self.push_zeros(to - offset);
        if !keep_cached {
            source.drop_cache(from, to - from);
        }
        Ok(())
    }

    fn share(&mut self, parent: &ParentFile, from: u64, to: u64) {
        if let Some(extents) = self.parts.last_mut().and_then(|copied| copied.extents.as_mut()) {
            parent.share(from, to, extents);
        }
    }

    fn copy_range(&mut self, source: &SourceFile, range: &Range<'_>, pages: &Pages) -> Result<(), CopyError> {
        let keep_cached = source.is_cached(range.offset, range.bytes);
        let end = range.offset + range.bytes;
        let mut offset = range.offset;
        while offset < end {
            self.shared.check_cancelled()?;
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
            // A small file goes where it fits whole, every other begins a frame: so equal files make equal frames.
            if left.min(FRAME_BYTES) > self.frame.room() {
                self.close_frame()?;
            }
            let wanted = left.min(FRAME_BYTES);
            let count = source.read(self.frame.tail(wanted), offset)?;
            if let Pages::Relation { path, segment } = pages {
                self.check_pages(source, path, *segment, offset, count)?;
            }
            match range.parent {
                Some(parent) => self.keep_what_differs(parent, offset, count)?,
                None => self.keep(count),
            }
            offset += count as u64;
            if count < wanted {
                break;
            }
        }
        if offset < end && range.fill_up {
            // Cut meanwhile. As pg_basebackup does it: replay wants segments of full length below the last.
            self.push_zeros(end - offset);
        }
        if !keep_cached {
            source.drop_cache(range.offset, range.bytes);
        }
        Ok(())
    }

    /// Holds the pages at the tail of the frame against their checksums, in place. A page that is not all there is being
    /// added or cut off: nothing is known of it.
    fn check_pages(
        &mut self,
        source: &SourceFile,
        path: &StoredPath,
        segment: u32,
        offset: u64,
        count: usize,
    ) -> Result<(), CopyError> {
        let check = &self.shared.page_check;
        let first_block = offset / PAGE_SIZE as u64;
        let (pages, _) = self.frame.tail(count).as_chunks_mut::<PAGE_SIZE>();
        self.shared.progress.pages.fetch_add(pages.len() as u64, Ordering::Relaxed);
        if !check.enabled {
            return Ok(());
        }
        for (page, number) in pages.iter_mut().zip(first_block..) {
            let block = absolute_block(segment, u32::try_from(number).unwrap_or(u32::MAX));
            let page: &mut Page = page;
            let reread = |again: &mut Page| Ok(source.try_read(again, number * PAGE_SIZE as u64)? == PAGE_SIZE);
            let outcome = check.check(page, block, reread).map_err(|error| CopyError::read(source.path(), error))?;
            if outcome == PageOutcome::Corrupt {
                self.shared.note_corrupt(CorruptPage { path: path.clone(), block });
            }
        }
        Ok(())
    }

    fn copy_filenode_map(&mut self, listed: &ListedFile, disk: &Path, part: &Part) -> Result<(), CopyError> {
        for _ in 0..REREADS {
            self.shared.check_cancelled()?;
            // Opened anew each time: from 16 on it is replaced by another file.
            let Some(source) = SourceFile::open(disk)? else { return self.gone(listed, disk) };
            let stat = source.stat()?;
            let mut content = [0; filenode_map::MAX_BYTES];
            let count = source.read(&mut content, 0)?;
            let content = content.get(..count).unwrap_or_default();
            if filenode_map::is_whole(content) {
                self.copy_bytes(content, Range::of(part).parent)?;
                if let Some(copied) = self.parts.last_mut() {
                    copied.stat = Some(SourceStat { size: count as u64, ..stat });
                }
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        Err(CopyError::Damaged { path: disk.to_owned() })
    }

    /// Takes a file of at most a frame that is in memory already.
    fn copy_bytes(&mut self, content: &[u8], parent: Option<&ParentFile>) -> Result<(), CopyError> {
        if content.len() > self.frame.room() {
            self.close_frame()?;
        }
        self.frame.tail(content.len()).copy_from_slice(content);
        match parent {
            Some(parent) => self.keep_what_differs(parent, 0, content.len()),
            None => {
                self.keep(content.len());
                Ok(())
            }
        }
    }

    /// Keeps those blocks at the tail of the frame, read from `offset` on, that the parent does not have there; all of them
    /// where the others stand in too many frames.
    fn keep_what_differs(&mut self, parent: &ParentFile, offset: u64, count: usize) -> Result<(), CopyError> {
        let Some(parent_hashes) = &self.shared.sharing.hashes else {
            self.keep(count);
            return Ok(());
        };
        self.frame.hash_tail(count, &mut self.hashes);
        self.known.clear();
        let mut frames = FrameCount::default();
        let end = offset + count as u64;
        let place = |index: usize| {
            let from = offset + index as u64 * PAGE_BYTES;
            (from, (from + PAGE_BYTES).min(end))
        };
        for (index, hash) in self.hashes.iter().enumerate() {
            let (from, to) = place(index);
            let before = match hash {
                Some(_) => parent_hashes.of_block(parent, from, to, &mut self.table).map_err(CopyError::Parent)?,
                None => None,
            };
            let known = hash.is_some() && before == *hash;
            if known {
                parent.slice(from, to).for_each(|extent| frames.add(&extent));
            }
            self.known.push(known);
        }
        let differs = self.hashes.iter().zip(&self.known).any(|(hash, known)| hash.is_some() && !known);
        if differs && frames.frames() > REGION_FRAMES {
            self.known.fill(false);
        }
        let part = self.parts.len().saturating_sub(1);
        let Some(extents) = self.parts.last_mut().and_then(|copied| copied.extents.as_mut()) else { return Ok(()) };
        let known = &self.known;
        self.frame.keep_unless(count, part, extents, &self.hashes, |index, extents| {
            let shared = known.get(index).copied().unwrap_or(false);
            if shared {
                let (from, to) = place(index);
                parent.share(from, to, extents);
            }
            shared
        });
        Ok(())
    }

    fn keep(&mut self, count: usize) {
        let part = self.parts.len().saturating_sub(1);
        if let Some(extents) = self.parts.last_mut().and_then(|copied| copied.extents.as_mut()) {
            self.frame.keep(count, part, extents);
        }
    }

    fn push_zeros(&mut self, bytes: u64) {
        if let Some(extents) = self.parts.last_mut().and_then(|copied| copied.extents.as_mut()) {
            push_zeros(extents, bytes);
        }
    }

    /// Writes the frame to the pack, if there is anything in it.
    fn close_frame(&mut self) -> Result<(), CopyError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        if self.pack.is_none() {
            let permit = self.shared.uploads.acquire_pack()?;
            let number = self.shared.next_pack.fetch_add(1, Ordering::Relaxed);
            self.pack = Some((PackWriter::new(self.shared.packs.id(number)), permit));
        }
        let Some((pack, _)) = &mut self.pack else { return Ok(()) };
        let (plain, blocks) = self.frame.content();
        let place = pack.append(&mut self.compressor, plain, blocks)?;
        let full = pack.is_full();
        let parts = &mut self.parts;
        self.frame.settle(&place, |part, extents| {
            if let Some(extents_of_part) = parts.get_mut(part).and_then(|copied| copied.extents.as_mut()) {
                extents(extents_of_part);
            }
        });
        if let Some(pace) = &self.shared.pace {
            pace.wait(u64::from(place.stored_bytes), &self.shared.cancel);
        }
        if full { self.close_pack() } else { Ok(()) }
    }

    fn close_pack(&mut self) -> Result<(), CopyError> {
        match self.pack.take() {
            Some((pack, permit)) => self.shared.uploads.pack(pack.finish(), permit),
            None => Ok(()),
        }
    }
}

/// What to read of a file.
#[derive(Clone, Copy, Debug)]
struct Range<'a> {
    offset: u64,
    bytes: u64,
    /// Zeros stand for what is missing at the end.
    fill_up: bool,
    /// What need not be stored again.
    parent: Option<&'a ParentFile>,
}

impl<'a> Range<'a> {
    fn of(part: &'a Part) -> Self {
        let parent = match &part.source {
            Source::Compared(parent) => Some(&**parent),
            Source::Disk | Source::Pages(_) => None,
        };
        Self { offset: part.offset, bytes: part.bytes, fill_up: true, parent }
    }
}

/// Whether what is read is pages.
enum Pages {
    None,
    Relation { path: StoredPath, segment: u32 },
}

impl Pages {
    fn of(path: &StoredPath) -> Self {
        let name = path.as_str().rsplit('/').next().unwrap_or_default();
        match name.parse::<RelationFileName>() {
            Ok(name) => Self::Relation { path: path.clone(), segment: name.segment },
            Err(_) => Self::None,
        }
    }
}
