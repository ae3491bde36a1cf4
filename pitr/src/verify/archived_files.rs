//! Backup history files and partial segments: kept for people, needed by no restore.

use futures::TryStreamExt;

use super::damage::{Damage, ObjectKind, fault_of};
use crate::postgres::WalFileName;
use crate::repository::wal_object::ArchivedFileHeader;
use crate::repository::{Error, Result, WalStore};
use crate::storage::ObjectKey;

/// Larger than any segment can be.
const MAX_BYTES: u64 = (1 << 30) + (64 << 20);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct ArchivedFiles {
    pub(super) damages: Vec<Damage>,
    pub(super) read: u64,
    pub(super) unknown: u64,
}

/// Looks at everything below `wal/` that is neither segment nor tail nor history file.
///
/// # Errors
/// The store fails.
pub(super) async fn check(wal: &WalStore, read_content: bool) -> Result<ArchivedFiles> {
    let layout = wal.lineage().layout();
    let prefix = layout.wal();
    let mut listed = wal.lineage().store().list(&prefix);
    let mut found = ArchivedFiles::default();
    while let Some(meta) = listed.try_next().await? {
        let file = meta.key.as_str().rsplit('/').next().and_then(|file| file.strip_suffix(".zst"));
        let name = file.and_then(|file| file.parse::<WalFileName>().ok());
        match name.filter(|name| layout.wal_file(*name) == meta.key) {
            Some(name @ (WalFileName::BackupHistory { .. } | WalFileName::Partial(_))) if read_content => {
                found.read += 1;
                if let Err(error) = read(wal, name, &meta.key).await
                    && !error.is_not_found()
                {
                    let reason = fault_of(error)?;
                    found.damages.push(Damage::new(&meta.key, ObjectKind::WalFile, reason));
                }
            }
            Some(_) => {}
            None if layout.parse_wal(&meta.key).is_some() => {}
            None => found.unknown += 1,
        }
    }
    Ok(found)
}

async fn read(wal: &WalStore, name: WalFileName, key: &ObjectKey) -> Result<()> {
    let (header, frames) = wal.lineage().get_enveloped::<ArchivedFileHeader>(key, MAX_BYTES).await?;
    let corrupt = |reason: &str| Error::Corrupt { key: key.clone(), reason: reason.to_owned() };
    let own = header.file == name.to_string()
        && header.system_identifier == wal.lineage().lineage().lineage.system_identifier();
    if !own || header.bytes > MAX_BYTES {
        return Err(corrupt("its header is that of another file"));
    }
    wal.prove_content(key, frames, header.bytes, header.blake3).await.map(drop)
}
