//! Times as people write them.
//!
//! A time must say which moment it means: with an offset, with the name of a zone, or relative to now. PostgreSQL would
//! take a time without a zone in the restored server's `timezone`, which nobody can see beforehand, so those are refused.
//! Abbreviations such as `CET` are refused too: they mean different things in summer, to different programs.

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, SubsecRound, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// Why a text is not a moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeError {
    #[error("invalid time \"{0}\"")]
    Malformed(String),
    #[error("the time \"{0}\" has no time zone")]
    NoZone(String),
    #[error("unknown time zone \"{0}\"")]
    UnknownZone(String),
    #[error("the clocks of {zone} skip the time \"{text}\"")]
    Skipped { text: String, zone: Tz },
    #[error("the clocks of {zone} show the time \"{text}\" twice")]
    Twice { text: String, zone: Tz, first: DateTime<Utc>, second: DateTime<Utc> },
    #[error("the time \"{0}\" is out of range")]
    OutOfRange(String),
}

impl ParseTimeError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed(_) | Self::OutOfRange(_) => {
                "write a time such as \"2026-11-22 06:31:00+01\", \"2026-11-22T05:31:00Z\" or \"10 min ago\"".to_owned()
            }
            Self::NoZone(text) => {
                format!("add the zone: \"{text}Z\" for UTC, \"{text}+01\" for an offset, or \"{text} Europe/Berlin\"")
            }
            Self::UnknownZone(_) => {
                "use an offset such as \"+01\", \"UTC\", or a name such as \"Europe/Berlin\"; abbreviations are ambiguous"
                    .to_owned()
            }
            Self::Skipped { .. } => "write it with an offset, such as \"+01\"".to_owned(),
            Self::Twice { first, second, .. } => {
                format!("write \"{}\" or \"{}\"", first.format("%FT%TZ"), second.format("%FT%TZ"))
            }
        }
    }
}

/// Reads a moment, to the microsecond, as commits are timed. `now` is what "ago" counts from.
///
/// # Errors
/// Text that is no time, or that could mean several moments.
pub fn parse_time(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, ParseTimeError> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(now.trunc_subsecs(6));
    }
    if let Some(span) = text.strip_suffix("ago") {
        let span = parse_span(span).ok_or_else(|| ParseTimeError::Malformed(text.to_owned()))?;
        let time = now.checked_sub_signed(span).ok_or_else(|| ParseTimeError::OutOfRange(text.to_owned()))?;
        return Ok(time.trunc_subsecs(6));
    }
    let (local, zone) = parse_local(text).ok_or_else(|| ParseTimeError::Malformed(text.to_owned()))?;
    in_zone(text, local, zone.trim())
}

/// "10 min", "1 hour 30 minutes", "2h": at least one number with its unit.
fn parse_span(text: &str) -> Option<TimeDelta> {
    let mut rest = text.trim();
    let mut span = None;
    while !rest.is_empty() {
        let (number, after) = take_while(rest, |b| b.is_ascii_digit());
        let (unit, after) = take_while(after.trim_start(), |b| b.is_ascii_alphabetic());
        let seconds = number.parse::<i64>().ok()?.checked_mul(unit_seconds(unit)?)?;
        span = Some(span.unwrap_or_else(TimeDelta::zero).checked_add(&TimeDelta::try_seconds(seconds)?)?);
        rest = after.trim_start();
    }
    span
}

fn unit_seconds(unit: &str) -> Option<i64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    })
}

fn take_while(text: &str, wanted: impl Fn(u8) -> bool) -> (&str, &str) {
    let length = text.bytes().take_while(|b| wanted(*b)).count();
    text.split_at_checked(length).unwrap_or((text, ""))
}

/// `2026-11-22 06:31[:00[.123456]]`, and what stands behind it: the zone, if there is one.
fn parse_local(text: &str) -> Option<(NaiveDateTime, &str)> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    let month = separated(&mut rest, b'-')?;
    let day = separated(&mut rest, b'-')?;
    let after_date = rest.strip_prefix(['T', 't', '_']).unwrap_or(rest);
    rest = after_date.trim_start();
    if rest.len() == text.len().checked_sub(10)? {
        return None;
    }
    let hour = digits(&mut rest, 2)?;
    let minute = separated(&mut rest, b':')?;
    let (second, microsecond) = match rest.strip_prefix(':') {
        None => (0, 0),
        Some(after) => {
            rest = after;
            (digits(&mut rest, 2)?, fraction(&mut rest)?)
        }
    };
    if rest.starts_with(|c: char| c.is_ascii_digit() || matches!(c, ':' | '.' | ',')) {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Some((date.and_hms_micro_opt(hour, minute, second, microsecond)?, rest))
}

