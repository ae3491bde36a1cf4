//! What a copy takes over from parents: for each map, which of its files are read, which compared, and which not touched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use pitr::postgres::PAGE_SIZE;
use pitr::repository::backup::StoredPath;
use pitr::repository::hash::ContentHash;
use pitr::wal_summary::{ChangedBlocks, Run};

use super::error::CopyError;
use super::frame::Extents;
use super::maps::{CopiedPart, FinishedMap};
use super::plan::{ChangedFile, MapPlan, MapPlanner, Part, Source, Unit, UnitCutter};
use crate::backup::incremental::cursor::ParentCursor;
use crate::backup::incremental::hashes::ParentHashes;
use crate::backup::incremental::parent_file::ParentFile;
use crate::backup::incremental::reading::{Layer, Reading, decide};
use crate::backup::incremental::sample::Sample;
use crate::backup::listing::{FileList, ListedFile};

/// Where the next map comes from.
#[derive(Debug, Default)]
pub struct Feed {
    pub planner: MapPlanner,
    /// The one whose files are taken first is the first.
    pub cursors: Vec<ParentCursor>,
}

/// The files of one parent that may be those of a map.
#[derive(Debug)]
pub struct ParentFiles {
    files: BTreeMap<StoredPath, ParentFile>,
    changes: Option<Arc<ChangedBlocks>>,
}

impl Feed {
    /// Of each parent, what it has of the paths of `plan`. Maps must be asked for in their order.
    ///
    /// # Errors
    /// A parent's map cannot be read.
    pub fn parents(&mut self, plan: &MapPlan, files: &FileList) -> Result<Vec<ParentFiles>, CopyError> {
        let path = |index: usize| files.get(index).map(|file| file.path);
        let (Some(first), Some(last)) = (path(plan.files.start), path(plan.files.end.saturating_sub(1))) else {
            return Ok(Vec::new());
        };
        let of = |cursor: &mut ParentCursor| {
            let files = cursor.take(&first, &last).map_err(CopyError::Parent)?;
            Ok(ParentFiles { files, changes: cursor.changes.clone() })
        };
        self.cursors.iter_mut().map(of).collect()
    }
}

/// What does not change during a copy.
#[derive(Debug, Default)]
pub struct Sharing {
    /// The maps of parents, and the sizes of their objects.
    pub known_maps: HashSet<ContentHash>,
    pub map_bytes: HashMap<ContentHash, u64>,
    /// None where there is no parent.
    pub hashes: Option<ParentHashes>,
    /// Pages to hold against the parent's, though WAL did not change them.
    pub sample: Option<Sample>,
}

impl Sharing {
    #[must_use]
    pub fn stored_bytes(&self, map: &FinishedMap) -> u64 {
        match &map.object {
            Some(object) => object.iter().map(|chunk| chunk.len() as u64).sum(),
            None => self.map_bytes.get(&map.hash).copied().unwrap_or(0),
        }
    }

    /// Cuts a map into units; files of which nothing must be read are finished at once.
    #[must_use]
    pub fn cut(&self, plan: &MapPlan, files: &FileList, mut parents: Vec<ParentFiles>) -> (Vec<Unit>, Vec<CopiedPart>) {
        let mut cutter = UnitCutter::new(plan.number);
        let mut finished = Vec::new();
        let mut before = 0;
        let first = files.get(plan.files.start).map(|file| file.path);
        for index in plan.files.clone() {
            let Some(file) = files.get(index) else { continue };
            let draw = |pages, read: &[Run]| match (self.sample, &first) {
                (Some(sample), Some(first)) => sample.of_file(first, before, pages, read),
                _ => Vec::new(),
            };
            let source = source(&file, &mut parents, draw);
            before += file.size;
            match &source {
                Source::Pages(changed) if changed.read.is_empty() && changed.sample.is_empty() => {
                    let mut extents = Extents::new();
                    changed.parent.share(0, file.size, &mut extents);
                    let part = Part { file: index, offset: 0, bytes: file.size, whole: true, source: Source::Disk };
                    finished.push(CopiedPart { part, extents: Some(extents), stat: None });
                }
                _ => cutter.add(index, file.size, &source),
            }
        }
        (cutter.finish(), finished)
    }
}

fn source(file: &ListedFile, parents: &mut [ParentFiles], draw: impl FnOnce(u32, &[Run]) -> Vec<Run>) -> Source {
    let found = |parent: &mut ParentFiles| Some((parent.files.remove(&file.path)?, parent.changes.clone()));
    let mut known: Vec<_> = parents.iter_mut().filter_map(found).collect();
    // What stands behind one that has everything is not asked.
    let needed = known.iter().take_while(|(parent, _)| !parent.is_whole(file.size)).count() + 1;
    known.truncate(needed);
    let layers: Option<Vec<Layer<'_>>> =
        known.iter().map(|(file, changes)| Some(Layer { file, changes: changes.as_deref()? })).collect();
    let Some((first, rest)) = known.split_first() else { return Source::Disk };
    let all = (!rest.is_empty()).then(|| rest.iter().fold(first.0.clone(), |all, (file, _)| all.over(file)));
    let reading = layers.map(|layers| decide(&file.path, file.size, &layers, all.as_ref().unwrap_or(&first.0)));
    let Some(parent) = all.or_else(|| known.into_iter().next().map(|(file, _)| file)) else { return Source::Disk };
    let parent = Arc::new(parent);
    match reading {
        Some(Reading::Pages(read)) => {
            let pages = u32::try_from(file.size.min(parent.size()) / PAGE_SIZE as u64).unwrap_or(0);
            let sample = draw(pages, &read);
            Source::Pages(Arc::new(ChangedFile { parent, read, sample }))
        }
        Some(Reading::Whole) | None => Source::Compared(parent),
    }
}
