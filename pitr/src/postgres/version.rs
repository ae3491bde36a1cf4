//! Versions of the server.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A supported major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MajorVersion {
    V13,
    V14,
    V15,
    V16,
    V17,
    V18,
}

impl MajorVersion {
    pub const ALL: [Self; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    #[must_use]
    pub const fn as_u16(self) -> u16 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    #[must_use]
    pub fn from_number(major: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|v| u32::from(v.as_u16()) == major)
    }

    /// `XLOG_PAGE_MAGIC`, which every WAL page starts with.
    #[must_use]
    pub const fn wal_page_magic(self) -> u16 {
        match self {
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    #[must_use]
    pub fn from_wal_page_magic(magic: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.wal_page_magic() == magic)
    }
}

impl fmt::Display for MajorVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_u16())
    }
}

/// `server_version_num`: 150018 is 15.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerVersion(u32);

impl ServerVersion {
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The major version, or none where it is not supported.
    #[must_use]
    pub fn major(self) -> Option<MajorVersion> {
        MajorVersion::from_number(self.0 / 10_000)
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10_000, self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_and_number_name_the_same_version() {
        for version in MajorVersion::ALL {
            assert_eq!(MajorVersion::from_wal_page_magic(version.wal_page_magic()), Some(version));
            assert_eq!(MajorVersion::from_number(u32::from(version.as_u16())), Some(version));
        }
        assert_eq!(MajorVersion::from_wal_page_magic(0xD101), None);
        assert_eq!(ServerVersion::new(120_003).major(), None);
        assert_eq!(ServerVersion::new(150_018).to_string(), "15.18");
    }
}
