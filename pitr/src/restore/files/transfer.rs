//! Brings the files of all maps into a tree: requests in flight, decoding threads, and what stops them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::comparison::{Compared, FrameComparer};
use super::file_writer::FileWriter;
use super::frame::{FrameDecoder, FrameFault};
use super::map::FileMap;
use super::pack_table::{PackTable, read_range};
use super::pack_tables::PackTables;
use super::read_plan::{FrameRead, PackRange, parts, ranges};
use super::surplus::{KeptPaths, Removed, remove_surplus};
use super::tree::Tree;
use crate::fs::{self, FailureKind};
use crate::postgres::control_file::CONTROL_FILE_SIZE;
use crate::repository::LineageStore;
use crate::repository::backup::{Extent, PackId, StoredPath};
use crate::repository::layout::LineageLayout;
use crate::restore::contents::{Contents, MapRef};
use crate::restore::progress::ProgressSender;
use crate::restore::{Error, Result};

/// The file whose presence makes a data directory one that can start.
pub(super) const CONTROL_FILE: &str = "global/pg_control";

/// How much happens at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// Threads that decompress, check and write.
    pub workers: usize,
    /// Requests to the repository that are under way, or wait for a worker with what they brought.
    pub requests: usize,
    pub request_bytes: u64,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self { workers: 2, requests: 6, request_bytes: 4 << 20 }
    }
}

