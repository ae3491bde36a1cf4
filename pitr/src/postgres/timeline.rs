//! Timeline and system identifiers.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identifies one branch of a cluster's history (`TimeLineID`). Never zero.
///
/// File names carry it as eight hexadecimal digits ([`TimelineId::to_hex`]), settings and history files in decimal
/// (`Display`): `recovery_target_timeline = '00000010'` would be read as octal by the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline `initdb` makes.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }

    /// Eight upper-case hexadecimal digits, as in WAL file names.
    #[must_use]
    pub fn to_hex(self) -> String {
        format!("{:08X}", self.0)
    }

    /// Reads what [`TimelineId::to_hex`] wrote.
    ///
    /// # Errors
    /// Anything but eight upper-case hexadecimal digits, and zero.
    pub fn from_hex(text: &str) -> Result<Self, ParseTimelineError> {
        let invalid = || ParseTimelineError(text.to_owned());
        if text.len() != 8 || !text.bytes().all(is_upper_hex) {
            return Err(invalid());
        }
        let id = u32::from_str_radix(text, 16).map_err(|_| invalid())?;
        Self::new(id).ok_or_else(invalid)
    }

    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

pub(super) fn is_upper_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text or number is not a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timeline \"{0}\", expected a number from 1 to 4294967295")]
pub struct ParseTimelineError(String);

impl FromStr for TimelineId {
    type Err = ParseTimelineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseTimelineError(text.to_owned());
        if text.is_empty() || text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        Self::new(text.parse().map_err(|_| invalid())?).ok_or_else(invalid)
    }
}

impl TryFrom<u32> for TimelineId {
    type Error = ParseTimelineError;

    fn try_from(id: u32) -> Result<Self, Self::Error> {
        Self::new(id).ok_or_else(|| ParseTimelineError(id.to_string()))
    }
}

impl From<TimelineId> for u32 {
    fn from(id: TimelineId) -> Self {
        id.as_u32()
    }
}

/// Identifies a cluster from `initdb` on (`pg_control.system_identifier`). Text in JSON: it exceeds what JSON numbers hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(u64);

impl SystemIdentifier {
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text is not a system identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid system identifier \"{0}\", expected a decimal number")]
pub struct ParseSystemIdentifierError(String);

impl FromStr for SystemIdentifier {
    type Err = ParseSystemIdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseSystemIdentifierError(text.to_owned());
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        text.parse().map(Self).map_err(|_| invalid())
    }
}

impl Serialize for SystemIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_hexadecimal_and_settings_decimal() {
        let tli = TimelineId::new(16).unwrap();
        assert_eq!(tli.to_hex(), "00000010");
        assert_eq!(tli.to_string(), "16");
        assert_eq!(TimelineId::from_hex("00000010"), Ok(tli));
        assert_eq!("16".parse(), Ok(tli));
    }

    #[test]
    fn refuses_zero_and_odd_forms() {
        for text in ["", "0", "007", "-1", "+1", "4294967296", "1 ", "latest"] {
            assert!(text.parse::<TimelineId>().is_err(), "{text:?} was accepted");
        }
        for text in ["00000000", "1", "0000000g", "0000000a", "+0000001"] {
            assert!(TimelineId::from_hex(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn system_identifier_is_text_in_json() {
        let id = SystemIdentifier::new(7_450_000_000_000_000_000);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"7450000000000000000\"");
        assert_eq!(serde_json::from_str::<SystemIdentifier>("\"7450000000000000000\"").unwrap(), id);
        assert!("12a".parse::<SystemIdentifier>().is_err());
    }
}
