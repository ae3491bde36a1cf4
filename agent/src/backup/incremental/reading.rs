//! Which pages of a file must be read, when it is known what WAL changed since the parent. Pure.
//!
//! The rules are those of PostgreSQL's `basebackup_incremental.c`, and where WAL says too little for us, more is read:
//!
//! - Only main forks are in the WAL completely. Free space maps are not in it, visibility maps lose bits without a word, an
//!   init fork is small, and no other file consists of pages.
//! - A file that the parent does not have, or that is not made of whole pages here or there, is read whole, and so is
//!   everything in a directory that `CREATE DATABASE`, `DROP DATABASE` or a move touched.
//! - A relation that was created, dropped or truncated is read from the least length on that it had; one that has grown, from
//!   the parent's length on. Both count across the files of a relation.
//! - Where an interrupted backup has a part of a file, that part is judged by what changed since it began, and the rest by what
//!   changed since the parent.
//! - Where the pages that would be taken over stand in too many frames, all around them is read and written afresh.

use std::path::Path;

use pitr::postgres::PAGE_SIZE;
use pitr::postgres::data_directory::{EntryKind, classify};
use pitr::postgres::page::absolute_block;
use pitr::postgres::relation::Fork;
use pitr::repository::backup::StoredPath;
use pitr::wal_summary::{ChangedBlocks, DatabaseLocator, Run};

use super::parent_file::{FrameCount, ParentFile};

const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// Pages that are looked at together: as many as a frame takes.
pub const REGION_PAGES: u32 = 32;
/// Frames that the pages of a region may stand in, besides a new one.
pub const REGION_FRAMES: usize = 8;

/// What to read of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of it; pages equal to the parent's can still be shared.
    Whole,
    /// These pages, counted from the beginning of the file, in order and apart from each other. All others are the parent's.
    Pages(Vec<Run>),
}

/// Why nothing follows from what WAL says, for no file at all.
///
/// # Errors
/// The reason in words.
pub fn conclusive(changes: &ChangedBlocks) -> Result<(), String> {
    if changes.wal_level_minimal {
        return Err("wal_level was minimal for a time".to_owned());
    }
    if changes.full_page_writes_off {
        return Err("full_page_writes was off for a time".to_owned());
    }
    match changes.custom_managers.first() {
        Some(manager) => Err(format!("an extension's resource manager {manager} wrote WAL that only it understands")),
        None => Ok(()),
    }
}

/// What an earlier backup has of a file, and what WAL changed since.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    pub file: &'a ParentFile,
    pub changes: &'a ChangedBlocks,
}

/// What to read of the file at `path` that has `size` bytes now. Each page is the first layer's that has it; `parent` is what
/// they have together.
#[must_use]
pub fn decide(path: &StoredPath, size: u64, layers: &[Layer<'_>], parent: &ParentFile) -> Reading {
    let (Ok(pages), Ok(known)) = (u32::try_from(size / PAGE_BYTES), u32::try_from(parent.size() / PAGE_BYTES)) else {
        return Reading::Whole;
    };
    let mut runs = if pages > 0 { vec![Run { first: 0, last: pages - 1 }] } else { Vec::new() };
    // From the last to the first: what a layer has it decides.
    for layer in layers.iter().rev() {
        let Some(changed) = changed_pages(path, size, pages, layer) else { return Reading::Whole };
        let has = page_runs(layer.file);
        let mut decided = without(&runs, &has);
        decided.extend(within(&changed, &has));
        decided.sort_by_key(|run| run.first);
        runs = decided;
    }
    let mut joined = Runs::default();
    runs.iter().for_each(|run| joined.push(run.first, run.last));
    if joined.0.first() == Some(&Run { first: 0, last: pages.wrapping_sub(1) }) {
        return Reading::Whole;
    }
    Reading::Pages(unfragmented(joined.0, pages.min(known), parent))
}

/// The pages that are all there.
fn page_runs(file: &ParentFile) -> Vec<Run> {
    let page = |byte: u64| u32::try_from(byte / PAGE_BYTES).unwrap_or(u32::MAX);
    let spans = file
        .spans()
        .into_iter()
        .map(|span| (page(span.start.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX)), page(span.end)));
    spans.filter(|(first, behind)| first < behind).map(|(first, behind)| Run { first, last: behind - 1 }).collect()
}

