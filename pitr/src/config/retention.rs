//! `[retention]`: how far back the repository reaches.

use std::ops::RangeInclusive;
use std::time::Duration;

use chrono_tz::Tz;

use super::backup::{parse_schedule, parse_timezone};
use super::document::Section;
use super::value::within;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HUNDRED_YEARS: Duration = Duration::from_secs(3_155_760_000);
const SPANS: RangeInclusive<Duration> = Duration::from_secs(1)..=HUNDRED_YEARS;
const GRACES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 60 * 60);
const DEFAULT_MINIMUM: u32 = 2;
const DEFAULT_SCHEDULE: &str = "15 3 * * *";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Any moment of so long ago until now stays reachable. None: nothing is ever deleted.
    pub window: Option<Duration>,
    /// The newest backup of each of the last so many days, weeks and months that have one, beyond the window.
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    /// Markers of so long ago stay reachable, beyond the window.
    pub markers: Option<Duration>,
    /// The newest so many backups stay, whatever their age.
    pub minimum: u32,
    /// What no backup needs any more stays so long.
    pub grace: Duration,
    /// Crontab line; none: only after backups and on demand.
    pub schedule: Option<String>,
    /// Of the schedule, and of days, weeks and months.
    pub timezone: Tz,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            window: None,
            daily: 0,
            weekly: 0,
            monthly: 0,
            markers: None,
            minimum: DEFAULT_MINIMUM,
            grace: DAY,
            schedule: Some(DEFAULT_SCHEDULE.to_owned()),
            timezone: Tz::UTC,
        }
    }
}

impl RetentionConfig {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let count = |section: &mut Section<'_, '_>, key, default| {
            section.get_with(key, |value| within(value, &(0..=100_000))).unwrap_or(default)
        };
        let read = Self {
            window: section.get_with("window", |value| within(value, &SPANS)),
            daily: count(section, "daily", default.daily),
            weekly: count(section, "weekly", default.weekly),
            monthly: count(section, "monthly", default.monthly),
            markers: section.get_with("markers", |value| within(value, &SPANS)),
            minimum: count(section, "minimum", default.minimum),
            grace: section.get_with("grace", |value| within(value, &GRACES)).unwrap_or(default.grace),
            schedule: section.parsed("schedule", parse_schedule).unwrap_or(default.schedule),
            timezone: section.parsed("timezone", parse_timezone).unwrap_or(default.timezone),
        };
        let beyond = read.daily > 0 || read.weekly > 0 || read.monthly > 0 || read.markers.is_some();
        if beyond && !section.is_set("window") {
            section.problem("window", "missing: without it nothing is deleted, and the other rules say nothing");
        }
        read
    }
}