/// One transfer.
#[derive(Debug)]
pub(in crate::restore) struct Transfer {
    shared: Arc<Shared>,
    options: TransferOptions,
    workers: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the decoding threads need.
#[derive(Debug)]
struct Shared {
    lineage: LineageStore,
    tree: Arc<Tree>,
    progress: ProgressSender,
    decoders: Mutex<Vec<FrameDecoder>>,
    tables: PackTables,
    kept: KeptPaths,
}

/// The blocks of frames, by offset, where the extents do not tell them.
type KnownBlocks = Option<Arc<PackTable>>;

impl Transfer {
    pub(in crate::restore) fn new(
        lineage: LineageStore,
        tree: Arc<Tree>,
        options: TransferOptions,
        progress: ProgressSender,
        cancel: &CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                lineage,
                tree,
                progress,
                decoders: Mutex::default(),
                tables: PackTables::default(),
                kept: KeptPaths::default(),
            }),
            options,
            workers: Arc::new(Semaphore::new(options.workers.max(1))),
            tasks: TaskTracker::new(),
            stop: cancel.child_token(),
        }
    }

    /// Writes every file but `global/pg_control`, whose content is returned. When this returns, whatever the outcome,
    /// nothing writes any more.
    ///
    /// # Errors
    /// [`Error::Interrupted`], what the repository or the destination says, or damage.
    pub(in crate::restore) async fn run(&self, contents: &Contents) -> Result<Option<Vec<u8>>> {
        let control = Mutex::new(None);
        let done = tokio::select! {
            () = self.stop.cancelled() => Err(Error::Interrupted),
            done = self.write_all(contents, &control) => done,
        };
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        done.map(|()| control.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write_all(&self, contents: &Contents, control: &Mutex<Option<Vec<u8>>>) -> Result<()> {
        stream::iter(&contents.maps)
            .map(|map| self.open_map(map, control))
            .buffered(2)
            .map_ok(|(writer, ranges)| stream::iter(ranges).map(move |range| Ok((Arc::clone(&writer), range))))
            .try_flatten()
            .map_ok(|(writer, range)| self.write_range(writer, range))
            .try_buffer_unordered(self.options.requests.max(1))
            .try_collect()
            .await
    }

    /// Loads a map, takes the control file out of it, and makes the files for which nothing needs to be read.
    async fn open_map(
        &self,
        map: &MapRef,
        control: &Mutex<Option<Vec<u8>>>,
    ) -> Result<(Arc<FileWriter>, Vec<PackRange>)> {
        let key = self.shared.lineage.layout().map(&map.hash);
        let damaged = |reason: String| Error::Damaged { object: key.to_string(), reason };
        let mut files = FileMap::load(&self.shared.lineage, map).await?;
        if let Some(at) = files.files.iter().position(|file| file.path.as_str() == CONTROL_FILE) {
            let only = FileMap { packs: files.packs.clone(), files: vec![files.files.remove(at)] };
            let content = self.read_control_file(&only).await?;
            let earlier = control.lock().unwrap_or_else(PoisonError::into_inner).replace(content);
            if earlier.is_some() {
                return Err(damaged(format!("names \"{CONTROL_FILE}\" for a second time")));
            }
            self.shared.progress.update(|progress| {
                progress.files_done += 1;
                progress.bytes_done += CONTROL_FILE_SIZE as u64;
            });
        }
        let ranges = ranges(&files, self.options.request_bytes).map_err(damaged)?;
        if self.shared.tree.reuses_files() {
            // Where nothing need be new, the file system does not tell of a second file of one name.
            if let Some(twice) = files.files.iter().find(|file| !self.shared.kept.add_new(&file.path)) {
                return Err(damaged(format!("names \"{}\" twice", twice.path)));
            }
            let writer = FileWriter::new(Arc::clone(&self.shared.tree), files);
            return Ok((self.adopt(writer).await?, ranges));
        }
        let writer = Arc::new(FileWriter::new(Arc::clone(&self.shared.tree), files));
        let created = Arc::clone(&writer);
        let shared = Arc::clone(&self.shared);
        self.blocking(move || {
            let (files, bytes) = created.write_empty_files().map_err(|error| shared.write_error(error))?;
            shared.progress.update(|progress| {
                progress.files_done += files;
                progress.bytes_done += bytes;
            });
            Ok(())
        })
        .await?;
        Ok((writer, ranges))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.tasks.spawn_blocking(work).await.map_err(|error| Error::panicked(&error))?
    }

    async fn adopt(&self, mut writer: FileWriter) -> Result<Arc<FileWriter>> {
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        self.blocking(move || {
            let adopted = writer.adopt_files(&stop)?;
            shared.progress.update(|progress| {
                progress.files_done += adopted.files;
                progress.bytes_done += adopted.bytes;
                progress.compared_bytes += adopted.compared_bytes;
                progress.reused_bytes += adopted.reused_bytes;
            });
            Ok(Arc::new(writer))
        })
        .await
    }

    /// Brings what the frames of one range hold into the files, from the repository or because it is there.
    async fn write_range(&self, writer: Arc<FileWriter>, range: PackRange) -> Result<()> {
        if !self.shared.tree.reuses_files() {
            return self.fetch_and_write(writer, range).await;
        }
        let (mut lacking, untold) = self.compare(&writer, range.frames, None).await?;
        if !untold.is_empty() {
            let (table, read_bytes) = self.shared.tables.get(&self.shared.lineage, &range.pack).await?;
            self.shared.progress.update(|progress| progress.fetched_bytes += read_bytes);
            lacking.extend(self.compare(&writer, untold, Some(table)).await?.0);
            lacking.sort_by_key(|frame| frame.offset);
        }
        for part in parts(&range.pack, lacking, self.options.request_bytes) {
            self.fetch_and_write(Arc::clone(&writer), part).await?;
        }
        Ok(())
    }

    /// Returns the frames of which something is lacking, and those that need a table before that can be told: with one
    /// there are none.
    async fn compare(
        &self,
        writer: &Arc<FileWriter>,
        frames: Vec<FrameRead>,
        table: KnownBlocks,
    ) -> Result<(Vec<FrameRead>, Vec<FrameRead>)> {
        let permit = Arc::clone(&self.workers).acquire_owned().await.map_err(|_| Error::Interrupted)?;
        let (shared, stop, writer) = (Arc::clone(&self.shared), self.stop.clone(), Arc::clone(writer));
        self.blocking(move || {
            let _permit = permit;
            shared.compare(&writer, frames, table.as_deref(), &stop)
        })
        .await
    }

    /// Removes what the tree has and the backup lacks, where files of an old cluster are reused; `run` has returned. Blocks.
    pub(in crate::restore) fn remove_surplus<'a>(
        &self,
        others: impl Iterator<Item = &'a StoredPath>,
        version_directory: &str,
    ) -> Result<Removed> {
        others.for_each(|path| self.shared.kept.add(path));
        Ok(remove_surplus(&self.shared.tree, &self.shared.kept, version_directory)?)
    }

    /// Reads one range and writes all that its frames hold.
    async fn fetch_and_write(&self, writer: Arc<FileWriter>, range: PackRange) -> Result<()> {
        let range = Arc::new(range);
        let stored = self.fetch(&range).await?;
        let unproven = self.write_frames(&writer, &range, stored.clone(), None).await?;
        if unproven == 0 {
            return Ok(());
        }
        let (table, _) = self.shared.tables.get(&self.shared.lineage, &range.pack).await?;
        self.write_frames(&writer, &range, stored, Some(table)).await.map(|_| ())
    }

    async fn fetch(&self, range: &PackRange) -> Result<Bytes> {
        let key = self.shared.lineage.layout().pack(&range.pack);
        let stored = read_range(&self.shared.lineage, &key, range.start, range.end).await?;
        self.shared.progress.update(|progress| progress.fetched_bytes += stored.len() as u64);
        Ok(stored)
    }

    /// Returns how many frames could not be proven without the pack's table; with it there are none.
    async fn write_frames(
        &self,
        writer: &Arc<FileWriter>,
        range: &Arc<PackRange>,
        stored: Bytes,
        table: KnownBlocks,
    ) -> Result<u64> {
        // Never closed: an error would mean that we are gone.
        let permit = Arc::clone(&self.workers).acquire_owned().await.map_err(|_| Error::Interrupted)?;
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        let (writer, range) = (Arc::clone(writer), Arc::clone(range));
        self.blocking(move || {
            let _permit = permit;
            let mut decoder = shared.decoder();
            let result = shared.write_frames(&mut decoder, &writer, &range, &stored, table.as_deref(), &stop);
            shared.give_back(decoder);
            result
        })
        .await
    }

    async fn read_control_file(&self, map: &FileMap) -> Result<Vec<u8>> {
        let size = map.files.first().map_or(0, |file| file.size);
        let object = format!("{} ({CONTROL_FILE})", self.shared.lineage.layout().root());
        let damaged = |reason: String| Error::Damaged { object: object.clone(), reason };
        if size != CONTROL_FILE_SIZE as u64 {
            return Err(damaged(format!("has {size} bytes")));
        }
        let mut content = vec![0; CONTROL_FILE_SIZE];
        for range in ranges(map, self.options.request_bytes).map_err(damaged)? {
            let stored = self.fetch(&range).await?;
            let table = PackTable::load(&self.shared.lineage, &range.pack).await?;
            for frame in &range.frames {
                let mut decoder = self.shared.decoder();
                let fault = |fault| frame_error(self.shared.lineage.layout(), &range.pack, frame, CONTROL_FILE, fault);
                let bytes = frame_bytes(&range, frame, &stored).unwrap_or_default();
                let plain = decoder.decode(frame, bytes, table.blocks(frame.offset)).map_err(fault)?;
                for run in &frame.runs {
                    let (at, bytes) = (run.at as usize, run.bytes as usize);
                    let from = plain.get(at..at.saturating_add(bytes)).unwrap_or_default();
                    let offset = usize::try_from(run.file_offset).unwrap_or(usize::MAX);
                    content.iter_mut().skip(offset).zip(from).for_each(|(to, from)| *to = *from);
                }
                self.shared.give_back(decoder);
            }
        }
        Ok(content)
    }
}

