//! Two backups of one moment.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use pitr::postgres::Lsn;
use pitr::repository::backup::StoredPath;

use super::hints::{self, Tolerance};
use super::{PAGE, Shelf, StoredBackup, StoredFile};

/// Bytes that are compared at once.
const PIECE: usize = 128 * PAGE;
/// So many are told; there may be more.
const ENOUGH: usize = 40;

/// Where two copies of what should be the same are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub path: String,
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// What two backups of one moment cannot have in common.
pub(super) fn is_of_one_backup_alone(path: &str) -> bool {
    // The label names the checkpoint that its own backup began with, and the control file that or a later one.
    path == "backup_label" || path == "global/pg_control"
}

/// What may differ where two copies of one moment are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    pub(super) tolerance: Tolerance,
    /// The redo point of the older copy: no two copies are of one moment, and hints may come between them.
    pub(super) redo: Lsn,
}

/// All that differs between two backups, page by page.
///
/// # Errors
/// One of them is damaged.
pub fn compare(
    shelf: &mut Shelf,
    left: &StoredBackup,
    right: &StoredBackup,
    tolerance: Tolerance,
) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let allowed = Allowed { tolerance, redo: left.manifest.start_lsn.min(right.manifest.start_lsn) };
    names(&left.directories, &right.directories, &mut found);
    names(&left.links, &right.links, &mut found);
    let paths: BTreeSet<&StoredPath> = left.files.keys().chain(right.files.keys()).collect();
    for path in paths {
        match (left.files.get(path), right.files.get(path)) {
            (Some(one), Some(other)) if !is_of_one_backup_alone(path.as_str()) => {
                file(shelf, path.as_str(), one, other, allowed, &mut found).with_context(|| path.to_string())?;
            }
            (Some(_), Some(_)) => {}
            (one, _) => {
                let what = if one.is_some() { "only in the first" } else { "only in the second" };
                found.push(Difference { path: path.to_string(), what: what.to_owned() });
            }
        }
        if found.len() >= ENOUGH {
            break;
        }
    }
    Ok(found)
}

fn names<T: PartialEq + fmt::Debug>(
    left: &std::collections::BTreeMap<StoredPath, T>,
    right: &std::collections::BTreeMap<StoredPath, T>,
    found: &mut Vec<Difference>,
) {
    let paths: BTreeSet<&StoredPath> = left.keys().chain(right.keys()).collect();
    for path in paths {
        let (one, other) = (left.get(path), right.get(path));
        if one != other {
            found.push(Difference { path: path.to_string(), what: format!("{one:?} and {other:?}") });
        }
    }
}

fn file(
    shelf: &mut Shelf,
    path: &str,
    left: &StoredFile,
    right: &StoredFile,
    allowed: Allowed,
    found: &mut Vec<Difference>,
) -> Result<()> {
    if (left.size, left.mode) != (right.size, right.mode) {
        let what = format!("{} bytes, mode {:o} and {} bytes, mode {:o}", left.size, left.mode, right.size, right.mode);
        found.push(Difference { path: path.to_owned(), what });
        return Ok(());
    }
    let mut offset = 0;
    while offset < left.size && found.len() < ENOUGH {
        let zeros = left.zeros_until(offset).min(right.zeros_until(offset));
        if zeros > offset {
            offset = zeros;
            continue;
        }
        let (one, other) = (left.read(shelf, offset, PIECE)?, right.read(shelf, offset, PIECE)?);
        pieces(path, offset, &one, &other, allowed, found);
        offset += PIECE as u64;
        // After zeros a piece need not begin with a page.
        offset -= offset % PAGE as u64;
    }
    Ok(())
}

/// Differences of two equally long pieces of a file that begin at `offset`.
pub(super) fn pieces(
    path: &str,
    offset: u64,
    left: &[u8],
    right: &[u8],
    allowed: Allowed,
    found: &mut Vec<Difference>,
) {
    if left == right {
        return;
    }
    for (index, (one, other)) in left.chunks(PAGE).zip(right.chunks(PAGE)).enumerate() {
        let same = one == other
            || hints::only(path, one, other, allowed.tolerance)
            || hints::hinted_since(path, one, other, allowed.redo);
        if !same {
            let block = offset / PAGE as u64 + index as u64;
            let at: Vec<usize> = (0..one.len().min(other.len())).filter(|&at| one[at] != other[at]).collect();
            let first = at.first().copied().unwrap_or_default();
            let what = format!(
                "block {block}: {} bytes differ, first at {first}; headers {} and {}; from there {} and {}",
                at.len(),
                hexadecimal(one, 0, 24),
                hexadecimal(other, 0, 24),
                hexadecimal(one, first, 16),
                hexadecimal(other, first, 16)
            );
            found.push(Difference { path: path.to_owned(), what });
        }
    }
}

fn hexadecimal(bytes: &[u8], from: usize, count: usize) -> String {
    bytes.iter().skip(from).take(count).map(|byte| format!("{byte:02x}")).collect()
}
