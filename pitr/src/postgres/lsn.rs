//! A position in the write-ahead log (`XLogRecPtr`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A byte position in the WAL of one cluster. Printed as PostgreSQL prints `pg_lsn`: `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// `InvalidXLogRecPtr`: no position.
    pub const INVALID: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    #[must_use]
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further; saturates at the end of the address space.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to `self`; none when `earlier` is later.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// Rounded up to the next multiple of eight (`MAXALIGN`), where a record can start.
    #[must_use]
    pub const fn align_record(self) -> Self {
        Self(self.0.saturating_add(7) & !7)
    }

    /// Sixteen lower-case hexadecimal digits: the form used in object keys, where text order is numeric order.
    #[must_use]
    pub fn to_key(self) -> String {
        format!("{:016x}", self.0)
    }

    /// Reads what [`Lsn::to_key`] wrote.
    ///
    /// # Errors
    /// Anything but sixteen lower-case hexadecimal digits.
    pub fn from_key(text: &str) -> Result<Self, ParseLsnError> {
        let well_formed = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !well_formed {
            return Err(ParseLsnError(text.to_owned()));
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseLsnError(text.to_owned()))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{0}\", expected two hexadecimal numbers such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let half = |part: &str| -> Result<u64, ParseLsnError> {
            let well_formed = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if !well_formed {
                return Err(invalid());
            }
            u64::from_str_radix(part, 16).map_err(|_| invalid())
        };
        Ok(Self((half(high)? << 32) | half(low)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_postgres_prints_it() {
        assert_eq!(Lsn::new(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn::new(0x0200_0028).to_string(), "0/2000028");
    }

    #[test]
    fn reads_what_it_prints() {
        for position in [0, 1, 0xFFFF_FFFF, 0x1_0000_0000, u64::MAX] {
            let lsn = Lsn::new(position);
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
            assert_eq!(Lsn::from_key(&lsn.to_key()), Ok(lsn));
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "/", "0/", "/0", "0", "0/G", "0/123456789", "0/+1", " 0/1", "0/1 ", "0/1/2", "-1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was accepted");
        }
        for text in ["", "0", "00000000000000G0", "0000000000000ABC", "+000000000000000"] {
            assert!(Lsn::from_key(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn order_of_keys_is_order_of_positions() {
        assert!(Lsn::new(0xFFFF).to_key() < Lsn::new(0x1_0000).to_key());
    }
}
