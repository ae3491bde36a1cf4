//! Whether a backup may be shared from.

use crate::repository::LineageStore;
use crate::repository::backup::BackupId;
use crate::repository::condemnation::Condemnation;
use crate::repository::{Error, Result};
use crate::storage::ObjectStoreExt;

/// Whether `backup` is about to be deleted, or gone. To be asked by a backup **after** its intent that names the parent is
/// durable: where the answer is no, the parent stays for as long as that intent is of a backup that is being taken.
///
/// # Errors
/// The store fails.
pub async fn is_condemned(lineage: &LineageStore, backup: &BackupId) -> Result<bool> {
    let notes = condemnations(lineage).await?;
    if notes.iter().any(|note| note.backups.contains(backup)) {
        return Ok(true);
    }
    // A condemnation goes once nothing is left of its backups.
    let (store, layout) = (lineage.store(), lineage.layout());
    Ok(!store.exists(&layout.manifest(backup)).await? && !store.exists(&layout.intent(backup)).await?)
}

/// All condemnations that stand.
pub(super) async fn condemnations(lineage: &LineageStore) -> Result<Vec<Condemnation>> {
    let mut notes = Vec::new();
    for meta in lineage.list(&lineage.layout().condemnations()).await? {
        match lineage.get::<Condemnation>(&meta.key).await {
            Ok(note) => notes.push(note),
            // Its work was done meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(notes)
}

/// Where a damaged document is one thing less that is known, and no failure.
pub(super) fn damage(error: &Error) -> Option<String> {
    error.is_corruption().then(|| {
        std::iter::successors(std::error::Error::source(error), |cause| cause.source())
            .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    })
}
