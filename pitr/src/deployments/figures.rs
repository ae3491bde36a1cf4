//! The four figures over a span of time.

use chrono::TimeDelta;

use super::Deployment;

/// A middle, and what nine of ten do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    pub of: usize,
    pub median: TimeDelta,
    pub p90: TimeDelta,
}

impl Spread {
    /// None of nothing. Both are values that occur (nearest rank).
    fn of(mut values: Vec<TimeDelta>) -> Option<Self> {
        values.sort_unstable();
        let rank = |tenths: usize| (values.len() * tenths).div_ceil(10).saturating_sub(1);
        Some(Self { of: values.len(), median: *values.get(rank(5))?, p90: *values.get(rank(9))? })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub deployments: usize,
    pub failed: usize,
    /// Failed, and not well again.
    pub open: usize,
    pub lead: Option<Spread>,
    pub time_to_recovery: Option<Spread>,
}

impl Figures {
    /// From 0 to 1; none where there was no deployment.
    #[must_use]
    pub fn change_failure_rate(&self) -> Option<f64> {
        (self.deployments > 0).then(|| self.failed as f64 / self.deployments as f64)
    }
}

#[must_use]
pub fn figures<'a>(deployments: impl IntoIterator<Item = &'a Deployment>) -> Figures {
    let (mut figures, mut leads, mut recoveries) = (Figures::default(), Vec::new(), Vec::new());
    for deployment in deployments {
        figures.deployments += 1;
        leads.extend(deployment.lead);
        if deployment.has_failed() {
            figures.failed += 1;
            figures.open += usize::from(deployment.recovery.is_none());
            recoveries.extend(deployment.time_to_recovery());
        }
    }
    Figures { lead: Spread::of(leads), time_to_recovery: Spread::of(recoveries), ..figures }
}

#[cfg(test)]
mod tests {
    use super::super::deployment::tests::{at, marker};
    use super::super::deployments;
    use super::*;
    use crate::repository::marker::Outcome;

    #[test]
    fn spreads_are_values_that_occur() {
        let minutes = |values: &[i64]| Spread::of(values.iter().copied().map(TimeDelta::minutes).collect());
        let told = |spread: Option<Spread>| spread.map(|s| (s.of, s.median.num_minutes(), s.p90.num_minutes()));
        assert_eq!(told(minutes(&[])), None);
        assert_eq!(told(minutes(&[7])), Some((1, 7, 7)));
        assert_eq!(told(minutes(&[9, 1])), Some((2, 1, 9)));
        assert_eq!(told(minutes(&[5, 3, 1, 2, 4, 10, 9, 8, 7, 6])), Some((10, 5, 9)));
    }

    #[test]
    fn figures_count_what_failed_and_what_is_open() {
        let commit = at(-10).to_rfc3339();
        let (found, _) = deployments(
            &[
                marker("a", 0, Some((Outcome::Ok, 5)), Some(&commit)),
                marker("b", 10, Some((Outcome::Failed, 5)), None),
                marker("c", 20, Some((Outcome::Ok, 5)), None),
                marker("d", 30, Some((Outcome::Failed, 5)), None),
            ],
            &[],
        );
        let figures = figures(&found);
        assert_eq!((figures.deployments, figures.failed, figures.open), (4, 2, 1));
        assert_eq!(figures.change_failure_rate(), Some(0.5));
        assert_eq!(figures.lead.map(|lead| lead.median), Some(TimeDelta::minutes(15)));
        assert_eq!(figures.time_to_recovery.map(|time| (time.of, time.median)), Some((1, TimeDelta::minutes(15))));
        assert_eq!(super::figures([]).change_failure_rate(), None);
    }
}
