//! What an old directory promises before any of its content is read: sizes tell what can be compared, and nothing of what is
//! equal.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};

use super::map::FileMap;
use crate::fs::{Action, Error as FileError};
use crate::repository::LineageStore;
use crate::repository::backup::{Extent, FileEntry};
use crate::restore::Result;
use crate::restore::contents::Contents;
use crate::restore::copy::blocking;
use crate::restore::destination::{Destination, SpaceNeed};

/// Unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;
/// Space is given out in blocks of this size on most file systems.
const BLOCK_BYTES: u64 = 4096;

/// What is known of a restore that reuses files, before it reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaOutlook {
    /// Files of the backup that stand where they go.
    pub files_there: u64,
    /// Bytes in them that are compared; those that are equal stay.
    pub compare_bytes: u64,
    /// Bytes of the backup that no file has, and that are not zeros: they are fetched in any case.
    pub lacking_bytes: u64,
}

/// Where the files of a backup go.
#[derive(Clone, Debug)]
struct Places {
    data_directory: PathBuf,
    tablespaces: BTreeMap<u32, PathBuf>,
}

impl DeltaOutlook {
    /// Looks at the size of every file of `contents` at `destination`, which takes reading all maps. Also returns what room
    /// the restore takes.
    ///
    /// # Errors
    /// The repository fails, a map is missing or damaged, or a file cannot be looked at.
    pub(in crate::restore) async fn measure(
        lineage: &LineageStore,
        contents: &Contents,
        destination: &Destination,
    ) -> Result<(Self, Vec<SpaceNeed>)> {
        let places = Places {
            data_directory: destination.directory.clone(),
            tablespaces: destination.tablespaces.iter().map(|target| (target.oid, target.path.clone())).collect(),
        };
        let mut outlook = Self::default();
        let mut needs: BTreeMap<PathBuf, u64> = BTreeMap::new();
        let mut maps = stream::iter(&contents.maps).map(|map| FileMap::load(lineage, map)).buffered(2);
        while let Some(map) = maps.try_next().await? {
            let (mut so_far, places) = (outlook, places.clone());
            let (next, found) = blocking(move || {
                let mut found = BTreeMap::new();
                for file in &map.files {
                    let (root, path) = places.of(file);
                    *found.entry(root.to_owned()).or_insert(0) += so_far.add(file, &path)?;
                }
                Ok((so_far, found))
            })
            .await?;
            outlook = next;
            for (root, bytes) in found {
                *needs.entry(root).or_insert(0) += bytes;
            }
        }
        Ok((outlook, needs.into_iter().map(|(path, bytes)| SpaceNeed { path, bytes }).collect()))
    }

    /// Returns how much space the file will take that it does not have.
    fn add(&mut self, file: &FileEntry, path: &Path) -> Result<u64> {
        let stored: u64 =
            file.extents.iter().filter(|extent| matches!(extent, Extent::Frame(_))).map(Extent::bytes).sum();
        let metadata = match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.nlink() == 1 => Some(metadata),
            Ok(_) => None,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                None
            }
            Err(error) => return Err(FileError::new(Action::Stat, path, error).into()),
        };
        let Some(metadata) = metadata else {
            self.lacking_bytes += stored;
            return Ok(stored.next_multiple_of(BLOCK_BYTES));
        };
        self.files_there += 1;
        self.compare_bytes += stored.min(metadata.len());
        self.lacking_bytes += stored.saturating_sub(metadata.len());
        Ok(stored.next_multiple_of(BLOCK_BYTES).saturating_sub(metadata.blocks() * STAT_BLOCK_BYTES))
    }
}

impl Places {
    /// The root that the file is below, and its path.
    fn of(&self, file: &FileEntry) -> (&Path, PathBuf) {
        let path = file.path.to_path();
        let within = path.strip_prefix("pg_tblspc").ok().and_then(|rest| {
            let oid = rest.components().next()?.as_os_str();
            let root = self.tablespaces.get(&oid.to_str()?.parse::<u32>().ok()?)?;
            Some((root.as_path(), root.join(rest.strip_prefix(oid).ok()?)))
        });
        within.unwrap_or_else(|| (&self.data_directory, self.data_directory.join(&path)))
    }
}