fn digits(rest: &mut &str, count: usize) -> Option<u32> {
    let (number, after) = rest.split_at_checked(count)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    *rest = after;
    number.parse().ok()
}

fn separated(rest: &mut &str, separator: u8) -> Option<u32> {
    *rest = rest.strip_prefix(char::from(separator))?;
    digits(rest, 2)
}

/// Digits behind a point, cut to microseconds: every commit up to the cut time is also up to the written one.
fn fraction(rest: &mut &str) -> Option<u32> {
    let Some(after) = rest.strip_prefix('.') else { return Some(0) };
    let (number, after) = take_while(after, |b| b.is_ascii_digit());
    *rest = after;
    if number.is_empty() || number.len() > 9 {
        return None;
    }
    format!("{number:0<9}").parse::<u32>().ok().map(|nanoseconds| nanoseconds / 1_000)
}

fn in_zone(text: &str, local: NaiveDateTime, zone: &str) -> Result<DateTime<Utc>, ParseTimeError> {
    if zone.is_empty() {
        return Err(ParseTimeError::NoZone(text.to_owned()));
    }
    if zone.starts_with(['+', '-']) {
        let offset = parse_offset(zone).ok_or_else(|| ParseTimeError::UnknownZone(zone.to_owned()))?;
        let time = local.checked_sub_signed(offset).ok_or_else(|| ParseTimeError::OutOfRange(text.to_owned()))?;
        return Ok(time.and_utc());
    }
    if ["Z", "UTC", "GMT"].iter().any(|utc| zone.eq_ignore_ascii_case(utc)) {
        return Ok(local.and_utc());
    }
    let unknown = || ParseTimeError::UnknownZone(zone.to_owned());
    let zone = if zone.contains('/') { zone.parse::<Tz>().map_err(|_| unknown())? } else { Err(unknown())? };
    match zone.from_local_datetime(&local) {
        LocalResult::Single(time) => Ok(time.with_timezone(&Utc)),
        LocalResult::None => Err(ParseTimeError::Skipped { text: local.to_string(), zone }),
        LocalResult::Ambiguous(first, second) => Err(ParseTimeError::Twice {
            text: local.to_string(),
            zone,
            first: first.with_timezone(&Utc),
            second: second.with_timezone(&Utc),
        }),
    }
}

/// `+01`, `+0130`, `+01:30`, east of Greenwich, as PostgreSQL prints them.
fn parse_offset(text: &str) -> Option<TimeDelta> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let mut rest = text.get(1..)?;
    let hours = digits(&mut rest, 2)?;
    rest = rest.strip_prefix(':').unwrap_or(rest);
    let minutes = if rest.is_empty() && !text.ends_with(':') { 0 } else { digits(&mut rest, 2)? };
    if !rest.is_empty() || hours > 15 || minutes > 59 {
        return None;
    }
    TimeDelta::try_seconds(sign * (i64::from(hours) * 3_600 + i64::from(minutes) * 60))
}

