use chrono::{Datelike, Timelike};
use proptest::prelude::*;

use super::*;

fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::parse(text, parse_time_zone(zone).unwrap()).unwrap()
}

fn time(text: &str) -> DateTime<Utc> {
    format!("{text}:00Z").parse().unwrap()
}

/// Text, a moment, and the firings that follow it, in UTC.
const TABLE: &[(&str, &str, &[&str])] = &[
    ("0 2 * * *", "2026-11-22T01:59", &["2026-11-22T02:00", "2026-11-23T02:00"]),
    ("0 2 * * *", "2026-11-22T02:00", &["2026-11-23T02:00"]),
    ("*/15 * * * *", "2026-11-22T01:50", &["2026-11-22T02:00", "2026-11-22T02:15"]),
    ("5-20/5 3 * * *", "2026-11-22T00:00", &["2026-11-22T03:05", "2026-11-22T03:10", "2026-11-22T03:15"]),
    ("0,30 8-10 * * *", "2026-11-22T09:00", &["2026-11-22T09:30", "2026-11-22T10:00", "2026-11-22T10:30"]),
    // 22 November 2026 is a Sunday.
    ("0 0 * * 0", "2026-11-16T00:00", &["2026-11-22T00:00", "2026-11-29T00:00"]),
    ("0 0 * * 7", "2026-11-16T00:00", &["2026-11-22T00:00", "2026-11-29T00:00"]),
    ("0 0 * * SUN", "2026-11-16T00:00", &["2026-11-22T00:00"]),
    ("0 0 * * 1", "2026-11-16T00:00", &["2026-11-23T00:00"]),
    ("0 0 * * 6", "2026-11-16T00:00", &["2026-11-21T00:00"]),
    ("0 0 * * mon-fri", "2026-11-20T12:00", &["2026-11-23T00:00", "2026-11-24T00:00"]),
    (
        "0 0 * * 5-7",
        "2026-11-18T12:00",
        &["2026-11-20T00:00", "2026-11-21T00:00", "2026-11-22T00:00", "2026-11-27T00:00"],
    ),
    ("0 0 * * sat-sun", "2026-11-18T12:00", &["2026-11-21T00:00", "2026-11-22T00:00", "2026-11-28T00:00"]),
    // Both days restricted: either.
    ("0 0 13 * 5", "2026-11-01T00:00", &["2026-11-06T00:00", "2026-11-13T00:00", "2026-11-20T00:00"]),
    ("0 0 1,15 * 3", "2026-11-22T00:00", &["2026-11-25T00:00", "2026-12-01T00:00", "2026-12-02T00:00"]),
    // A star with a step restricts nothing in this sense: both.
    ("0 0 */2 * 1", "2026-11-16T00:00", &["2026-11-23T00:00", "2026-12-07T00:00"]),
    ("0 0 31 * *", "2026-11-01T00:00", &["2026-12-31T00:00", "2027-01-31T00:00", "2027-03-31T00:00"]),
    ("0 0 29 2 *", "2026-01-01T00:00", &["2028-02-29T00:00", "2032-02-29T00:00"]),
    ("0 12 1 jan,JUL *", "2026-01-02T00:00", &["2026-07-01T12:00", "2027-01-01T12:00"]),
    ("@hourly", "2026-11-22T01:59", &["2026-11-22T02:00", "2026-11-22T03:00"]),
    ("@daily", "2026-11-22T00:00", &["2026-11-23T00:00"]),
    ("@midnight", "2026-11-22T00:00", &["2026-11-23T00:00"]),
    ("@weekly", "2026-11-22T00:00", &["2026-11-29T00:00"]),
    ("@monthly", "2026-11-22T00:00", &["2026-12-01T00:00"]),
    ("@yearly", "2026-11-22T00:00", &["2027-01-01T00:00", "2028-01-01T00:00"]),
    ("@annually", "2026-11-22T00:00", &["2027-01-01T00:00"]),
    (" 59   23 31 12 * ", "2026-11-22T00:00", &["2026-12-31T23:59"]),
];

#[test]
fn fires_as_a_crontab_does() {
    for (text, after, expected) in TABLE {
        let found = schedule(text, "UTC").upcoming(time(after), expected.len());
        let expected: Vec<_> = expected.iter().map(|text| time(text)).collect();
        assert_eq!(found, expected, "{text} after {after}");
    }
}

