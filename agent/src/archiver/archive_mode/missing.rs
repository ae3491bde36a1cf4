//! What a server's `pg_wal` says of a segment that did not get here. Blocks.

use std::io;
use std::path::Path;

use pitr::postgres::{SegmentName, SegmentNumber, WalSegmentSize};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// The archiver has it still before it.
    Ready,
    /// It is there, and the archiver has done with it or never heard of it.
    Left,
    Gone,
}

/// # Errors
/// The directory cannot be read.
pub(super) fn look(pg_wal: &Path, name: SegmentName) -> io::Result<Whereabouts> {
    // The status first: a file that is recycled loses it before its name.
    if pg_wal.join(format!("archive_status/{name}.ready")).try_exists()? {
        return Ok(Whereabouts::Ready);
    }
    Ok(if pg_wal.join(name.to_string()).try_exists()? { Whereabouts::Left } else { Whereabouts::Gone })
}

/// The first segment of `name`'s timeline behind it that the server still has.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn first_behind(
    pg_wal: &Path,
    name: SegmentName,
    size: WalSegmentSize,
) -> io::Result<Option<SegmentNumber>> {
    let mut first = None;
    for entry in std::fs::read_dir(pg_wal)? {
        let file = entry?.file_name();
        let Some(found) = file.to_str().and_then(|text| text.parse::<SegmentName>().ok()) else { continue };
        if found.tli() == name.tli() && found > name {
            let number = found.number(size);
            first = if first.is_none() { number } else { first.min(number.or(first)) };
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use pitr::postgres::TimelineId;

    use super::*;

    #[test]
    fn status_files_and_segments_tell_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let pg_wal = folder.path();
        std::fs::create_dir(pg_wal.join("archive_status")).unwrap();
        let size = WalSegmentSize::DEFAULT;
        let name = |number| SegmentNumber::new(number).name(TimelineId::FIRST, size);
        for (number, status) in [(4, Some("ready")), (5, Some("done")), (6, None), (9, None)] {
            std::fs::write(pg_wal.join(name(number).to_string()), "").unwrap();
            if let Some(status) = status {
                std::fs::write(pg_wal.join(format!("archive_status/{}.{status}", name(number))), "").unwrap();
            }
        }
        std::fs::write(pg_wal.join("00000002000000000000000A"), "").unwrap();
        let found = |number| look(pg_wal, name(number)).unwrap();
        assert_eq!(
            [found(4), found(5), found(6), found(7)],
            [Whereabouts::Ready, Whereabouts::Left, Whereabouts::Left, Whereabouts::Gone]
        );
        assert_eq!(first_behind(pg_wal, name(7), size).unwrap(), Some(SegmentNumber::new(9)));
        assert_eq!(first_behind(pg_wal, name(9), size).unwrap(), None);
        assert!(look(&pg_wal.join("none"), name(4)).is_ok());
        assert!(first_behind(&pg_wal.join("none"), name(4), size).is_err());
    }
}