/// Reads [`parse_time`]'s result again: RFC 3339 in UTC with microseconds.
#[must_use]
pub fn format_time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_str("2026-11-22T12:00:00.1234567Z").unwrap()
    }

    fn utc(text: &str) -> String {
        match parse_time(text, now()) {
            Ok(time) => format_time(time),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn times_with_a_zone_are_moments() {
        let table = [
            ("2026-11-22T06:31:00Z", "2026-11-22T06:31:00.000000Z"),
            ("2026-11-22t06:31:00z", "2026-11-22T06:31:00.000000Z"),
            ("2026-11-22T06:31:00.123456+01:00", "2026-11-22T05:31:00.123456Z"),
            ("2026-11-22 06:31:00+01", "2026-11-22T05:31:00.000000Z"),
            ("2026-11-22 06:31:00 +01", "2026-11-22T05:31:00.000000Z"),
            ("2026-11-22 06:31:00-0330", "2026-11-22T10:01:00.000000Z"),
            ("2026-11-22 06:31+05:45", "2026-11-22T00:46:00.000000Z"),
            ("2026-11-22 06:31:00 UTC", "2026-11-22T06:31:00.000000Z"),
            ("2026-11-22 06:31:00.5 gmt", "2026-11-22T06:31:00.500000Z"),
            ("2026-11-22 06:31:00 Europe/Berlin", "2026-11-22T05:31:00.000000Z"),
            ("2026-07-22 06:31:00 Europe/Berlin", "2026-07-22T04:31:00.000000Z"),
            ("2026-11-22 06:31:00.123456789Z", "2026-11-22T06:31:00.123456Z"),
            ("  2026-11-22 06:31:00Z ", "2026-11-22T06:31:00.000000Z"),
        ];
        for (text, expected) in table {
            assert_eq!(utc(text), expected, "{text:?}");
        }
    }

    #[test]
    fn relative_times_count_from_now() {
        let table = [
            ("10 min ago", "2026-11-22T11:50:00.123456Z"),
            ("2 hours ago", "2026-11-22T10:00:00.123456Z"),
            ("1 hour 30 minutes ago", "2026-11-22T10:30:00.123456Z"),
            ("90s ago", "2026-11-22T11:58:30.123456Z"),
            ("1d ago", "2026-11-21T12:00:00.123456Z"),
            ("now", "2026-11-22T12:00:00.123456Z"),
        ];
        for (text, expected) in table {
            assert_eq!(utc(text), expected, "{text:?}");
        }
    }

    #[test]
    fn time_without_zone_is_refused_with_a_hint() {
        for text in ["2026-11-22 06:31:00", "2026-11-22T06:31:00", "2026-11-22 06:31"] {
            let error = parse_time(text, now()).unwrap_err();
            assert_eq!(error, ParseTimeError::NoZone(text.to_owned()));
            assert!(error.hint().contains(&format!("{text}Z")), "{}", error.hint());
        }
    }

    #[test]
    fn abbreviations_and_inverted_offsets_are_refused() {
        for zone in ["CET", "EST", "PST", "local", "UTC+1", "Europe/Atlantis", "+", "+1", "+1:00", "+16", "+01:"] {
            let error = parse_time(&format!("2026-11-22 06:31:00 {zone}"), now()).unwrap_err();
            assert_eq!(error, ParseTimeError::UnknownZone(zone.to_owned()));
        }
    }

    #[test]
    fn times_that_clocks_skip_or_show_twice_are_refused() {
        let skipped = parse_time("2026-03-29 02:30:00 Europe/Berlin", now()).unwrap_err();
        assert!(matches!(skipped, ParseTimeError::Skipped { .. }), "{skipped}");
        let twice = parse_time("2026-10-25 02:30:00 Europe/Berlin", now()).unwrap_err();
        assert!(twice.hint().contains("00:30:00Z") && twice.hint().contains("01:30:00Z"), "{}", twice.hint());
    }

    #[test]
    fn everything_else_is_malformed() {
        for text in [
            "",
            "ago",
            "yesterday",
            "ten min ago",
            "10 ago",
            "10 fortnights ago",
            "-10 min ago",
            "2026-11-22",
            "2026-11-22Z",
            "2026-11-2206:31:00Z",
            "2026-13-01 00:00Z",
            "2026-02-29 00:00Z",
            "2026-11-22 24:00:00Z",
            "2026-11-22 06:60Z",
            "2026-11-22 06:31:60Z",
            "2026-11-22 06:31:00.Z",
            "2026-11-22 06:31:00.1234567890Z",
            "26-11-22 06:31Z",
            "2026-11-22 6:31Z",
            "2026-11-22 06:31:000Z",
            "99999999999999999999 s ago",
            "2026–11–22 06:31Z",
        ] {
            let error = parse_time(text, now()).unwrap_err();
            assert!(matches!(error, ParseTimeError::Malformed(_) | ParseTimeError::OutOfRange(_)), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse_time(&text, now());
        }

        #[test]
        fn reads_what_it_prints(microseconds in -62_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let time = DateTime::from_timestamp_micros(microseconds).unwrap();
            prop_assert_eq!(parse_time(&format_time(time), now()), Ok(time));
        }
    }
}
