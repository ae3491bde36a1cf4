//! Lineages: one system identifier's WAL and backups, with a generation where one identifier forks.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::document::Document;
use super::layout::ClusterName;
use crate::postgres::{ServerVersion, SystemIdentifier, WalSegmentSize};

/// System identifier and generation: `7450000000000000000-1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LineageId {
    system_identifier: SystemIdentifier,
    generation: u32,
}

/// The text is not a lineage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid lineage \"{0}\", expected a system identifier and a generation such as 7450000000000000000-1")]
pub struct ParseLineageError(String);

impl LineageId {
    #[must_use]
    pub const fn new(system_identifier: SystemIdentifier, generation: u32) -> Self {
        Self { system_identifier, generation }
    }

    #[must_use]
    pub const fn system_identifier(self) -> SystemIdentifier {
        self.system_identifier
    }

    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.system_identifier, self.generation)
    }
}

impl FromStr for LineageId {
    type Err = ParseLineageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseLineageError(text.to_owned());
        let (system_identifier, generation) = text.split_once('-').ok_or_else(invalid)?;
        let id = Self {
            system_identifier: system_identifier.parse().map_err(|_| invalid())?,
            generation: generation.parse().map_err(|_| invalid())?,
        };
        if id.generation > 0 && id.to_string() == text { Ok(id) } else { Err(invalid()) }
    }
}

impl Serialize for LineageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LineageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `lineage.json`: written once, before anything else of the lineage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lineage {
    pub cluster: ClusterName,
    pub lineage: LineageId,
    pub postgres_version: ServerVersion,
    pub wal_segment_size: WalSegmentSize,
    pub created: DateTime<Utc>,
    /// The restore whose data directory goes on in this lineage. Without it the lineage is that of servers which no restore
    /// made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
}

impl Document for Lineage {
    const KIND: &'static str = "lineage";
}

/// `repository.json`: makes a prefix a repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryIdentity {
    /// Random; tells two repositories apart that were copied or moved.
    pub id: String,
    pub created: DateTime<Utc>,
}

impl Document for RepositoryIdentity {
    const KIND: &'static str = "repository";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lineage_is_read_back() {
        let id = LineageId::new(SystemIdentifier::new(7_450_000_000_000_000_000), 2);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "7", "7-", "7-0", "7-01", "07-1", "-1", "7-1-1"] {
            assert!(text.parse::<LineageId>().is_err(), "{text:?} was accepted");
        }
    }
}
