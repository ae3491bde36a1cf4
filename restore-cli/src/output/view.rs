//! How text is set: with which colours, in which time zone, seen from which moment.

use chrono::{DateTime, Utc};

use super::{Paint, Zone};

#[derive(Debug, Clone, Copy)]
pub struct View {
    pub paint: Paint,
    pub zone: Zone,
    pub now: DateTime<Utc>,
}

impl View {
    /// For tests and golden files: no colours, a fixed zone, a fixed moment.
    #[cfg(test)]
    pub fn fixed() -> Self {
        let offset = chrono::FixedOffset::east_opt(3600).unwrap();
        Self { paint: Paint::plain(), zone: Zone::Fixed(offset), now: "2026-11-22T12:00:00Z".parse().unwrap() }
    }
}
