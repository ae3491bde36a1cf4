//! `TimestampTz` as PostgreSQL stores it: microseconds since 2000-01-01 UTC.

use chrono::{DateTime, Utc};

/// From the Unix epoch to PostgreSQL's.
const EPOCH_UNIX_MICROSECONDS: i64 = 946_684_800_000_000;

/// The moment, or none where it is beyond what can be told (infinity included).
#[must_use]
pub fn from_postgres_microseconds(microseconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(microseconds.checked_add(EPOCH_UNIX_MICROSECONDS)?)
}

/// Microseconds since 2000-01-01 UTC. Parts of a microsecond are cut off.
#[must_use]
pub const fn to_postgres_microseconds(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros().saturating_sub(EPOCH_UNIX_MICROSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_year_2000() {
        let text = |microseconds| from_postgres_microseconds(microseconds).unwrap().to_rfc3339();
        assert_eq!(text(0), "2000-01-01T00:00:00+00:00");
        assert_eq!(text(-1), "1999-12-31T23:59:59.999999+00:00");
        assert_eq!(text(848_656_801_234_567), "2026-11-22T10:00:01.234567+00:00");
    }

    #[test]
    fn is_reversible_and_bounded() {
        for microseconds in [0, 1, -1, 848_656_801_234_567, -200_000_000_000_000_000] {
            assert_eq!(to_postgres_microseconds(from_postgres_microseconds(microseconds).unwrap()), microseconds);
        }
        assert_eq!(from_postgres_microseconds(i64::MAX), None);
        assert_eq!(from_postgres_microseconds(i64::MIN), None);
    }
}
