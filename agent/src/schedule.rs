//! Schedules: crontab lines of five fields, in a time zone.
//!
//! The `cron` crate counts Sunday as 1, wants seconds, and demands day of month **and** day of week where a crontab takes
//! either. So a line is parsed here into sets of numbers, and the crate gets those as plain lists: one line where both days
//! must match, two where either may. It computes in local time without a zone; [`Schedule::next_after`] then says when that
//! time is.
//!
//! A time that a change of clocks skips fires when the clocks have changed. A time that comes twice fires the first time,
//! and both times where every hour is in the schedule, so that "every 15 minutes" has no hole of an hour.

mod field;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use field::{Field, FieldKind};

/// How far clocks are set back at most; candidates that much earlier may come a second time.
const LONGEST_OVERLAP: TimeDelta = TimeDelta::hours(3);
/// Clocks have been set forward by a whole day at the date line.
const LONGEST_GAP_MINUTES: i64 = 25 * 60;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid schedule \"{text}\": {reason}")]
pub struct ScheduleError {
    text: String,
    reason: String,
}

impl ScheduleError {
    /// What a schedule looks like.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "five fields as in a crontab: minute hour day-of-month month day-of-week, such as \"0 2 * * *\" or \"30 1 * * sun\""
    }
}

/// The text names no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone \"{0}\", expected a name such as UTC or Europe/Berlin")]
pub struct UnknownTimeZone(String);

/// # Errors
/// A name that is not in the time zone database.
pub fn parse_time_zone(name: &str) -> Result<Tz, UnknownTimeZone> {
    name.parse().map_err(|_| UnknownTimeZone(name.to_owned()))
}

/// When something is to happen, again and again.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    zone: Tz,
    /// Fires whenever one of them does.
    lines: Vec<cron::Schedule>,
    every_hour: bool,
}

impl Schedule {
    /// # Errors
    /// Anything but a crontab line of five fields or one of `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`,
    /// `@yearly`, `@annually`; a line that never fires.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, ScheduleError> {
        let refuse = |reason: String| ScheduleError { text: text.to_owned(), reason };
        let fields = Fields::parse(text.trim()).map_err(refuse)?;
        let lines: Result<Vec<_>, _> = fields.lines().iter().map(|line| cron::Schedule::from_str(line)).collect();
        let lines = lines.map_err(|error| refuse(error.to_string()))?;
        let schedule = Self { text: text.trim().to_owned(), zone, lines, every_hour: fields.hour.is_full() };
        if schedule.next_after(DateTime::UNIX_EPOCH).is_none() {
            return Err(refuse("no such day ever comes".to_owned()));
        }
        Ok(schedule)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub const fn zone(&self) -> Tz {
        self.zone
    }

    /// The first moment later than `after` at which the schedule fires; none where the time zone database ends.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = after.with_timezone(&self.zone).naive_local();
        let mut earliest: Option<DateTime<Utc>> = None;
        for candidate in self.local_times_after(local.checked_sub_signed(LONGEST_OVERLAP)?) {
            let moments = self.moments_of(candidate);
            for moment in moments.iter().flatten().filter(|moment| **moment > after) {
                earliest = Some(earliest.map_or(*moment, |other| other.min(*moment)));
            }
            // Local times ascend, and so do their first moments: what follows cannot be earlier.
            if let (Some(earliest), [Some(first), _]) = (earliest, moments)
                && first >= earliest
            {
                break;
            }
        }
        earliest
    }

    /// Local times at which the schedule fires, ascending.
    fn local_times_after(&self, after: NaiveDateTime) -> impl Iterator<Item = NaiveDateTime> + '_ {
        let mut last = after;
        std::iter::from_fn(move || {
            let upcoming = self.lines.iter().filter_map(|line| line.after(&last.and_utc()).next());
            last = upcoming.min()?.naive_utc();
            Some(last)
        })
    }

    /// The moment of a local time, and where clocks were set back and it counts, the second one.
    fn moments_of(&self, local: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        let skipped = (0..=LONGEST_GAP_MINUTES).filter_map(|minutes| {
            let later = local.checked_add_signed(TimeDelta::minutes(minutes))?;
            let found = self.zone.from_local_datetime(&later);
            Some((found.earliest()?, (minutes == 0 && self.every_hour).then(|| found.latest()).flatten()))
        });
        match skipped.into_iter().next() {
            Some((first, second)) => [Some(first.to_utc()), second.map(|moment| moment.to_utc())],
            None => [None, None],
        }
    }

    /// Whether the schedule fired after `since` and not later than `now`.
    #[must_use]
    pub fn fired_between(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.next_after(since).is_some_and(|next| next <= now)
    }

    /// The next `count` firings, to show what a schedule means.
    #[must_use]
    pub fn upcoming(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last)).take(count).collect()
    }
}

/// The five fields as sets of numbers.
struct Fields {
    minute: Field,
    hour: Field,
    day_of_month: Field,
    month: Field,
    day_of_week: Field,
}

impl Fields {
    fn parse(text: &str) -> Result<Self, String> {
        let text = match text.strip_prefix('@') {
            Some(name) => expand(name)?,
            None => text,
        };
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = parts.as_slice() else {
            return Err(match parts.len() {
                6 | 7 => format!("it has {} fields instead of five; seconds and years are not supported", parts.len()),
                count => format!("it has {count} fields instead of five"),
            });
        };
        Ok(Self {
            minute: Field::parse(FieldKind::Minute, minute)?,
            hour: Field::parse(FieldKind::Hour, hour)?,
            day_of_month: Field::parse(FieldKind::DayOfMonth, day_of_month)?,
            month: Field::parse(FieldKind::Month, month)?,
            day_of_week: Field::parse(FieldKind::DayOfWeek, day_of_week)?,
        })
    }

    /// The lines for the crate. As crontab(5) has it: where both days are restricted, a day matches when either does; a
    /// field that begins with `*` is not restricted, whatever its step.
    fn lines(&self) -> Vec<String> {
        let line = |day_of_month: &str, day_of_week: &str| {
            format!(
                "0 {} {} {day_of_month} {} {day_of_week}",
                self.minute.list(0),
                self.hour.list(0),
                self.month.list(0)
            )
        };
        // The crate's week begins with Sunday as 1.
        let (day_of_month, day_of_week) = (self.day_of_month.list(0), self.day_of_week.list(1));
        if self.day_of_month.is_restricted() && self.day_of_week.is_restricted() {
            vec![line(&day_of_month, "*"), line("*", &day_of_week)]
        } else {
            vec![line(&day_of_month, &day_of_week)]
        }
    }
}

fn expand(name: &str) -> Result<&'static str, String> {
    match name.to_ascii_lowercase().as_str() {
        "hourly" => Ok("0 * * * *"),
        "daily" | "midnight" => Ok("0 0 * * *"),
        "weekly" => Ok("0 0 * * 0"),
        "monthly" => Ok("0 0 1 * *"),
        "yearly" | "annually" => Ok("0 0 1 1 *"),
        "reboot" => Err("\"@reboot\" is not a time".to_owned()),
        _ => Err(format!("there is no \"@{name}\"")),
    }
}
