//! File maps: which frames hold the content of which files.
//!
//! A map is an enveloped object named by the hash of its plain content, so an unchanged group of files costs nothing in the
//! next backup. Its content is JSON lines: first `{"packs":["<backup>/<number>",…]}`, then one [`FileEntry`] a line,
//! sorted by path. Frames are referred to by their place in the pack, so a reader needs no table of the pack's own.

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PackId, StoredPath};
use crate::repository::document::Document;
use crate::repository::hash::{ContentHash, FrameHash};

/// Header of `maps/<hash>.zst`. It names no backup: equal files make equal maps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileMapHeader {
    pub files: u64,
    /// Size and hash of the JSON lines.
    pub bytes: u64,
    pub blake3: ContentHash,
}

impl Document for FileMapHeader {
    const KIND: &'static str = "file-map";
}

/// First line of a map: the packs that its extents number from 0.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileMapPacks {
    pub packs: Vec<PackId>,
}

/// One regular file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    pub path: StoredPath,
    pub size: u64,
    /// Permission bits, `st_mode & 0o7777`.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
    /// The content from its first byte to its last; the lengths add up to `size`.
    #[serde(rename = "x")]
    pub extents: Vec<Extent>,
}

/// A run of a file's bytes.
///
/// In JSON an array: `[bytes]` for zeros, else `[bytes, pack, frame_offset, frame_stored_bytes, at, "frame_hash"]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All bytes are zero and stored nowhere.
    Zeros {
        bytes: u64,
    },
    Frame(FrameExtent),
}

/// A run of a file's bytes that stands in one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameExtent {
    pub bytes: u64,
    /// Index into the map's list of packs.
    pub pack: u32,
    /// Where the zstd frame starts in the pack, and how many bytes it takes there.
    pub offset: u64,
    pub stored_bytes: u32,
    /// Where the run starts in the frame's plain content.
    pub at: u32,
    /// Hash of the whole frame.
    pub hash: FrameHash,
}

impl Extent {
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        match self {
            Self::Zeros { bytes } | Self::Frame(FrameExtent { bytes, .. }) => *bytes,
        }
    }
}

impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Zeros { bytes } => {
                let mut seq = serializer.serialize_seq(Some(1))?;
                seq.serialize_element(bytes)?;
                seq.end()
            }
            Self::Frame(frame) => {
                let mut seq = serializer.serialize_seq(Some(6))?;
                seq.serialize_element(&frame.bytes)?;
                seq.serialize_element(&frame.pack)?;
                seq.serialize_element(&frame.offset)?;
                seq.serialize_element(&frame.stored_bytes)?;
                seq.serialize_element(&frame.at)?;
                seq.serialize_element(&frame.hash)?;
                seq.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ExtentVisitor;

        impl<'de> Visitor<'de> for ExtentVisitor {
            type Value = Extent;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an extent of one or six elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Extent, A::Error> {
                let missing = |index| A::Error::invalid_length(index, &"an extent of one or six elements");
                let bytes = seq.next_element()?.ok_or_else(|| missing(0))?;
                let Some(pack) = seq.next_element()? else { return Ok(Extent::Zeros { bytes }) };
                let frame = FrameExtent {
                    bytes,
                    pack,
                    offset: seq.next_element()?.ok_or_else(|| missing(2))?,
                    stored_bytes: seq.next_element()?.ok_or_else(|| missing(3))?,
                    at: seq.next_element()?.ok_or_else(|| missing(4))?,
                    hash: seq.next_element()?.ok_or_else(|| missing(5))?,
                };
                if seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
                    return Err(missing(7));
                }
                Ok(Extent::Frame(frame))
            }
        }

        deserializer.deserialize_seq(ExtentVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::hash::BlockHash;

    #[test]
    fn extents_are_arrays() {
        let hash = FrameHash::of(&[BlockHash::of(b"a")]);
        let frame = FrameExtent { bytes: 8192, pack: 0, offset: 120, stored_bytes: 900, at: 16384, hash };
        let entry = FileEntry {
            path: "base/5/1259".to_owned().try_into().unwrap(),
            size: 16384,
            mode: 0o600,
            mtime: 1_790_000_000,
            extents: vec![Extent::Frame(frame), Extent::Zeros { bytes: 8192 }],
        };
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"path":"base/5/1259","size":16384,"mode":384,"mtime":1790000000,"x":[[8192,0,120,900,16384,"{hash}"],[8192]]}}"#
            )
        );
        assert_eq!(serde_json::from_str::<FileEntry>(&text).unwrap(), entry);
    }

    #[test]
    fn refuses_extents_of_other_lengths() {
        for text in ["[]", "[1,2]", "[1,0,0,1,0]", r#"[1,0,0,1,0,"00000000000000000000000000000000",1]"#] {
            assert!(serde_json::from_str::<Extent>(text).is_err(), "{text} was accepted");
        }
    }
}
