//! Files that stand where files of the backup go: they get the size, the owner and the zeros that they should have, and what
//! is no file of its own makes way.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::file_writer::open_at;
use super::tree::Place;
use crate::fs::{Action, EntryType, Error, FailureKind, Result};
use crate::repository::backup::{Extent, FileEntry};

/// Read at once while looking for bytes that should be zero.
const CHUNK_BYTES: usize = 256 << 10;

/// Opens the file at `place` for reading and writing, with its size. What is a link, one of several names of a file, no file
/// at all or closed to us is removed, and nothing is written through it.
///
/// # Errors
/// What the system says.
pub(super) fn open_existing(place: &Place) -> Result<Option<(File, u64)>> {
    let status = match place.directory.status(&place.name) {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    if status.entry_type == EntryType::File && status.links == 1 {
        match open_at(place, OFlags::RDWR | OFlags::NONBLOCK, 0) {
            Ok(file) => {
                let status = place.directory.status_of_open(&place.name, &file)?;
                return Ok(Some((file, status.size_bytes)));
            }
            Err(error) if error.kind() == FailureKind::Denied => {}
            Err(error) => return Err(error),
        }
    }
    place.make_way(|_| false)?;
    Ok(None)
}

/// Gives an open file the size of `entry`, and makes it one that we can open again until it is complete.
///
/// # Errors
/// What the system says.
pub(super) fn fit(file: &File, entry: &FileEntry, place: &Place, size: u64) -> Result<()> {
    let failed = |action, errno| Error::new(action, place.directory.path_of(&place.name), errno);
    if size != entry.size {
        rustix::fs::ftruncate(file, entry.size).map_err(|errno| failed(Action::Write, errno))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777 | 0o600))
        .map_err(|errno| failed(Action::Change, errno))
}

/// Makes the runs of zeros of `entry` zero, below `local` where the file held something. Returns how many bytes were read,
/// and how many of them were zero.
///
/// # Errors
/// What the system says.
pub(super) fn clear_zeros(file: &File, entry: &FileEntry, place: &Place, local: u64) -> Result<(u64, u64)> {
    let failed = |error: std::io::Error| Error::new(Action::Write, place.directory.path_of(&place.name), error);
    let (mut start, mut read, mut zero) = (0, 0, 0);
    for extent in &entry.extents {
        let end = start + extent.bytes();
        if matches!(extent, Extent::Zeros { .. }) && start < local {
            let (more_read, more_zero) = clear(file, start, end.min(local)).map_err(failed)?;
            read += more_read;
            zero += more_zero;
        }
        start = end;
    }
    Ok((read, zero))
}

fn clear(file: &File, start: u64, end: u64) -> std::io::Result<(u64, u64)> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut at, mut read, mut zero) = (start, 0, 0);
    while at < end {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = data.max(at),
            Err(Errno::NXIO) => break,
            // Not every file system tells where it has data.
            Err(_) => {}
        }
        if at >= end {
            break;
        }
        let bytes = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let Some(buffer) = chunk.get_mut(..bytes) else { break };
        file.read_exact_at(buffer, at)?;
        let length = bytes as u64;
        if buffer.iter().all(|byte| *byte == 0) {
            zero += length;
        } else {
            buffer.fill(0);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if rustix::fs::fallocate(file, flags, at, length).is_err() {
                file.write_all_at(buffer, at)?;
            }
        }
        read += length;
        at += length;
    }
    Ok((read, zero))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_should_be_zero_becomes_so() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let mut content = vec![7_u8; 2 << 20];
        content[300_000..400_000].fill(0);
        std::fs::write(&path, &content).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (read, zero) = clear(&file, 8192, 1 << 20).unwrap();
        assert_eq!(read, (1 << 20) - 8192);
        assert!(zero < read);
        content[8192..1 << 20].fill(0);
        assert!(std::fs::read(&path).unwrap() == content);
        // A hole has nothing to read.
        file.set_len(64 << 20).unwrap();
        assert!(clear(&file, 2 << 20, 64 << 20).unwrap().0 <= 1 << 20);
    }
}
