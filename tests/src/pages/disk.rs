//! A backup against the files of the server, which nobody has written to since.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use pitr::postgres::RelationFileName;
use pitr::repository::backup::StoredPath;

use super::compare::{Allowed, is_of_one_backup_alone, pieces};
use super::{Difference, PAGE, Shelf, StoredBackup, Tolerance};

const PIECE: usize = 128 * PAGE;

/// All that differs between a backup and the data directory that it was taken from.
///
/// # Errors
/// The backup is damaged, or a file can't be read.
pub fn compare_with_disk(
    shelf: &mut Shelf,
    backup: &StoredBackup,
    data: &Path,
    tolerance: Tolerance,
) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let allowed = Allowed { tolerance, redo: backup.manifest.start_lsn };
    for (stored, file) in &backup.files {
        let path = stored.as_str();
        if is_of_one_backup_alone(path) || path == "tablespace_map" {
            continue;
        }
        let differs = |what: String| Difference { path: path.to_owned(), what };
        let Ok(disk) = File::open(data.join(stored.to_path())) else {
            found.push(differs("not on the disk".to_owned()));
            continue;
        };
        let metadata = disk.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if (metadata.len(), mode) != (file.size, file.mode) {
            let what = format!("{} bytes, mode {:o}; on the disk {}, {mode:o}", file.size, file.mode, metadata.len());
            found.push(differs(what));
            continue;
        }
        let mut offset = 0;
        while offset < file.size {
            let content = file.read(shelf, offset, PIECE).with_context(|| path.to_owned())?;
            let mut read = vec![0; content.len()];
            disk.read_exact_at(&mut read, offset).with_context(|| path.to_owned())?;
            pieces(path, offset, &content, &read, allowed, &mut found);
            offset += PIECE as u64;
        }
    }
    for directory in backup.directories.keys() {
        missing(backup, data, directory.as_str(), &mut found)?;
    }
    Ok(found)
}

/// Files of relations in one directory that the backup lacks.
fn missing(backup: &StoredBackup, data: &Path, directory: &str, found: &mut Vec<Difference>) -> Result<()> {
    let Ok(entries) = fs::read_dir(data.join(directory)) else { return Ok(()) };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    for name in &names {
        let Ok(file) = name.parse::<RelationFileName>() else { continue };
        // Recovery makes these anew.
        let unlogged = names.contains(&format!("{}_init", file.relfilenode)) && !name.ends_with("_init");
        let path = format!("{directory}/{name}");
        if !unlogged && !StoredPath::try_from(path.clone()).is_ok_and(|stored| backup.files.contains_key(&stored)) {
            found.push(Difference { path, what: "only on the disk".to_owned() });
        }
    }
    Ok(())
}