impl Shared {
    fn decoder(&self) -> FrameDecoder {
        let kept = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(FrameDecoder::new)
    }

    fn give_back(&self, decoder: FrameDecoder) {
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
    }

    /// Blocks. Notes the runs that are there, and leaves the others to the frames that it returns.
    fn compare(
        &self,
        writer: &FileWriter,
        frames: Vec<FrameRead>,
        table: Option<&PackTable>,
        stop: &CancellationToken,
    ) -> Result<(Vec<FrameRead>, Vec<FrameRead>)> {
        let mut comparer = FrameComparer::default();
        let (mut lacking, mut untold) = (Vec::new(), Vec::new());
        let (mut files, mut bytes, mut reused) = (0, 0, 0);
        for mut frame in frames {
            if stop.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let compared = match table {
                Some(table) => comparer.by_blocks(writer, &frame, table.blocks(frame.offset))?,
                None => comparer.by_frame(writer, &frame)?,
            };
            let differing = match compared {
                Compared::Same => Vec::new(),
                Compared::Differs(runs) => runs,
                Compared::NeedsTable => {
                    untold.push(frame);
                    continue;
                }
            };
            for run in frame.runs.iter().filter(|run| !differing.contains(run)) {
                reused += u64::from(run.bytes);
                bytes += u64::from(run.bytes);
                if writer.keep(run)? {
                    files += 1;
                    bytes += writer.file(run.file).map_or(0, zero_bytes);
                }
            }
            if !differing.is_empty() {
                frame.runs = differing;
                lacking.push(frame);
            }
        }
        self.progress.update(|progress| {
            progress.files_done += files;
            progress.bytes_done += bytes;
            progress.reused_bytes += reused;
            progress.compared_bytes += comparer.read_bytes;
        });
        Ok((lacking, untold))
    }

