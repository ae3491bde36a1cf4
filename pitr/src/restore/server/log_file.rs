//! The log of a server as it grows.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Result;
use super::log::{LogEvent, parse_line};
use crate::fs::{Action, Error};

/// No line of a server is longer; what is longer is cut.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Read at once, so that a log that was written while nobody looked does not fill the memory.
const MAX_READ_BYTES: u64 = 1 << 20;

/// Reads what was appended since the last time.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    /// A line without its end, so far.
    partial: Vec<u8>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::new(Action::Open, path, error))?;
        Ok(Self { file, path: path.to_owned(), partial: Vec::new() })
    }

    /// The events of new lines, and whether anything was new. Blocks for as long as reading takes.
    pub(super) fn read_new(&mut self) -> Result<(Vec<LogEvent>, bool)> {
        let mut new = Vec::new();
        let mut events = Vec::new();
        let mut grew = false;
        loop {
            new.clear();
            let read = (&self.file)
                .take(MAX_READ_BYTES)
                .read_to_end(&mut new)
                .map_err(|error| Error::new(Action::Read, &self.path, error))?;
            if read == 0 {
                return Ok((events, grew));
            }
            grew = true;
            self.take(&new, &mut events);
        }
    }

    fn take(&mut self, new: &[u8], events: &mut Vec<LogEvent>) {
        for piece in new.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE_BYTES.saturating_sub(self.partial.len());
            self.partial.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                events.extend(parse_line(String::from_utf8_lossy(&self.partial).trim_end()));
                self.partial.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_count_once_they_are_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let mut writer = File::create(&path).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        assert_eq!(log.read_new().unwrap(), (vec![], false));
        writer.write_all(b"x [1] LOG:  archive recovery com").unwrap();
        assert_eq!(log.read_new().unwrap(), (vec![], true));
        writer.write_all(b"plete\nx [1] LOG:  other\nx [1] LOG:  database system is ready").unwrap();
        assert_eq!(log.read_new().unwrap(), (vec![LogEvent::RecoveryComplete], true));
        writer.write_all(b" to accept connections\n").unwrap();
        assert_eq!(log.read_new().unwrap(), (vec![LogEvent::Ready], true));
    }

    #[test]
    fn endless_lines_take_no_memory() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        std::fs::write(&path, vec![b'x'; 10 * MAX_LINE_BYTES]).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.read_new().unwrap();
        assert_eq!(log.partial.len(), MAX_LINE_BYTES);
    }
}
