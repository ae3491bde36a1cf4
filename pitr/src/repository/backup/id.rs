//! Names of backups and packs.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// A backup's start time in UTC, `20261122T063100Z`, with `-2`, `-3`, … where two collide.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId {
    time: NaiveDateTime,
    ordinal: u32,
}

/// The text does not name a backup or pack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid backup \"{0}\", expected a name such as 20261122T063100Z")]
pub struct ParseIdError(String);

impl BackupId {
    /// The `ordinal`-th backup (from 1) that started within the second of `time`.
    #[must_use]
    pub fn new(time: DateTime<Utc>, ordinal: u32) -> Self {
        let seconds = DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time);
        Self { time: seconds.naive_utc(), ordinal: ordinal.max(1) }
    }

    /// The second in which the backup started.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        self.time.and_utc()
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.time.format(TIME_FORMAT))?;
        if self.ordinal > 1 { write!(f, "-{}", self.ordinal) } else { Ok(()) }
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BackupId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseIdError(text.to_owned());
        let (time, ordinal) = match text.split_once('-') {
            Some((time, ordinal)) => (time, ordinal.parse().map_err(|_| invalid())?),
            None => (text, 1),
        };
        let time = NaiveDateTime::parse_from_str(time, TIME_FORMAT).map_err(|_| invalid())?;
        let id = Self { time, ordinal };
        if id.to_string() == text { Ok(id) } else { Err(invalid()) }
    }
}

impl Serialize for BackupId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One pack of the backup that wrote it: `20261122T063100Z/00000007`, eight hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    pub backup: BackupId,
    pub number: u32,
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}", self.backup, self.number)
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PackId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseIdError(text.to_owned());
        let (backup, number) = text.split_once('/').ok_or_else(invalid)?;
        let id = Self { backup: backup.parse()?, number: u32::from_str_radix(number, 16).map_err(|_| invalid())? };
        if id.to_string() == text { Ok(id) } else { Err(invalid()) }
    }
}

impl Serialize for PackId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PackId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_sort_by_time() {
        let time = "2026-11-22T06:31:00.5Z".parse().unwrap();
        let first = BackupId::new(time, 1);
        let second = BackupId::new(time, 2);
        assert_eq!(first.to_string(), "20261122T063100Z");
        assert_eq!(second.to_string(), "20261122T063100Z-2");
        assert_eq!(second.to_string().parse(), Ok(second.clone()));
        assert!(first < second && second < BackupId::new("2026-11-22T06:31:01Z".parse().unwrap(), 1));
        let pack = PackId { backup: second, number: 255 };
        assert_eq!(pack.to_string(), "20261122T063100Z-2/000000ff");
        assert_eq!(pack.to_string().parse(), Ok(pack));
    }

    #[test]
    fn refuses_odd_names() {
        for text in ["", "20261122", "20261122T063100", "20261322T063100Z", "20261122T063100Z-1", "20261122T063100Z-02"]
        {
            assert!(text.parse::<BackupId>().is_err(), "{text:?} was accepted");
        }
        for text in ["20261122T063100Z/1", "20261122T063100Z/000000FF", "/00000001"] {
            assert!(text.parse::<PackId>().is_err(), "{text:?} was accepted");
        }
    }
}
