//! The tables of the packs that are compared at the moment.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::pack_table::PackTable;
use crate::repository::LineageStore;
use crate::repository::backup::PackId;
use crate::restore::Result;

/// Neighbouring ranges are of one pack, and maps go through packs in order.
const KEPT_TABLES: usize = 4;

type Cell = Arc<OnceCell<Arc<PackTable>>>;

/// Loads each table once, as long as it is among the last that were asked for.
#[derive(Debug, Default)]
pub(super) struct PackTables(Mutex<VecDeque<(PackId, Cell)>>);

impl PackTables {
    /// The table, and how many bytes were read for it now.
    ///
    /// # Errors
    /// As [`PackTable::load`].
    pub(super) async fn get(&self, lineage: &LineageStore, pack: &PackId) -> Result<(Arc<PackTable>, u64)> {
        let cell = self.cell(pack);
        let mut read_bytes = 0;
        let table = cell
            .get_or_try_init(|| async {
                let table = PackTable::load(lineage, pack).await?;
                read_bytes = table.read_bytes();
                Ok::<_, crate::restore::Error>(Arc::new(table))
            })
            .await?;
        Ok((Arc::clone(table), read_bytes))
    }

    fn cell(&self, pack: &PackId) -> Cell {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cell)) = kept.iter().find(|(id, _)| id == pack) {
            return Arc::clone(cell);
        }
        if kept.len() >= KEPT_TABLES {
            kept.pop_front();
        }
        let cell = Cell::default();
        kept.push_back((pack.clone(), Arc::clone(&cell)));
        cell
    }
}