#[test]
fn refuses_what_it_does_not_understand() {
    let table = [
        ("", "it has 0 fields"),
        ("0 2 * *", "it has 4 fields"),
        ("0 0 2 * * *", "seconds and years are not supported"),
        ("60 * * * *", "minute: 60 is not from 0 to 59"),
        ("0 24 * * *", "hour: 24 is not from 0 to 23"),
        ("0 0 0 * *", "day of month: 0 is not from 1 to 31"),
        ("0 0 * 13 *", "month: 13 is not from 1 to 12"),
        ("0 0 * * 8", "day of week: 8 is not from 0 to 7"),
        ("0 0 L * *", "day of month: \"L\" is not understood"),
        ("0 0 ? * 1", "\"?\" is not understood"),
        ("0 0 * * 5#2", "\"5#2\" is not understood"),
        ("*/0 * * * *", "\"0\" is not a step from 1 to 59"),
        ("*/90 * * * *", "\"90\" is not a step from 1 to 59"),
        ("5/15 * * * *", "write 5-59/…"),
        ("30-10 * * * *", "goes backwards"),
        ("1,,2 * * * *", "a number is missing"),
        ("+1 * * * *", "\"+1\" is not understood"),
        ("0 0 30 2 *", "no such day ever comes"),
        ("0 mon * * *", "\"mon\" is not understood"),
        ("@reboot", "is not a time"),
        ("@fortnightly", "there is no \"@fortnightly\""),
    ];
    for (text, reason) in table {
        let error = Schedule::parse(text, Tz::UTC).unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
    assert!(parse_time_zone("Berlin").is_err());
}

#[test]
fn follows_the_zone() {
    let found = schedule("30 2 * * *", "Asia/Kolkata").next_after(time("2026-11-22T00:00"));
    assert_eq!(found, Some(time("2026-11-22T21:00")));
    let berlin = schedule("0 2 * * *", "Europe/Berlin");
    assert_eq!(berlin.next_after(time("2026-07-01T12:00")), Some(time("2026-07-02T00:00")));
    assert_eq!(berlin.next_after(time("2026-12-01T12:00")), Some(time("2026-12-02T01:00")));
}

/// Berlin: 02:00 became 03:00 on 29 March 2026, at 01:00 UTC.
#[test]
fn a_skipped_time_fires_when_the_clocks_have_changed() {
    let found = schedule("30 2 * * *", "Europe/Berlin").upcoming(time("2026-03-28T12:00"), 2);
    assert_eq!(found, [time("2026-03-29T01:00"), time("2026-03-30T00:30")]);
    let quarters = schedule("*/15 * * * *", "Europe/Berlin").upcoming(time("2026-03-29T00:40"), 3);
    assert_eq!(quarters, [time("2026-03-29T00:45"), time("2026-03-29T01:00"), time("2026-03-29T01:15")]);
}

/// Berlin: 03:00 became 02:00 on 25 October 2026, at 01:00 UTC.
#[test]
fn a_repeated_time_fires_once_unless_every_hour_does() {
    let nightly = schedule("30 2 * * *", "Europe/Berlin").upcoming(time("2026-10-24T12:00"), 2);
    assert_eq!(nightly, [time("2026-10-25T00:30"), time("2026-10-26T01:30")]);
    let halves = schedule("*/30 * * * *", "Europe/Berlin").upcoming(time("2026-10-25T00:15"), 4);
    let expected = ["2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30", "2026-10-25T02:00"].map(time);
    assert_eq!(halves, expected);
}

#[test]
fn a_whole_day_that_is_skipped_fires_at_its_end() {
    // Samoa had no 30 December 2011.
    let found = schedule("0 12 * * *", "Pacific/Apia").upcoming(time("2011-12-29T00:00"), 3);
    assert_eq!(found, [time("2011-12-29T22:00"), time("2011-12-30T10:00"), time("2011-12-30T22:00")]);
}

#[test]
fn knows_what_was_missed() {
    let nightly = schedule("0 2 * * *", "UTC");
    assert!(nightly.fired_between(time("2026-11-20T02:01"), time("2026-11-21T02:00")));
    assert!(!nightly.fired_between(time("2026-11-20T02:01"), time("2026-11-21T01:59")));
}

fn day_matches(fields: &Fields, day: NaiveDateTime) -> bool {
    let of_month = fields.day_of_month.contains(day.day() as u8);
    let of_week = fields.day_of_week.contains(day.weekday().num_days_from_sunday() as u8);
    if fields.day_of_month.is_restricted() && fields.day_of_week.is_restricted() {
        of_month || of_week
    } else {
        of_month && of_week
    }
}

fn field_text(lowest: u8, highest: u8) -> impl Strategy<Value = String> {
    let number = lowest..=highest;
    let range = (number.clone(), number.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let item = prop_oneof![
        3 => Just("*".to_owned()),
        1 => (1..highest).prop_map(|step| format!("*/{step}")),
        2 => number.prop_map(|n| n.to_string()),
        1 => range.clone(),
        1 => (range, 1..highest).prop_map(|(range, step)| format!("{range}/{step}")),
    ];
    proptest::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

proptest! {
    /// Minute by minute, against the rule as crontab(5) states it.
    #[test]
    fn agrees_with_a_clock_that_looks_every_minute(
        text in (field_text(0, 59), field_text(0, 23), field_text(1, 28), field_text(1, 12), field_text(0, 7))
            .prop_map(|(m, h, dom, mon, dow)| format!("{m} {h} {dom} {mon} {dow}")),
        start in 0_i64..20_000_000,
    ) {
        let after = DateTime::from_timestamp(1_760_000_000 + start, 0).unwrap();
        let fields = Fields::parse(&text).unwrap();
        let first_minute = (after.naive_utc() + TimeDelta::minutes(1)).with_second(0).unwrap();
        let expected = (0..60 * 24 * 40).map(|minutes| first_minute + TimeDelta::minutes(minutes)).find(|minute| {
            fields.minute.contains(minute.minute() as u8)
                && fields.hour.contains(minute.hour() as u8)
                && fields.month.contains(minute.month() as u8)
                && day_matches(&fields, *minute)
        });
        let Ok(schedule) = Schedule::parse(&text, Tz::UTC) else { return Ok(()) };
        let found = schedule.next_after(after).map(|moment| moment.naive_utc());
        if expected.is_some() {
            prop_assert_eq!(found, expected);
        } else {
            prop_assert!(found.is_none_or(|found| found >= first_minute + TimeDelta::days(40)));
        }
    }
}
