//! `[drill]`: restores that are only there to prove that restores work.

use std::path::PathBuf;

use chrono_tz::Tz;

use super::backup::{parse_schedule, parse_timezone};
use super::document::Section;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillConfig {
    /// Crontab line; none: no drills.
    pub schedule: Option<String>,
    pub timezone: Tz,
    /// Where the scratch cluster is restored to.
    pub directory: Option<PathBuf>,
    pub target: DrillTarget,
    /// Queries that must return one row that is true.
    pub checks: Vec<String>,
}

/// Which moment a drill restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillTarget {
    Latest,
    Immediate,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self { schedule: None, timezone: Tz::UTC, directory: None, target: DrillTarget::Latest, checks: Vec::new() }
    }
}

impl DrillConfig {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Self::default();
        let targets = [("latest", DrillTarget::Latest), ("immediate", DrillTarget::Immediate)];
        let drill = Self {
            schedule: section.parsed("schedule", parse_schedule).unwrap_or(default.schedule),
            timezone: section.parsed("timezone", parse_timezone).unwrap_or(default.timezone),
            directory: section.get("directory"),
            target: section.parsed("target", |text| super::value::one_of(&targets, text)).unwrap_or(default.target),
            checks: section.get("checks").unwrap_or(default.checks),
        };
        if drill.checks.iter().any(|check| check.trim().is_empty()) {
            section.problem("checks", "holds an empty query");
        }
        drill
    }
}
