//! Findings.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// `repository`, `server`, `replication`, `data directory`, `cluster`, `clock`, `schedule`, `archiving`.
    pub area: &'static str,
    pub level: Level,
    pub text: String,
    pub hint: Option<String>,
}

/// All findings, in the order of looking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    pub findings: Vec<CheckFinding>,
}

impl CheckReport {
    pub fn ok(&mut self, area: &'static str, text: impl Into<String>) {
        self.findings.push(CheckFinding { area, level: Level::Ok, text: text.into(), hint: None });
    }

    pub fn warning(&mut self, area: &'static str, text: impl Into<String>, hint: Option<String>) {
        self.findings.push(CheckFinding { area, level: Level::Warning, text: text.into(), hint });
    }

    /// The error with its sources.
    pub fn error(&mut self, area: &'static str, error: &dyn std::error::Error, hint: Option<String>) {
        let text = crate::error_text::in_full(error);
        self.findings.push(CheckFinding { area, level: Level::Error, text, hint });
    }

    /// The worst of all findings.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

impl std::fmt::Display for CheckReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            let level = match finding.level {
                Level::Ok => "ok     ",
                Level::Warning => "WARNING",
                Level::Error => "ERROR  ",
            };
            writeln!(f, "{level}  {:<14}  {}", finding.area, finding.text)?;
            if let Some(hint) = &finding.hint {
                writeln!(f, "{:25}hint: {hint}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_finding_decides() {
        let mut report = CheckReport::default();
        assert_eq!(report.worst(), Level::Ok);
        report.ok("server", "PostgreSQL 15.18");
        report.warning("server", "fsync is off", Some("switch fsync on".to_owned()));
        assert_eq!(report.worst(), Level::Warning);
        report.error("repository", &std::io::Error::other("gone"), None);
        assert_eq!(report.worst(), Level::Error);
        let text = "ok       server          PostgreSQL 15.18\nWARNING  server          fsync is off\n                         hint: switch fsync on\nERROR    repository      gone\n";
        assert_eq!(report.to_string(), text);
    }
}
