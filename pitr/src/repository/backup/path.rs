//! Paths of files within a backup.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A path relative to the data directory, with `/` between parts. `%` and bytes that are not UTF-8 stand as `%` and two
/// upper-case hexadecimal digits; files of a tablespace stand under `pg_tblspc/<oid>/`, wherever the tablespace is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoredPath(String);

/// The text or path does not stay below the data directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid path \"{0}\" in a backup")]
pub struct InvalidStoredPath(String);

impl StoredPath {
    /// # Errors
    /// A path that is empty, absolute, or has a `.` or `..` part.
    pub fn from_path(path: &Path) -> Result<Self, InvalidStoredPath> {
        let invalid = || InvalidStoredPath(path.display().to_string());
        let mut text = String::new();
        for component in path.components() {
            let Component::Normal(part) = component else { return Err(invalid()) };
            if !text.is_empty() {
                text.push('/');
            }
            encode(part.as_bytes(), &mut text);
        }
        if text.is_empty() { Err(invalid()) } else { Ok(Self(text)) }
    }

    /// The path on disk, relative to the data directory.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        // Validated at construction: decoding cannot fail.
        let bytes = decode(&self.0).unwrap_or_else(|| self.0.as_bytes().to_vec());
        PathBuf::from(OsStr::from_bytes(&bytes))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn encode(bytes: &[u8], text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '%' { text.push_str("%25") } else { text.push(character) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = after.get(..2)?;
            if !digits.iter().all(|d| d.is_ascii_digit() || (b'A'..=b'F').contains(d)) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Some(bytes)
}

impl TryFrom<String> for StoredPath {
    type Error = InvalidStoredPath;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let stays_below = decode(&text).is_some_and(|bytes| {
            !bytes.contains(&0) && bytes.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
        });
        if stays_below { Ok(Self(text)) } else { Err(InvalidStoredPath(text)) }
    }
}

impl From<StoredPath> for String {
    fn from(path: StoredPath) -> Self {
        path.0
    }
}

impl fmt::Display for StoredPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoredPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_read_back() {
        for bytes in [&b"base/5/1259"[..], b"a%b", b"caf\xe9", "größe".as_bytes(), b"\xff/x", b"with space\n"] {
            let path = Path::new(OsStr::from_bytes(bytes));
            let stored = StoredPath::from_path(path).unwrap();
            assert_eq!(stored.to_path(), path);
            assert_eq!(StoredPath::try_from(stored.as_str().to_owned()), Ok(stored));
        }
        assert_eq!(StoredPath::from_path(Path::new(OsStr::from_bytes(b"caf\xe9"))).unwrap().as_str(), "caf%E9");
    }

    #[test]
    fn stays_below_the_data_directory() {
        for text in ["", "/etc/passwd", "..", "a/../b", "a//b", "a/.", "%2E%2E/a", "a%2", "a%2g", "%00", "a%2F..%2Fb"] {
            assert!(StoredPath::try_from(text.to_owned()).is_err(), "{text:?} was accepted");
        }
        assert!(StoredPath::from_path(Path::new("/a")).is_err());
        assert!(StoredPath::from_path(Path::new("../a")).is_err());
    }
}