/// What is in both of two lists of runs, each in order and without overlap.
fn within(runs: &[Run], spans: &[Run]) -> Vec<Run> {
    let mut both = Vec::new();
    let (mut runs, mut spans) = (runs.iter().peekable(), spans.iter().peekable());
    while let (Some(run), Some(span)) = (runs.peek(), spans.peek()) {
        let (first, last) = (run.first.max(span.first), run.last.min(span.last));
        if first <= last {
            both.push(Run { first, last });
        }
        if run.last <= span.last {
            runs.next();
        } else {
            spans.next();
        }
    }
    both
}

/// What of the first list is not in the second.
fn without(runs: &[Run], spans: &[Run]) -> Vec<Run> {
    let mut begin = Some(0);
    let mut gaps = Vec::new();
    for span in spans {
        let gap = begin.zip(span.first.checked_sub(1)).filter(|(first, last)| first <= last);
        gaps.extend(gap.map(|(first, last)| Run { first, last }));
        begin = span.last.checked_add(1);
    }
    gaps.extend(begin.map(|first| Run { first, last: u32::MAX }));
    within(runs, &gaps)
}

/// The pages of a file of `size` bytes that the layer cannot vouch for; none where it can for no page.
fn changed_pages(path: &StoredPath, size: u64, pages: u32, layer: &Layer<'_>) -> Option<Vec<Run>> {
    let Layer { file: parent, changes } = layer;
    let EntryKind::Relation(file) = classify(Path::new(path.as_str()), false) else { return None };
    let (relation, whole_pages) =
        (file.relation, size.is_multiple_of(PAGE_BYTES) && parent.size().is_multiple_of(PAGE_BYTES));
    let directory = DatabaseLocator { database: relation.database, tablespace: relation.tablespace };
    if file.fork != Fork::Main || !whole_pages || changes.databases.contains(&directory) {
        return None;
    }
    let known = u32::try_from(parent.size() / PAGE_BYTES).ok()?;
    let first = absolute_block(file.segment, 0);
    let mut runs = Runs::default();
    let changed = changes.relation(relation, Fork::Main);
    let limit = changed.and_then(|changed| changed.limit).map_or(u32::MAX, |limit| limit.saturating_sub(first));
    let end = limit.min(known);
    for run in changed.map(|changed| changed.blocks.runs()).unwrap_or_default() {
        let (Some(last), from) = (run.last.checked_sub(first), run.first.saturating_sub(first)) else { continue };
        if from >= end {
            break;
        }
        runs.push(from, last.min(end - 1));
    }
    if let Some(last) = pages.checked_sub(1).filter(|last| *last >= end) {
        runs.push(end, last);
    }
    runs.cut(pages);
    Some(runs.0)
}

/// Runs in order, apart from each other.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

impl Runs {
    /// `first` is not before that of the last run.
    fn push(&mut self, first: u32, last: u32) {
        match self.0.last_mut() {
            Some(run) if first <= run.last.saturating_add(1) => run.last = run.last.max(last),
            _ => self.0.push(Run { first, last }),
        }
    }

    fn cut(&mut self, pages: u32) {
        self.0.retain(|run| run.first < pages);
        if let Some(run) = self.0.last_mut() {
            run.last = run.last.min(pages.saturating_sub(1));
        }
    }
}

/// Reads regions whole that have something to read anyhow, and whose other pages stand in too many frames. `shared` is how
/// many pages the parent has.
fn unfragmented(runs: Vec<Run>, shared: u32, parent: &ParentFile) -> Vec<Run> {
    let mut wider = Runs::default();
    let mut at = 0;
    while let Some(run) = runs.get(at) {
        let region = run.first / REGION_PAGES * REGION_PAGES;
        let behind = region.saturating_add(REGION_PAGES);
        let within = runs.get(at..).unwrap_or_default().iter().take_while(|run| run.first < behind);
        if too_many_frames(within.clone(), region, behind.min(shared), parent) {
            wider.push(region, behind.min(shared).saturating_sub(1));
        }
        for run in within {
            wider.push(run.first, run.last);
            at += 1;
        }
    }
    wider.0
}

fn too_many_frames<'a>(runs: impl Iterator<Item = &'a Run>, from: u32, to: u32, parent: &ParentFile) -> bool {
    let mut count = FrameCount::default();
    let mut position = from;
    let byte = |page: u32| u64::from(page) * PAGE_BYTES;
    let mut add = |from: u32, to: u32| parent.slice(byte(from), byte(to)).for_each(|extent| count.add(&extent));
    for run in runs {
        add(position, run.first.min(to).max(position));
        position = run.last.saturating_add(1).max(position);
    }
    add(position, to.max(position));
    count.frames() > REGION_FRAMES
}

#[cfg(test)]
mod tests;
