//! What goes into a store and comes out of it.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::{Error, ErrorKind, ObjectKey, Operation, Result};

/// Names one version of an object's content (an ETag, without its quotes), for [`PutMode::Replace`]. Another content has another
/// tag; the same content put again may have the same one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VersionTag(String);

impl VersionTag {
    #[must_use]
    pub fn new(tag: impl Into<String>) -> Self {
        Self(tag.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for VersionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a store says of an object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: ObjectKey,
    pub size_bytes: u64,
    /// When the store took it in, by the store's clock; in the answer to a put it may be ours.
    pub modified: DateTime<Utc>,
    pub tag: VersionTag,
}

/// How an object may come into being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Only where there is none.
    CreateNew,
    /// Whatever is there.
    Overwrite,
    /// Only in place of the version with this tag.
    Replace(VersionTag),
}

/// Bytes of an object from `start` (included) to `end` (excluded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// None where the range would be empty or backwards.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { start, end }) } else { None }
    }

    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    #[must_use]
    pub const fn size_bytes(self) -> u64 {
        self.end - self.start
    }

    #[must_use]
    pub const fn as_range(self) -> Range<u64> {
        self.start..self.end
    }
}

/// The content of an object to be: can be read again, so that a put can be tried again.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Chunks in order; cheap to clone.
    Chunks(Vec<Bytes>),
    /// A file that does not change until the put is over.
    File { path: PathBuf, size_bytes: u64 },
}

impl Payload {
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Chunks(chunks) => chunks.iter().map(|c| c.len() as u64).sum(),
            Self::File { size_bytes, .. } => *size_bytes,
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Chunks(vec![bytes])
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

/// The bytes of an object, as they arrive. The stream ends only after the last byte asked for; anything shorter is an error.
pub struct ObjectReader {
    /// Size of what the stream delivers.
    pub size_bytes: u64,
    pub meta: ObjectMeta,
    pub stream: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectReader")
            .field("size_bytes", &self.size_bytes)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

impl ObjectReader {
    /// Everything, in one buffer of at most `limit` bytes.
    ///
    /// # Errors
    /// What the store says; an object that is larger than `limit` is [`ErrorKind::Corrupt`].
    pub async fn bytes(mut self, limit: u64) -> Result<Bytes> {
        let key = &self.meta.key;
        if self.size_bytes > limit {
            let reason = format!("object has {} bytes, at most {limit} were expected", self.size_bytes);
            return Err(Error::new(ErrorKind::Corrupt, Operation::Get, key, reason));
        }
        let mut buffer = BytesMut::with_capacity(usize::try_from(self.size_bytes).unwrap_or(0));
        while let Some(chunk) = self.stream.try_next().await? {
            buffer.extend_from_slice(&chunk);
        }
        if buffer.len() as u64 == self.size_bytes {
            Ok(buffer.freeze())
        } else {
            let reason = format!("{} of {} bytes arrived", buffer.len(), self.size_bytes);
            Err(Error::new(ErrorKind::Transient, Operation::Get, key, reason))
        }
    }
}
