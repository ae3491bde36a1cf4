//! Times as people read them: local first, UTC beside it.

use chrono::{DateTime, FixedOffset, Local, NaiveDate, Offset, Utc};

/// The zone that counts as local.
#[derive(Debug, Clone, Copy)]
pub enum Zone {
    /// That of this machine (`TZ`).
    Local,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests must not depend on the machine's zone"))]
    Fixed(FixedOffset),
}

impl Zone {
    /// The day on which a moment falls.
    pub fn day(self, time: DateTime<Utc>) -> NaiveDate {
        self.at(time).date_naive()
    }

    fn at(self, time: DateTime<Utc>) -> DateTime<FixedOffset> {
        match self {
            Self::Local => time.with_timezone(&Local).fixed_offset(),
            Self::Fixed(offset) => time.with_timezone(&offset),
        }
    }

    /// `2026-11-22 12:31:00+01:00`, to the second.
    pub fn local(self, time: DateTime<Utc>) -> String {
        let local = self.at(time);
        if local.offset().fix().local_minus_utc() == 0 {
            local.format("%F %T UTC").to_string()
        } else {
            local.format("%F %T%:z").to_string()
        }
    }

    /// `2026-11-22 12:31:00+01:00 (11:31:00 UTC)`; the date again where it differs.
    pub fn both(self, time: DateTime<Utc>) -> String {
        self.with_utc(time, "%T")
    }

    /// As [`Zone::both`], to the microsecond.
    pub fn exact(self, time: DateTime<Utc>) -> String {
        self.with_utc(time, "%T%.6f")
    }

    fn with_utc(self, time: DateTime<Utc>, clock: &str) -> String {
        let local = self.at(time);
        if local.offset().fix().local_minus_utc() == 0 {
            return local.format(&format!("%F {clock} UTC")).to_string();
        }
        let same_day = local.date_naive() == time.date_naive();
        let utc_format = if same_day { format!("{clock} UTC") } else { format!("%F {clock} UTC") };
        let utc = time.format(&utc_format);
        format!("{} ({utc})", local.format(&format!("%F {clock}%:z")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_stands_beside_local_time() {
        let time: DateTime<Utc> = "2026-11-22T23:31:00.25Z".parse().unwrap();
        let east = Zone::Fixed(FixedOffset::east_opt(3600).unwrap());
        assert_eq!(east.both(time), "2026-11-23 00:31:00+01:00 (2026-11-22 23:31:00 UTC)");
        let west = Zone::Fixed(FixedOffset::west_opt(3600).unwrap());
        assert_eq!(west.exact(time), "2026-11-22 22:31:00.250000-01:00 (23:31:00.250000 UTC)");
        assert_eq!(west.local(time), "2026-11-22 22:31:00-01:00");
        let utc = Zone::Fixed(FixedOffset::east_opt(0).unwrap());
        assert_eq!(utc.both(time), "2026-11-22 23:31:00 UTC");
    }
}
