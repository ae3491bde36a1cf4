//! Hashes of content, and of pages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// BLAKE3 of an object's or a file's plain bytes, 256 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

/// The first 128 bits of the BLAKE3 hash of one block (a page, or the end of a file that is no multiple of a page).
///
/// A cryptographic hash, because whoever can write rows could otherwise craft a page that passes for its predecessor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash([u8; 16]);

/// The first 128 bits of the BLAKE3 hash over the block hashes of one frame, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameHash([u8; 16]);

/// The text is not a hash of that length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid hash \"{0}\"")]
pub struct ParseHashError(String);

fn first_half(hash: blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    for (to, from) in half.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    half
}

impl ContentHash {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    #[must_use]
    pub fn from_hasher(hasher: &blake3::Hasher) -> Self {
        Self(*hasher.finalize().as_bytes())
    }
}

impl BlockHash {
    #[must_use]
    pub fn of(block: &[u8]) -> Self {
        Self(first_half(blake3::hash(block)))
    }
}

impl FrameHash {
    #[must_use]
    pub fn of(blocks: &[BlockHash]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for block in blocks {
            hasher.update(&block.0);
        }
        Self(first_half(hasher.finalize()))
    }
}

macro_rules! hash_text {
    ($name:ident, $bytes:literal) => {
        impl $name {
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $bytes];
                let lower = text.bytes().all(|b| !b.is_ascii_uppercase());
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower => Ok(Self(bytes)),
                    _ => Err(ParseHashError(text.to_owned())),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_text!(ContentHash, 32);
hash_text!(BlockHash, 16);
hash_text!(FrameHash, 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints_and_nothing_else() {
        let hash = BlockHash::of(b"page");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!(hash.to_string().to_uppercase().parse::<BlockHash>().is_err());
        assert!("00".parse::<BlockHash>().is_err());
        assert_eq!(ContentHash::of(b"").to_string().len(), 64);
    }

    #[test]
    fn frame_hash_depends_on_the_order_of_blocks() {
        let (a, b) = (BlockHash::of(b"a"), BlockHash::of(b"b"));
        assert_ne!(FrameHash::of(&[a, b]), FrameHash::of(&[b, a]));
    }
}
