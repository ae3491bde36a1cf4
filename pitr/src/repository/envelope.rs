//! Enveloped objects: zstd streams that say what they hold.
//!
//! A skippable zstd frame (magic `0x184D2A50`, a little-endian length, content) comes first; its content is a sealed
//! document. The zstd frames that follow are the content. `zstd -d` skips the header, so common tools read the content.

use super::document::{self, Document, DocumentError};

/// `ZSTD_MAGIC_SKIPPABLE_START`.
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// No header of ours is larger; a length beyond is damage.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// Magic and length.
pub const PREFIX_BYTES: usize = 8;

/// Why bytes are not the enveloped object they should be.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the object does not begin with its header")]
    NoHeader,
    #[error("the object ends within its header")]
    Truncated,
    #[error("the header of the object cannot be used")]
    Header(#[from] DocumentError),
}

/// The header that `document` makes; the zstd frames go right behind it.
#[must_use]
pub fn header<T: Document>(document: &T) -> Vec<u8> {
    skippable_frame(&document::seal(document))
}

/// `content` as a skippable zstd frame.
#[must_use]
pub fn skippable_frame(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(PREFIX_BYTES + content.len());
    frame.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
    frame
}

/// The header's document and the zstd frames behind it.
///
/// # Errors
/// No header, a damaged one, or one of another kind.
pub fn open<T: Document>(object: &[u8]) -> Result<(T, &[u8]), EnvelopeError> {
    let length = header_bytes(object)?;
    let sealed = object.get(PREFIX_BYTES..length).ok_or(EnvelopeError::Truncated)?;
    let frames = object.get(length..).ok_or(EnvelopeError::Truncated)?;
    Ok((document::unseal(sealed)?, frames))
}

/// How many bytes the skippable frame takes that `frame` begins with, prefix included; none where it begins with none.
#[must_use]
pub fn skippable_bytes(frame: &[u8]) -> Option<usize> {
    let (magic, rest) = frame.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*rest.first_chunk::<4>()?);
    (u32::from_le_bytes(*magic) == SKIPPABLE_MAGIC).then(|| PREFIX_BYTES.checked_add(length as usize))?
}

/// How many bytes the header takes, prefix included, from the first eight bytes of an object.
///
/// # Errors
/// The bytes are not the beginning of an enveloped object.
pub fn header_bytes(object: &[u8]) -> Result<usize, EnvelopeError> {
    let word = |at: usize| -> Option<u32> {
        let bytes = object.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let magic = word(0).ok_or(EnvelopeError::Truncated)?;
    if magic != SKIPPABLE_MAGIC {
        return Err(EnvelopeError::NoHeader);
    }
    let length = word(4).ok_or(EnvelopeError::Truncated)? as usize;
    if length > MAX_HEADER_BYTES { Err(EnvelopeError::NoHeader) } else { Ok(PREFIX_BYTES + length) }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Note {
        text: String,
    }

    impl Document for Note {
        const KIND: &'static str = "note";
    }

    #[test]
    fn header_is_found_again_and_zstd_skips_it() {
        let note = Note { text: "a".to_owned() };
        let mut object = header(&note);
        object.extend_from_slice(&zstd::bulk::compress(b"content", 1).unwrap());
        let (read, frames) = open::<Note>(&object).unwrap();
        assert_eq!(read, note);
        assert_eq!(zstd::decode_all(frames).unwrap(), b"content");
        assert_eq!(zstd::decode_all(&object[..]).unwrap(), b"content");
    }

    #[test]
    fn refuses_what_is_no_envelope() {
        assert!(matches!(open::<Note>(b""), Err(EnvelopeError::Truncated)));
        assert!(matches!(open::<Note>(&[0; 64]), Err(EnvelopeError::NoHeader)));
        let object = header(&Note { text: "a".to_owned() });
        assert!(open::<Note>(&object[..object.len() - 1]).is_err());
        let mut huge = object;
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(open::<Note>(&huge), Err(EnvelopeError::NoHeader)));
    }
}