    /// Blocks. Without a table all frames are tried and those that need one are left out; with it only those are written
    /// that were left out before.
    fn write_frames(
        &self,
        decoder: &mut FrameDecoder,
        writer: &FileWriter,
        range: &PackRange,
        stored: &[u8],
        table: Option<&PackTable>,
        stop: &CancellationToken,
    ) -> Result<u64> {
        let (mut unproven, mut files, mut bytes) = (0, 0, 0);
        for frame in &range.frames {
            if stop.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let user =
                || frame.runs.first().and_then(|run| writer.file(run.file)).map_or("", |file| file.path.as_str());
            let fault = |fault| frame_error(self.lineage.layout(), &range.pack, frame, user(), fault);
            let stored = frame_bytes(range, frame, stored).unwrap_or_default();
            let plain = match (decoder.decode(frame, stored, None), table) {
                (Ok(_), Some(_)) => continue,
                (Ok(plain), None) => plain,
                (Err(FrameFault::OtherBlocks), None) => {
                    unproven += 1;
                    continue;
                }
                (Err(FrameFault::OtherBlocks), Some(table)) => {
                    let blocks = table.blocks(frame.offset).ok_or_else(|| fault(FrameFault::OtherBlocks))?;
                    decoder.decode(frame, stored, Some(blocks)).map_err(fault)?
                }
                (Err(error), _) => return Err(fault(error)),
            };
            for run in &frame.runs {
                let (at, length) = (run.at as usize, run.bytes as usize);
                // The decoder has checked that the frame holds every run.
                let content = plain.get(at..at.saturating_add(length)).unwrap_or_default();
                let complete = writer.write(run, content).map_err(|error| self.write_error(error))?;
                bytes += u64::from(run.bytes);
                if complete {
                    files += 1;
                    bytes += writer.file(run.file).map_or(0, zero_bytes);
                }
            }
        }
        self.progress.update(|progress| {
            progress.files_done += files;
            progress.bytes_done += bytes;
        });
        Ok(unproven)
    }

    /// The directory was empty: a name that is taken was given by the backup itself.
    fn write_error(&self, error: fs::Error) -> Error {
        match error.kind() {
            FailureKind::AlreadyExists => Error::Damaged {
                object: self.lineage.layout().root().to_string(),
                reason: format!("names \"{}\" twice", error.path().display()),
            },
            _ => Error::Files(error),
        }
    }
}

fn zero_bytes(file: &crate::repository::backup::FileEntry) -> u64 {
    file.extents.iter().filter(|extent| matches!(extent, Extent::Zeros { .. })).map(Extent::bytes).sum()
}

fn frame_bytes<'a>(range: &PackRange, frame: &FrameRead, stored: &'a [u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(frame.offset.checked_sub(range.start)?).ok()?;
    stored.get(start..start.checked_add(frame.stored_bytes as usize)?)
}

fn frame_error(layout: &LineageLayout, pack: &PackId, frame: &FrameRead, file: &str, fault: FrameFault) -> Error {
    let what = match fault {
        FrameFault::Damaged(what) => what,
        FrameFault::OtherBlocks => "is not in the table of its pack".to_owned(),
    };
    let reason = format!("has a frame at byte {}, needed for \"{file}\", that {what}", frame.offset);
    Error::Damaged { object: layout.pack(pack).to_string(), reason }
}
