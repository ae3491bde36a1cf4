//! JSON as it is documented: every LSN as PostgreSQL prints it, every time RFC 3339 in UTC with microseconds.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

/// A time in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub DateTime<Utc>);

impl From<DateTime<Utc>> for Time {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    }
}

/// Indented, with a final line feed.
///
/// # Panics
/// Never: documents are plain structs with names as keys.
pub fn document<T: Serialize>(document: &T) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("documents always have a JSON form");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_in_utc() {
        let time: DateTime<Utc> = "2026-11-22T12:31:00+01:00".parse().unwrap();
        assert_eq!(document(&Time(time)), "\"2026-11-22T11:31:00.000000Z\"\n");
    }
}
