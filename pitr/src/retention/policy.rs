//! What a person wants to be kept.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::config::RetentionConfig;
use crate::repository::backup::BackupId;

/// Rules; whatever none of them keeps goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Any moment of so long ago until now stays. None: everything stays.
    pub window: Option<TimeDelta>,
    /// The newest backup of each of the last so many days, weeks and months that have one.
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    /// Markers of so long ago stay.
    pub markers: Option<TimeDelta>,
    /// The newest so many backups stay, whatever their age.
    pub minimum: u32,
    /// What nothing names any more stays so long: somebody may just be reading it, or be about to name it.
    pub grace: TimeDelta,
    /// In which days, weeks and months are counted.
    pub zone: Tz,
}

impl Policy {
    /// Nothing is deleted.
    #[must_use]
    pub const fn keep_all(grace: TimeDelta) -> Self {
        Self { window: None, daily: 0, weekly: 0, monthly: 0, markers: None, minimum: 0, grace, zone: Tz::UTC }
    }

    #[must_use]
    pub fn of(config: &RetentionConfig) -> Self {
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        Self {
            window: config.window.map(delta),
            daily: config.daily,
            weekly: config.weekly,
            monthly: config.monthly,
            markers: config.markers.map(delta),
            minimum: config.minimum,
            grace: delta(config.grace),
            zone: config.timezone,
        }
    }

    /// Where the window begins; none where everything stays.
    #[must_use]
    pub fn window_begin(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        Some(before(now, self.window?))
    }

    /// Since when markers stay.
    #[must_use]
    pub fn markers_begin(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        Some(before(now, self.markers?))
    }
}

/// So long before; the beginning of time where there is no such moment.
pub(super) fn before(now: DateTime<Utc>, span: TimeDelta) -> DateTime<Utc> {
    now.checked_sub_signed(span).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// What is to be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Policy(Policy),
    /// These backups go, all others stay with their WAL.
    Named {
        backups: Vec<BackupId>,
        forced: bool,
        grace: TimeDelta,
    },
}

/// A kind of period of which one backup each is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grid {
    Daily,
    Weekly,
    Monthly,
}

impl Grid {
    pub const ALL: [Self; 3] = [Self::Daily, Self::Weekly, Self::Monthly];

    #[must_use]
    pub const fn count(self, policy: &Policy) -> u32 {
        match self {
            Self::Daily => policy.daily,
            Self::Weekly => policy.weekly,
            Self::Monthly => policy.monthly,
        }
    }

    /// The period of a moment, in words that sort like the periods: `2026-11-22`, `2026-W47`, `2026-11`.
    #[must_use]
    pub fn period(self, time: DateTime<Utc>, zone: Tz) -> String {
        let date = time.with_timezone(&zone).date_naive();
        match self {
            Self::Daily => date.format("%Y-%m-%d").to_string(),
            Self::Weekly => format!("{:04}-W{:02}", date.iso_week().year(), date.iso_week().week()),
            Self::Monthly => date.format("%Y-%m").to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_those_of_the_zone_and_weeks_are_those_of_iso() {
        let time = "2026-12-31T23:30:00Z".parse().unwrap();
        let periods = |zone| Grid::ALL.map(|grid| grid.period(time, zone));
        assert_eq!(periods(Tz::UTC), ["2026-12-31", "2026-W53", "2026-12"]);
        assert_eq!(periods(Tz::Europe__Berlin), ["2027-01-01", "2026-W53", "2027-01"]);
    }
}
