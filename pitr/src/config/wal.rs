//! `[wal]`: how WAL gets into the repository.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::ByteSize;
use super::document::Section;
use super::value::{one_of, within};

const FLUSH_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3600);
const DEFAULT_FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Below this the slot would be given up at the first hiccup.
const LEAST_RETAINED: ByteSize = ByteSize::mib(64);
/// `NAMEDATALEN` - 1.
const LONGEST_SLOT_NAME: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// At most this much of the WAL is lost with the host.
    pub flush_interval: Duration,
    /// Commits wait until they are durable in the repository, where the server is set to wait for the agent.
    pub synchronous: bool,
    /// Name of the physical replication slot.
    pub slot: String,
    pub source: WalSource,
    /// How much WAL the slot may hold back on the server before it is given up; none: as much as there is.
    pub max_retained: Option<ByteSize>,
}

/// Who hands the WAL over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSource {
    /// The server, by streaming replication.
    Stream,
    /// The server's `archive_command` alone: nothing is streamed.
    Archive,
}

impl WalConfig {
    pub(super) fn for_cluster(cluster: &str) -> Self {
        Self {
            flush_interval: DEFAULT_FLUSH_INTERVAL,
            synchronous: false,
            slot: default_slot(cluster),
            source: WalSource::Stream,
            max_retained: None,
        }
    }

    pub(super) fn read(section: &mut Section<'_, '_>, cluster: &str) -> Self {
        let default = Self::for_cluster(cluster);
        Self {
            flush_interval: section
                .get_with("flush_interval", |value| within(value, &FLUSH_INTERVALS))
                .unwrap_or(default.flush_interval),
            synchronous: section.get("synchronous").unwrap_or(default.synchronous),
            slot: section.parsed("slot", check_slot).unwrap_or(default.slot),
            source: section.parsed("source", parse_source).unwrap_or(default.source),
            max_retained: section
                .get_with("max_retained", |value| within(value, &(LEAST_RETAINED..=ByteSize::bytes(1 << 50)))),
        }
    }
}

fn parse_source(text: &str) -> Result<WalSource, String> {
    one_of(&[("stream", WalSource::Stream), ("archive", WalSource::Archive)], text)
}

/// What `ReplicationSlotValidateName` accepts.
fn check_slot(text: &str) -> Result<String, String> {
    let valid = (1..=LONGEST_SLOT_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if valid {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid slot name \"{text}\", expected 1 to {LONGEST_SLOT_NAME} of a-z, 0-9 and _"))
    }
}

fn default_slot(cluster: &str) -> String {
    let cluster = cluster.to_ascii_lowercase().replace('-', "_");
    format!("pitr_{cluster}").chars().take(LONGEST_SLOT_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_named_after_the_cluster() {
        for (cluster, slot) in [("main", "pitr_main"), ("Prod-EU_1", "pitr_prod_eu_1")] {
            assert_eq!(default_slot(cluster), slot);
        }
        let longest = default_slot(&"x".repeat(63));
        assert_eq!(check_slot(&longest), Ok(longest.clone()));
    }
}
