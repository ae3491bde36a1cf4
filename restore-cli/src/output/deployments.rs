//! `pitr report`.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use pitr::deployments::{Deployment, Figures, RecoveredBy, Result, Spread, Unread, figures};
use pitr::postgres::Lsn;
use serde::Serialize;

use super::View;
use super::human::{count, span};
use super::json::Time;
use super::table::Table;

/// What the repository tells of a cluster's deployments.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// By their end.
    pub deployments: Vec<Deployment>,
    pub unread: Vec<Unread>,
    /// Markers that nobody finished.
    pub unfinished: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct DeploymentsDocument {
    pub format: u32,
    pub cluster: String,
    pub from: Time,
    pub to: Time,
    pub overall: FiguresDocument,
    /// Of the whole span: what a week of it has, on the average.
    pub deployments_per_week: f64,
    /// Weeks from Monday on, those without deployments too.
    pub weeks: Vec<Week>,
    pub deployments: Vec<DeploymentDocument>,
    pub unfinished_markers: usize,
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Week {
    pub monday: NaiveDate,
    #[serde(flatten)]
    pub figures: FiguresDocument,
}

#[derive(Debug, Clone, Serialize)]
pub struct FiguresDocument {
    pub deployments: usize,
    pub failed: usize,
    pub not_recovered: usize,
    pub change_failure_rate: Option<f64>,
    pub lead_time: Option<SpreadDocument>,
    pub time_to_recovery: Option<SpreadDocument>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct SpreadDocument {
    /// How many it is made of.
    pub of: usize,
    pub median_seconds: i64,
    pub p90_seconds: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct DeploymentDocument {
    pub name: String,
    pub lsn: Lsn,
    pub began: Time,
    pub ended: Time,
    pub result: Result,
    pub lead_seconds: Option<i64>,
    pub recovered: Option<RecoveredDocument>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RecoveredDocument {
    pub time: Time,
    pub seconds: i64,
    #[serde(flatten)]
    pub by: ByDocument,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ByDocument {
    Restore(String),
    Deployment(String),
}

impl From<Spread> for SpreadDocument {
    fn from(spread: Spread) -> Self {
        let Spread { of, median, p90 } = spread;
        Self { of, median_seconds: median.num_seconds(), p90_seconds: p90.num_seconds() }
    }
}

impl From<Figures> for FiguresDocument {
    fn from(figures: Figures) -> Self {
        Self {
            deployments: figures.deployments,
            failed: figures.failed,
            not_recovered: figures.open,
            change_failure_rate: figures.change_failure_rate(),
            lead_time: figures.lead.map(Into::into),
            time_to_recovery: figures.time_to_recovery.map(Into::into),
        }
    }
}

impl DeploymentDocument {
    fn new(deployment: &Deployment) -> Self {
        let seconds = deployment.time_to_recovery().unwrap_or_default().num_seconds();
        let recovered = deployment.recovery.clone().map(|recovery| RecoveredDocument {
            time: recovery.time.into(),
            seconds,
            by: match recovery.by {
                RecoveredBy::Restore(id) => ByDocument::Restore(id.to_string()),
                RecoveredBy::Deployment(name) => ByDocument::Deployment(name),
            },
        });
        Self {
            name: deployment.name.clone(),
            lsn: deployment.lsn,
            began: deployment.began.into(),
            ended: deployment.ended.into(),
            result: deployment.result,
            lead_seconds: deployment.lead.map(|lead| lead.num_seconds()),
            recovered,
        }
    }
}

impl DeploymentsDocument {
    pub fn new(cluster: String, found: Found, from: DateTime<Utc>, view: &View) -> Self {
        let deployments: Vec<Deployment> =
            found.deployments.into_iter().filter(|deployment| deployment.ended >= from).collect();
        let mut weeks: BTreeMap<NaiveDate, Vec<&Deployment>> = BTreeMap::new();
        let monday = |time| {
            let day = view.zone.day(time);
            day - TimeDelta::days(day.weekday().num_days_from_monday().into())
        };
        let (mut week, last) = (monday(from), monday(view.now));
        while week <= last {
            weeks.insert(week, Vec::new());
            week += TimeDelta::days(7);
        }
        for deployment in &deployments {
            weeks.entry(monday(deployment.ended)).or_default().push(deployment);
        }
        let of_week = |(monday, deployments): (NaiveDate, Vec<&Deployment>)| Week {
            monday,
            figures: figures(deployments).into(),
        };
        let span_of_weeks = (view.now - from).num_seconds().max(1) as f64 / (7.0 * 86_400.0);
        let unread = found
            .unread
            .iter()
            .map(|unread| format!("the commit time of \"{}\", \"{}\", {}", unread.marker, unread.value, unread.reason));
        Self {
            format: 1,
            cluster,
            from: from.into(),
            to: view.now.into(),
            overall: figures(&deployments).into(),
            deployments_per_week: (deployments.len() as f64 / span_of_weeks * 100.0).round() / 100.0,
            weeks: weeks.into_iter().map(of_week).collect(),
            deployments: deployments.iter().map(DeploymentDocument::new).collect(),
            unfinished_markers: found.unfinished,
            problems: unread.collect(),
        }
    }

    pub fn text(&self, view: &View) -> String {
        let mut text = format!(
            "{} of \"{}\" from {} to {}\n",
            count(self.deployments.len() as u64, "deployment"),
            self.cluster,
            view.zone.local(self.from.0),
            view.zone.local(self.to.0)
        );
        if self.deployments.is_empty() {
            text.push_str("\na marker counts once \"pitr finish\" closed it\n");
        } else {
            text.push_str(&self.figures_in_words());
            let mut table = Table::new(&["WEEK FROM", ">DEPLOYED", ">FAILED", ">LEAD TIME", ">TO RECOVERY"]);
            for week in &self.weeks {
                table.row([
                    week.monday.to_string(),
                    week.figures.deployments.to_string(),
                    week.figures.failed.to_string(),
                    median(week.figures.lead_time),
                    median(week.figures.time_to_recovery),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render(view.paint, ""));
        }
        if self.unfinished_markers > 0 {
            let markers = count(self.unfinished_markers as u64, "marker");
            text.push_str(&format!("\n{markers} without a finish: not counted\n"));
        }
        for problem in &self.problems {
            text.push_str(&format!("{} {problem}\n", view.paint.yellow("note:")));
        }
        text
    }

    fn figures_in_words(&self) -> String {
        let overall = &self.overall;
        let mut lines = vec![format!("  deployed          {} a week", self.deployments_per_week)];
        let rate = overall.change_failure_rate.unwrap_or_default() * 100.0;
        lines.push(format!("  failed            {} of {}, {rate:.0} %", overall.failed, overall.deployments));
        lines.push(format!(
            "  lead time         {}",
            in_words(overall.lead_time, "no marker says when its change was committed")
        ));
        let none = if overall.failed == 0 { "nothing failed" } else { "nothing that failed is over" };
        lines.push(format!("  time to recovery  {}", in_words(overall.time_to_recovery, none)));
        if overall.not_recovered > 0 {
            lines.push(format!("  not over yet      {}", overall.not_recovered));
        }
        lines.join("\n") + "\n"
    }
}

fn in_words(spread: Option<SpreadDocument>, none: &str) -> String {
    spread.map_or_else(
        || none.to_owned(),
        |spread| {
            format!(
                "{} in the middle, nine of ten within {}",
                seconds(spread.median_seconds),
                seconds(spread.p90_seconds)
            )
        },
    )
}

fn median(spread: Option<SpreadDocument>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| seconds(spread.median_seconds))
}

pub(super) fn seconds(seconds: i64) -> String {
    span(TimeDelta::try_seconds(seconds).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use pitr::deployments::Recovery;

    use super::*;

    /// Three weeks, of which one is empty.
    pub fn document() -> DeploymentsDocument {
        let view = View::fixed();
        let deployment = |name: &str, began: &str, minutes: i64, result| {
            let began: DateTime<Utc> = began.parse().unwrap();
            let ended = began + TimeDelta::minutes(minutes);
            let (lead, recovery) = match result {
                Result::Ok => (Some(TimeDelta::hours(5)), None),
                _ => (
                    None,
                    Some(Recovery {
                        time: ended + TimeDelta::minutes(7),
                        by: RecoveredBy::Deployment("release <42>".to_owned()),
                    }),
                ),
            };
            Deployment { name: name.to_owned(), lsn: Lsn::new(0x300_0060), began, ended, result, lead, recovery }
        };
        let found = Found {
            deployments: vec![
                deployment("before", "2026-10-22T09:00:00Z", 3, Result::Ok),
                deployment("release-40", "2026-11-05T09:00:00Z", 3, Result::Ok),
                deployment("release-41", "2026-11-18T09:00:00Z", 4, Result::Failed),
                deployment("release <42>", "2026-11-18T10:00:00Z", 5, Result::Ok),
            ],
            unread: vec![Unread { marker: "m".to_owned(), value: "x".to_owned(), reason: "is wrong" }],
            unfinished: 2,
        };
        DeploymentsDocument::new("main".to_owned(), found, "2026-11-04T00:00:00Z".parse().unwrap(), &view)
    }

    #[test]
    fn text_has_the_figures_and_each_week() {
        insta::assert_snapshot!(document().text(&View::fixed()));
    }

    #[test]
    fn json_is_as_documented() {
        insta::assert_snapshot!(super::super::json::document(&document()));
    }

    #[test]
    fn nothing_deployed_is_told_with_what_would_count() {
        let view = View::fixed();
        let from = "2026-11-04T00:00:00Z".parse().unwrap();
        let text = DeploymentsDocument::new("main".to_owned(), Found::default(), from, &view).text(&view);
        assert!(text.contains("0 deployments") && text.contains("pitr finish"), "{text}");
    }
}
