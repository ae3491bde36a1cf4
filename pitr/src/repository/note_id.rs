//! Names of documents that anybody may add: the time, and digits that tell two of the same second apart.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// `20261122T063100Z-1f3a9c20`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NoteId(String);

/// The text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name \"{0}\", expected one such as 20261122T063100Z-1f3a9c20")]
pub struct ParseNoteIdError(String);

impl NoteId {
    #[must_use]
    pub fn new(time: DateTime<Utc>, digits: u32) -> Self {
        Self(format!("{}-{digits:08x}", time.format("%Y%m%dT%H%M%SZ")))
    }
}

impl fmt::Display for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NoteId {
    type Err = ParseNoteIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseNoteIdError(text.to_owned());
        let (time, digits) = text.split_once('-').ok_or_else(invalid)?;
        let numbers = |from: usize, to: usize| {
            time.get(from..to).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let is_time = time.len() == 16 && numbers(0, 8) && numbers(9, 15) && &time[8..9] == "T" && &time[15..] == "Z";
        let is_hex = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_time && is_hex { Ok(Self(text.to_owned())) } else { Err(invalid()) }
    }
}

impl TryFrom<String> for NoteId {
    type Error = ParseNoteIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NoteId> for String {
    fn from(id: NoteId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let id = NoteId::new("2026-11-22T06:31:00.5Z".parse().unwrap(), 0x1f3a);
        assert_eq!(id.to_string(), "20261122T063100Z-00001f3a");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["", "-", "20261122T063100Z", "20261122T063100Z-1", "20261122T063100Z-0000GGGG", "2026112äT0631Z-00000000"]
        {
            assert!(text.parse::<NoteId>().is_err(), "{text:?} was accepted");
        }
    }
}
