//! Names of objects, relative to the root of the repository.

use std::fmt;

/// The text cannot name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid object key \"{0}\"")]
pub struct InvalidKey(String);

/// The longest key; with the longest prefix of a repository it still fits into what S3 allows.
const MAX_KEY_BYTES: usize = 900;
/// The longest key with the prefix of its repository: the limit of S3.
const MAX_PREFIXED_BYTES: usize = 1024;
/// The longest part of a key, which is a file name in a local store (`NAME_MAX`).
const MAX_PART_BYTES: usize = 255;

fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= MAX_PART_BYTES
        && !part.starts_with('.')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'+'))
}

/// Name of one object: parts of letters, digits and `. _ - @ +`, joined by `/`. No part starts with a dot, so a key can
/// name neither a parent directory nor a file that a local store keeps for itself.
///
/// No key is the beginning of another one's path: where there is an object `a/b` there is none `a/b/c`, because a directory
/// tree cannot hold both. Keys sort by their bytes, as S3 lists them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// # Errors
    /// A part that is empty, starts with a dot, holds another character or has more than 255 bytes; more than 900 bytes in all.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        Self::within(MAX_KEY_BYTES, text.into())
    }

    /// A key as a store behind a prefix sees it.
    ///
    /// # Errors
    /// As [`ObjectKey::new`], but for the greater length.
    pub(super) fn with_prefix(text: String) -> Result<Self, InvalidKey> {
        Self::within(MAX_PREFIXED_BYTES, text)
    }

    fn within(limit: usize, text: String) -> Result<Self, InvalidKey> {
        if text.len() <= limit && text.split('/').all(is_part) { Ok(Self(text)) } else { Err(InvalidKey(text)) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The beginning of keys, ending in `/`; or the root, which is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// All objects.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// # Errors
    /// Text that does not end in `/`, and what [`ObjectKey::new`] refuses.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        Self::within(MAX_KEY_BYTES, text.into())
    }

    /// A prefix as a store behind a prefix sees it.
    ///
    /// # Errors
    /// As [`KeyPrefix::new`], but for the greater length.
    pub(super) fn with_prefix(text: String) -> Result<Self, InvalidKey> {
        Self::within(MAX_PREFIXED_BYTES, text)
    }

    fn within(limit: usize, text: String) -> Result<Self, InvalidKey> {
        let whole = text.is_empty()
            || text.strip_suffix('/').is_some_and(|parts| parts.len() < limit && parts.split('/').all(is_part));
        if whole { Ok(Self(text)) } else { Err(InvalidKey(text)) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the object `name` (which may hold further `/`) under this prefix.
    ///
    /// # Errors
    /// As [`ObjectKey::new`].
    pub fn key(&self, name: &str) -> Result<ObjectKey, InvalidKey> {
        ObjectKey::new(format!("{}{name}", self.0))
    }

    /// The prefix `name/` under this one.
    ///
    /// # Errors
    /// As [`KeyPrefix::new`].
    pub fn child(&self, name: &str) -> Result<Self, InvalidKey> {
        Self::new(format!("{}{name}/", self.0))
    }

    /// The last part, without its `/`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.trim_end_matches('/').rsplit('/').next().unwrap_or("")
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_stays_below_its_root() {
        for text in ["", "/a", "a/", "a//b", "../a", "a/../b", ".tmp", "a/.b", "a b", "a\0", "ä"] {
            assert!(ObjectKey::new(text).is_err(), "{text:?} was accepted");
        }
        assert!(ObjectKey::new("a".repeat(255)).is_ok() && ObjectKey::new("a".repeat(256)).is_err());
        assert!(ObjectKey::new("a/".repeat(450)).is_err() && ObjectKey::new(["a"; 450].join("/")).is_ok());
        assert!(ObjectKey::new(["a"; 451].join("/")).is_err());
        assert_eq!(ObjectKey::new("main/wal/a.zst").unwrap().file_name(), "a.zst");
    }

    #[test]
    fn prefix_ends_in_a_slash() {
        assert!(KeyPrefix::new("a").is_err());
        assert!(KeyPrefix::new("/").is_err());
        let prefix = KeyPrefix::root().child("main").unwrap();
        assert_eq!(prefix.as_str(), "main/");
        assert_eq!(prefix.child("wal").unwrap().name(), "wal");
        assert_eq!(prefix.key("wal/x").unwrap().as_str(), "main/wal/x");
    }
}
