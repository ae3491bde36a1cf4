//! `[backup]`: when base backups are taken, and what they may use.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono_tz::Tz;

use super::ByteSize;
use super::document::Section;
use super::postgres::check_connection;
use super::value::within;

const DEFAULT_SCHEDULE: &str = "0 2 * * *";
const DEFAULT_THREADS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
/// Levels above use much memory for little gain on database pages.
const COMPRESSION_LEVELS: RangeInclusive<u32> = 1..=19;
const DEFAULT_COMPRESSION_LEVEL: u32 = 1;
const BANDWIDTHS: RangeInclusive<ByteSize> = ByteSize::kib(64)..=ByteSize::gib(1024);
const MEMORY_LIMITS: RangeInclusive<ByteSize> = ByteSize::mib(32)..=ByteSize::gib(1024);
const DEFAULT_MEMORY_LIMIT: ByteSize = ByteSize::mib(96);
const NICENESS: RangeInclusive<u32> = 0..=19;
const DEFAULT_NICE: u32 = 10;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DEFAULT_FRESH_EVERY: Duration = HOUR.saturating_mul(24 * 30);
const HUNDRED_YEARS: Duration = HOUR.saturating_mul(24 * 36_525);
const SAMPLES: RangeInclusive<ByteSize> = ByteSize::kib(0)..=ByteSize::gib(1024);
const DEFAULT_SAMPLE: ByteSize = ByteSize::mib(64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    /// Crontab line; none: only on demand.
    pub schedule: Option<String>,
    pub timezone: Tz,
    pub threads: NonZeroU32,
    pub compression_level: u32,
    /// By how much the threads that copy yield to the server.
    pub nice: u32,
    /// Bytes a second that are read from the data directory; none: as fast as it goes.
    pub bandwidth_limit: Option<ByteSize>,
    /// What a running backup may hold in buffers.
    pub memory_limit: ByteSize,
    /// A standby of this host whose files are read; none: those of the primary.
    pub standby: Option<String>,
    /// After so long a backup shares nothing with earlier ones.
    pub fresh_every: Duration,
    /// Bytes taken for unchanged that every backup reads all the same, to hold them against what is shared.
    pub sample: ByteSize,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            schedule: Some(DEFAULT_SCHEDULE.to_owned()),
            timezone: Tz::UTC,
            threads: DEFAULT_THREADS,
            compression_level: DEFAULT_COMPRESSION_LEVEL,
            nice: DEFAULT_NICE,
            bandwidth_limit: None,
            memory_limit: DEFAULT_MEMORY_LIMIT,
            standby: None,
            fresh_every: DEFAULT_FRESH_EVERY,
            sample: DEFAULT_SAMPLE,
        }
    }
}

impl BackupConfig {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        Self {
            schedule: section.parsed("schedule", parse_schedule).unwrap_or(default.schedule),
            timezone: section.parsed("timezone", parse_timezone).unwrap_or(default.timezone),
            threads: section
                .get_with("threads", |value| within(value, &(1..=256)))
                .and_then(NonZeroU32::new)
                .unwrap_or(default.threads),
            compression_level: section
                .get_with("compression_level", |value| within(value, &COMPRESSION_LEVELS))
                .unwrap_or(default.compression_level),
            nice: section.get_with("nice", |value| within(value, &NICENESS)).unwrap_or(default.nice),
            bandwidth_limit: section.get_with("bandwidth_limit", |value| within(value, &BANDWIDTHS)),
            memory_limit: section
                .get_with("memory_limit", |value| within(value, &MEMORY_LIMITS))
                .unwrap_or(default.memory_limit),
            standby: section.parsed("standby", check_connection),
            fresh_every: section
                .get_with("fresh_every", |value| within(value, &(HOUR..=HUNDRED_YEARS)))
                .unwrap_or(default.fresh_every),
            sample: section.get_with("sample", |value| within(value, &SAMPLES)).unwrap_or(default.sample),
        }
    }
}

/// The shape of a crontab line; what its fields mean is for whoever keeps the schedule. An empty one turns it off.
pub(super) fn parse_schedule(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    match text.split_whitespace().count() {
        0 => Ok(None),
        1 if text.starts_with('@') => Ok(Some(text.to_owned())),
        5 => Ok(Some(text.to_owned())),
        fields => Err(format!(
            "a schedule has five fields as in a crontab (minute hour day-of-month month day-of-week), found {fields}"
        )),
    }
}

pub(super) fn parse_timezone(text: &str) -> Result<Tz, String> {
    text.parse()
        .map_err(|_| format!("unknown time zone \"{text}\", expected a name such as \"Europe/Berlin\" or \"UTC\""))
}
