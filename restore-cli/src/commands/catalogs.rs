//! Catalogs of all lineages of a cluster.

use futures::{StreamExt, TryStreamExt, stream};
use pitr::lookup::window_ends;
use pitr::repository::LineageStore;
use pitr::repository::catalog::Catalog;
use pitr::repository::catalog_load;

use crate::failure::Failure;
use crate::output::info::LineageEnds;

/// Lineages that are read at once.
const PARALLEL: usize = 4;

/// In the order of `lineages`.
///
/// # Errors
/// The store fails.
pub async fn load_all(lineages: &[LineageStore]) -> Result<Vec<Catalog>, Failure> {
    let loads: Vec<_> = lineages.iter().map(catalog_load::load).collect();
    Ok(stream::iter(loads).buffered(PARALLEL).try_collect().await?)
}

/// The windows of each lineage, with their last transactions.
///
/// # Errors
/// The store fails.
pub async fn ends_of(lineages: &[LineageStore], catalogs: &[Catalog]) -> Result<Vec<LineageEnds>, Failure> {
    let mut all = Vec::new();
    for (lineage, catalog) in lineages.iter().zip(catalogs) {
        let system_identifier = catalog.lineage.lineage.system_identifier();
        all.push(LineageEnds { system_identifier, ends: window_ends(lineage, catalog).await? });
    }
    Ok(all)
}
