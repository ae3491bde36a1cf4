//! Sealed documents: the form of every object that is JSON.
//!
//! Two lines of UTF-8: the document, then its seal, `{"bytes":N,"blake3":"…"}`, which states the length and the BLAKE3
//! hash of the first line without its line feed. `head -n 1 | jq` reads one without this crate.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::hash::ContentHash;

/// The version of the repository format that this crate writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Seal {
    bytes: u64,
    blake3: ContentHash,
}

/// What every document begins with; further fields are the document's own, and a reader ignores those it does not know.
#[derive(Deserialize)]
struct Preamble {
    format: u32,
    kind: String,
    #[serde(default)]
    required_features: Vec<String>,
}

/// Why bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the document is cut short or damaged: {0}")]
    Damaged(&'static str),
    #[error("the document is of kind \"{found}\", not \"{expected}\"")]
    WrongKind { found: String, expected: &'static str },
    #[error("the document has format {found}, this version reads up to {FORMAT_VERSION}")]
    TooNew { found: u32 },
    #[error("the document needs the feature \"{0}\", which this version does not have")]
    UnknownFeature(String),
    #[error("the document does not hold what its kind should")]
    Malformed(#[source] serde_json::Error),
}

/// A value that is stored as a sealed document.
pub trait Document: Serialize + DeserializeOwned {
    /// The `kind` that its objects state.
    const KIND: &'static str;
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    format: u32,
    kind: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

/// The stored form of `document`.
///
/// # Panics
/// Never for the documents of this crate: their fields all have a JSON form.
#[must_use]
#[expect(clippy::expect_used, reason = "documents are plain structs of strings and numbers")]
pub fn seal<T: Document>(document: &T) -> Vec<u8> {
    let outgoing = Outgoing { format: FORMAT_VERSION, kind: T::KIND, body: document };
    let mut bytes = serde_json::to_vec(&outgoing).expect("documents always have a JSON form");
    let seal = Seal { bytes: bytes.len() as u64, blake3: ContentHash::of(&bytes) };
    bytes.push(b'\n');
    serde_json::to_writer(&mut bytes, &seal).expect("a seal always has a JSON form");
    bytes.push(b'\n');
    bytes
}

/// The document in `bytes`, after its seal, format, kind and features were checked.
///
/// # Errors
/// Anything that is not a document of this kind, whole and of a format we know.
pub fn unseal<T: Document>(bytes: &[u8]) -> Result<T, DocumentError> {
    let body = check_seal(bytes)?;
    let preamble: Preamble = serde_json::from_slice(body).map_err(DocumentError::Malformed)?;
    if preamble.format > FORMAT_VERSION {
        return Err(DocumentError::TooNew { found: preamble.format });
    }
    if preamble.kind != T::KIND {
        return Err(DocumentError::WrongKind { found: preamble.kind, expected: T::KIND });
    }
    if let Some(feature) = preamble.required_features.into_iter().next() {
        return Err(DocumentError::UnknownFeature(feature));
    }
    serde_json::from_slice(body).map_err(DocumentError::Malformed)
}

/// The first line of a sealed document of any kind.
///
/// # Errors
/// The seal does not match.
pub fn check_seal(bytes: &[u8]) -> Result<&[u8], DocumentError> {
    let damaged = DocumentError::Damaged;
    let lines = bytes.strip_suffix(b"\n").ok_or(damaged("no final line feed"))?;
    let break_at = lines.iter().rposition(|b| *b == b'\n').ok_or(damaged("no seal"))?;
    let (body, seal) = lines.split_at(break_at);
    let seal: Seal = serde_json::from_slice(seal).map_err(|_| damaged("unreadable seal"))?;
    if seal.bytes != body.len() as u64 {
        return Err(damaged("not the sealed length"));
    }
    if seal.blake3 != ContentHash::of(body) {
        return Err(damaged("not the sealed hash"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Note {
        text: String,
    }

    impl Document for Note {
        const KIND: &'static str = "note";
    }

    #[derive(Serialize, Deserialize, Debug)]
    struct Other {}

    impl Document for Other {
        const KIND: &'static str = "other";
    }

    fn note() -> Note {
        Note { text: "two\nlines".to_owned() }
    }

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(unseal::<Note>(&seal(&note())).unwrap(), note());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let sealed = seal(&note());
        for length in 0..sealed.len() {
            assert!(unseal::<Note>(&sealed[..length]).is_err(), "{length} bytes were accepted");
        }
        for position in 0..sealed.len() {
            for bit in 0..8 {
                let mut bytes = sealed.clone();
                bytes[position] ^= 1 << bit;
                // Within the seal a flip can keep its meaning (white space, case); then the document is still the same.
                if let Ok(read) = unseal::<Note>(&bytes) {
                    assert_eq!(read, note(), "bit {bit} of byte {position}");
                }
            }
        }
    }

    #[test]
    fn refuses_another_kind_and_newer_formats_and_features() {
        assert!(matches!(unseal::<Other>(&seal(&note())), Err(DocumentError::WrongKind { .. })));
        let with = |text: &str| {
            let seal = Seal { bytes: text.len() as u64, blake3: ContentHash::of(text.as_bytes()) };
            format!("{text}\n{}\n", serde_json::to_string(&seal).unwrap()).into_bytes()
        };
        let newer = with(r#"{"format":2,"kind":"note","text":""}"#);
        assert!(matches!(unseal::<Note>(&newer), Err(DocumentError::TooNew { found: 2 })));
        let feature = with(r#"{"format":1,"kind":"note","required_features":["age"],"text":""}"#);
        assert!(matches!(unseal::<Note>(&feature), Err(DocumentError::UnknownFeature(_))));
        let unknown_field = with(r#"{"format":1,"kind":"note","text":"","colour":"red"}"#);
        assert!(unseal::<Note>(&unknown_field).is_ok());
    }
}
