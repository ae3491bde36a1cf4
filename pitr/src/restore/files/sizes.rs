//! How much each directory of a restored cluster will hold.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::map::FileMap;
use crate::repository::LineageStore;
use crate::repository::backup::StoredPath;
use crate::restore::Result;
use crate::restore::contents::Contents;

/// Space is given out in blocks of this size on most file systems.
const BLOCK_BYTES: u64 = 4096;

/// Bytes by directory, if nothing were a hole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeSizes {
    pub data_directory: u64,
    /// By OID; those in place count to the data directory.
    pub tablespaces: BTreeMap<u32, u64>,
}

impl TreeSizes {
    /// Adds up every file of `contents`, which takes reading all maps.
    ///
    /// # Errors
    /// The repository fails, or a map is missing or damaged.
    pub async fn measure(lineage: &LineageStore, contents: &Contents, tablespaces: &[u32]) -> Result<Self> {
        let mut sizes = Self { data_directory: 0, tablespaces: tablespaces.iter().map(|oid| (*oid, 0)).collect() };
        let mut maps = stream::iter(&contents.maps).map(|map| FileMap::load(lineage, map)).buffered(2);
        while let Some(map) = maps.try_next().await? {
            for file in &map.files {
                sizes.add(&file.path, file.size);
            }
        }
        Ok(sizes)
    }

    fn add(&mut self, path: &StoredPath, bytes: u64) {
        let oid = path.as_str().strip_prefix("pg_tblspc/").and_then(|rest| rest.split('/').next()?.parse::<u32>().ok());
        let sum = match oid.and_then(|oid| self.tablespaces.get_mut(&oid)) {
            Some(sum) => sum,
            None => &mut self.data_directory,
        };
        *sum = sum.saturating_add(bytes.next_multiple_of(BLOCK_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_to_the_tablespace_they_are_in() {
        let mut sizes = TreeSizes { data_directory: 0, tablespaces: BTreeMap::from([(16400, 0)]) };
        for (path, bytes) in [
            ("base/5/1", 8192),
            ("PG_VERSION", 3),
            ("pg_tblspc/16400/PG_15_202209061/5/2", 100),
            ("pg_tblspc/16401/PG_15_202209061/5/2", 4096),
        ] {
            sizes.add(&path.to_owned().try_into().unwrap(), bytes);
        }
        let expected = TreeSizes { data_directory: 8192 + 4096 + 4096, tablespaces: BTreeMap::from([(16400, 4096)]) };
        assert_eq!(sizes, expected);
    }
}
