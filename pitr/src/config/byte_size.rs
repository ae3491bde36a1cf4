//! Amounts of bytes as people write them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, written `64MiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(u64);

/// The text is not an amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseByteSizeError {
    #[error("invalid size \"{0}\", expected a whole number with a unit such as \"64MiB\" (B, KiB, MiB, GiB, TiB)")]
    Malformed(String),
    /// `MB` is 1,000,000 bytes to some and 1,048,576 to PostgreSQL.
    #[error("the unit of \"{text}\" has two meanings, write \"{instead}\"")]
    Ambiguous { text: String, instead: String },
    #[error("the size \"{0}\" is too large")]
    TooLarge(String),
}

const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

impl ByteSize {
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    #[must_use]
    pub const fn gib(gib: u64) -> Self {
        Self(gib.saturating_mul(1 << 30))
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// With the largest unit that leaves a whole number, so that the text means the same bytes.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 > 0 && self.0.trailing_zeros() >= shift;
        let (unit, shift) = UNITS.into_iter().rev().find(|(_, shift)| whole(*shift)).unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseByteSizeError::Malformed(text.to_owned());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(malformed());
        }
        let unit = unit.trim_start();
        let Some((_, shift)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(match suggested_unit(unit) {
                Some(suggestion) => {
                    ParseByteSizeError::Ambiguous { text: text.to_owned(), instead: format!("{number}{suggestion}") }
                }
                None => malformed(),
            });
        };
        let too_large = || ParseByteSizeError::TooLarge(text.to_owned());
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(too_large)
    }
}

fn suggested_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => Some("KiB"),
        "m" | "mb" | "mib" => Some("MiB"),
        "g" | "gb" | "gib" => Some("GiB"),
        "t" | "tb" | "tib" => Some("TiB"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for (text, bytes) in
            [("0B", 0), ("1B", 1), ("1025B", 1025), ("64MiB", 64 << 20), ("1536KiB", 1536 << 10), ("3TiB", 3 << 40)]
        {
            assert_eq!(text.parse(), Ok(ByteSize::bytes(bytes)));
            assert_eq!(ByteSize::bytes(bytes).to_string(), text);
        }
        assert_eq!("64 MiB".parse(), Ok(ByteSize::mib(64)));
    }

    #[test]
    fn refuses_units_with_two_meanings() {
        for (text, instead) in [("64MB", "64MiB"), ("1k", "1KiB"), ("2G", "2GiB"), ("1mib", "1MiB")] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("write \"{instead}\"")), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "64", "MiB", "-1MiB", "1.5GiB", "1XiB", "99999999999999999999B", "18014398509481985KiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?} was accepted");
        }
    }
}
