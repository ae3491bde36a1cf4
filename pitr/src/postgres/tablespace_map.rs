//! `tablespace_map`: from it a restored server makes the links in `pg_tblspc`, whatever stands there already.
//!
//! One line a tablespace, its OID and path. A backslash stands before a newline, a carriage return or a backslash that is
//! part of the path (`do_pg_backup_start` writes it, `read_tablespace_map` reads it).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::relation::Oid;

/// A tablespace outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedTablespace {
    pub oid: Oid,
    pub path: PathBuf,
}

/// The tablespaces of a backup, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    tablespaces: Vec<MappedTablespace>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    #[error("tablespace_map line {line} is not an OID, a blank and an absolute path")]
    Line { line: usize },
    #[error("tablespace_map ends within a line")]
    Unterminated,
    #[error("tablespace_map has tablespace {oid} twice")]
    Twice { oid: Oid },
    #[error("tablespace path {path:?} is not absolute, or not one a server can read back")]
    Path { path: PathBuf },
}

impl TablespaceMap {
    /// # Errors
    /// A tablespace twice, or a path that is not absolute.
    pub fn new(tablespaces: Vec<MappedTablespace>) -> Result<Self, TablespaceMapError> {
        let mut map = Self::default();
        for tablespace in tablespaces {
            let path = tablespace.path.as_os_str().as_bytes();
            if !tablespace.path.is_absolute() || path.contains(&0) {
                return Err(TablespaceMapError::Path { path: tablespace.path });
            }
            map.push(tablespace)?;
        }
        Ok(map)
    }

    /// Reads a file as the server wrote it; an empty one has no tablespaces.
    ///
    /// # Errors
    /// A line that the server would not understand, or would understand in part.
    pub fn parse(bytes: &[u8]) -> Result<Self, TablespaceMapError> {
        let mut map = Self::default();
        let mut line = Vec::new();
        let mut number = 1;
        let mut escaped = false;
        for byte in bytes.iter().copied() {
            match byte {
                _ if escaped => {
                    line.push(byte);
                    escaped = false;
                }
                b'\\' => escaped = true,
                b'\n' | b'\r' => {
                    // The server takes either for the end of a line, and empty lines for none.
                    if !line.is_empty() {
                        let tablespace = parse_line(&line).ok_or(TablespaceMapError::Line { line: number })?;
                        map.push(tablespace)?;
                        line.clear();
                    }
                    number += usize::from(byte == b'\n');
                }
                _ => line.push(byte),
            }
        }
        if escaped || !line.is_empty() {
            return Err(TablespaceMapError::Unterminated);
        }
        Ok(map)
    }

    /// The file's contents. Where there are no tablespaces, there must be no file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for tablespace in &self.tablespaces {
            bytes.extend(tablespace.oid.to_string().into_bytes());
            bytes.push(b' ');
            for byte in tablespace.path.as_os_str().as_bytes() {
                if matches!(byte, b'\n' | b'\r' | b'\\') {
                    bytes.push(b'\\');
                }
                bytes.push(*byte);
            }
            bytes.push(b'\n');
        }
        bytes
    }

    #[must_use]
    pub fn tablespaces(&self) -> &[MappedTablespace] {
        &self.tablespaces
    }

    #[must_use]
    pub fn path(&self, oid: Oid) -> Option<&Path> {
        self.tablespaces.iter().find(|tablespace| tablespace.oid == oid).map(|tablespace| tablespace.path.as_path())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tablespaces.is_empty()
    }

    fn push(&mut self, tablespace: MappedTablespace) -> Result<(), TablespaceMapError> {
        if self.path(tablespace.oid).is_some() {
            return Err(TablespaceMapError::Twice { oid: tablespace.oid });
        }
        self.tablespaces.push(tablespace);
        Ok(())
    }
}

fn parse_line(line: &[u8]) -> Option<MappedTablespace> {
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let (oid, path) = line.split_at_checked(blank)?;
    let path = path.strip_prefix(b" ")?;
    let digits = oid.first() != Some(&b'0') && oid.iter().all(u8::is_ascii_digit);
    let oid = digits.then(|| std::str::from_utf8(oid).ok()?.parse().ok()).flatten()?;
    let path = PathBuf::from(OsStr::from_bytes(path));
    (path.is_absolute() && !path.as_os_str().as_bytes().contains(&0)).then_some(MappedTablespace { oid, path })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(bytes: &[u8]) -> Vec<(Oid, Vec<u8>)> {
        let map = TablespaceMap::parse(bytes).unwrap();
        map.tablespaces().iter().map(|t| (t.oid, t.path.as_os_str().as_bytes().to_vec())).collect()
    }

    #[test]
    fn reads_what_servers_write() {
        assert_eq!(map(b""), []);
        assert_eq!(map(b"16400 /srv/a b\n"), [(16_400, b"/srv/a b".to_vec())]);
        let escaped = b"16400 /srv/new\\\nline\n16401 /back\\\\slash\n16402 /return\\\r\n";
        let expected =
            [(16_400, b"/srv/new\nline".to_vec()), (16_401, b"/back\\slash".to_vec()), (16_402, b"/return\r".to_vec())];
        assert_eq!(map(escaped), expected);
        assert_eq!(TablespaceMap::parse(escaped).unwrap().to_bytes(), escaped);
        assert_eq!(TablespaceMap::parse(escaped).unwrap().path(16_401), Some(Path::new("/back\\slash")));
    }

    #[test]
    fn refuses_what_servers_do_not_read_back() {
        for bytes in [&b"16400\n"[..], b"16400 \n", b"x /srv\n", b"0 /srv\n", b"16400 srv\n", b"4294967296 /srv\n"] {
            assert_eq!(TablespaceMap::parse(bytes), Err(TablespaceMapError::Line { line: 1 }), "{bytes:?}");
        }
        assert_eq!(TablespaceMap::parse(b"16400 /srv"), Err(TablespaceMapError::Unterminated));
        assert_eq!(TablespaceMap::parse(b"16400 /srv\\\n"), Err(TablespaceMapError::Unterminated));
        assert_eq!(TablespaceMap::parse(b"1 /a\n1 /b\n"), Err(TablespaceMapError::Twice { oid: 1 }));
    }

    #[test]
    fn refuses_to_write_what_is_no_place() {
        for path in ["", "srv", "./srv"] {
            let tablespace = MappedTablespace { oid: 1, path: path.into() };
            assert!(matches!(TablespaceMap::new(vec![tablespace]), Err(TablespaceMapError::Path { .. })), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(paths in prop::collection::vec("/[ -~\n\r\\\\é]{0,40}", 0..5)) {
            let tablespaces = paths.iter().zip(1..).map(|(path, oid)| MappedTablespace { oid, path: path.into() });
            let map = TablespaceMap::new(tablespaces.collect()).unwrap();
            prop_assert_eq!(TablespaceMap::parse(&map.to_bytes()), Ok(map));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = TablespaceMap::parse(&bytes);
        }
    }
}
