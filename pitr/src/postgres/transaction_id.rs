//! Transaction identifiers as records carry them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `TransactionId`: 32 bits that wrap around; zero where a record belongs to no transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionId(u32);

impl TransactionId {
    /// `InvalidTransactionId`.
    pub const INVALID: Self = Self(0);
    /// `FirstNormalTransactionId`: the smaller ones never commit or abort.
    pub const FIRST_NORMAL: Self = Self(3);

    #[must_use]
    pub const fn new(xid: u32) -> Self {
        Self(xid)
    }

    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    #[must_use]
    pub const fn is_normal(self) -> bool {
        self.0 >= Self::FIRST_NORMAL.0
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text is not a transaction ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid transaction ID \"{0}\", expected a number from 3 to 4294967295")]
pub struct ParseTransactionIdError(String);

impl FromStr for TransactionId {
    type Err = ParseTransactionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseTransactionIdError(text.to_owned());
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        text.parse().ok().map(Self).filter(|xid| xid.is_normal()).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transactions_that_can_end_are_read_from_text() {
        assert_eq!("3".parse(), Ok(TransactionId::FIRST_NORMAL));
        assert_eq!("4294967295".parse(), Ok(TransactionId::new(u32::MAX)));
        for text in ["", "0", "2", "-1", "+5", "4294967296", "7 ", "0x10"] {
            assert!(text.parse::<TransactionId>().is_err(), "{text:?} was accepted");
        }
    }
}
