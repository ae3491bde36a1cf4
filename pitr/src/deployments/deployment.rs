//! What became of each deployment.

use chrono::{DateTime, TimeDelta, Utc};

use crate::postgres::Lsn;
use crate::recovery::{MarkerRef, MarkerSide, RecoveryTarget};
use crate::repository::marker::{FinishedMarker, Outcome};
use crate::restore::RestoreId;
use crate::restore::certificate::{Certificate, Verdict};

/// In the metadata of a marker or of its finish: when the newest change that it deploys was committed, as RFC 3339 (what
/// `git log -1 --format=%cI` prints) or in seconds since 1970 (`%ct`).
pub const COMMIT_TIME: &str = "commit_time";

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Result {
    Ok,
    Failed,
    /// Never finished, and a restore went back to just before it.
    Undone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveredBy {
    Restore(RestoreId),
    /// The marker of a later deployment.
    Deployment(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub time: DateTime<Utc>,
    pub by: RecoveredBy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    pub name: String,
    pub lsn: Lsn,
    pub began: DateTime<Utc>,
    /// When it was finished, or had been undone.
    pub ended: DateTime<Utc>,
    pub result: Result,
    /// From the commit of the change to the end of the deployment, where it ended well.
    pub lead: Option<TimeDelta>,
    /// None of what did not fail, or is not over.
    pub recovery: Option<Recovery>,
}

impl Deployment {
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.result != Result::Ok
    }

    /// From its begin, for what went wrong began there, until it was well again.
    #[must_use]
    pub fn time_to_recovery(&self) -> Option<TimeDelta> {
        self.recovery.as_ref().map(|recovery| (recovery.time - self.began).max(TimeDelta::zero()))
    }
}

/// A commit time that could not be made use of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub marker: String,
    pub value: String,
    pub reason: &'static str,
}

/// All deployments of a lineage, by their end.
#[must_use]
pub fn deployments(markers: &[FinishedMarker], certificates: &[Certificate]) -> (Vec<Deployment>, Vec<Unread>) {
    let mut unread = Vec::new();
    let reached: Vec<&Certificate> =
        certificates.iter().filter(|certificate| certificate.verdict == Verdict::Reached).collect();
    let mut found: Vec<Deployment> =
        markers.iter().filter_map(|marker| deployment(marker, &reached, &mut unread)).collect();
    found.sort_by_key(|deployment| (deployment.ended, deployment.lsn));
    let well: Vec<(DateTime<Utc>, DateTime<Utc>, String)> = found
        .iter()
        .filter(|deployment| !deployment.has_failed())
        .map(|deployment| (deployment.began, deployment.ended, deployment.name.clone()))
        .collect();
    for failed in found.iter_mut().filter(|deployment| deployment.has_failed()) {
        let forward = well
            .iter()
            .find(|(began, ..)| *began > failed.began)
            .map(|(_, ended, name)| Recovery { time: *ended, by: RecoveredBy::Deployment(name.clone()) });
        failed.recovery = [failed.recovery.take(), forward].into_iter().flatten().min_by_key(|recovery| recovery.time);
    }
    (found, unread)
}

fn deployment(finished: &FinishedMarker, reached: &[&Certificate], unread: &mut Vec<Unread>) -> Option<Deployment> {
    let marker = &finished.marker;
    let back = |just_before: bool| {
        let went = |certificate: &&&Certificate| {
            certificate.started >= marker.time
                && if just_before {
                    is_just_before(finished, certificate)
                } else {
                    certificate.target_lsn <= marker.lsn
                }
        };
        reached.iter().filter(went).min_by_key(|certificate| certificate.finished)
    };
    let by_restore = |certificate: &&Certificate| Recovery {
        time: certificate.finished,
        by: RecoveredBy::Restore(certificate.restore.clone()),
    };
    let (result, ended, recovery) = match &finished.finish {
        Some(finish) if finish.outcome == Outcome::Ok => (Result::Ok, finish.time, None),
        Some(finish) => (Result::Failed, finish.time, back(false).map(by_restore)),
        None => {
            let recovery = back(true).map(by_restore)?;
            (Result::Undone, recovery.time, Some(recovery))
        }
    };
    let lead = commit_time(finished, unread).filter(|_| result == Result::Ok).map(|commit| ended - commit);
    if lead.is_some_and(|lead| lead < TimeDelta::zero()) {
        let value = commit_text(finished).unwrap_or_default().to_owned();
        unread.push(Unread { marker: marker.name.clone(), value, reason: "is later than the deployment" });
    }
    Some(Deployment {
        name: marker.name.clone(),
        lsn: marker.lsn,
        began: marker.time,
        ended,
        result,
        lead: lead.filter(|lead| *lead >= TimeDelta::zero()),
        recovery,
    })
}

/// Whether the restore was asked to go to just before this very marker. One that only went further back may have been a copy
/// to look at.
fn is_just_before(finished: &FinishedMarker, certificate: &Certificate) -> bool {
    matches!(
        &certificate.asked,
        RecoveryTarget::Marker { side: MarkerSide::Before, marker: MarkerRef { name, lsn } }
            if *name == finished.marker.name
                && lsn.is_none_or(|lsn| lsn == finished.marker.lsn)
                && certificate.target_lsn <= finished.marker.lsn
    )
}

fn commit_text(finished: &FinishedMarker) -> Option<&str> {
    let of_finish = finished.finish.as_ref().and_then(|finish| finish.meta.get(COMMIT_TIME));
    of_finish.or_else(|| finished.marker.meta.get(COMMIT_TIME)).map(String::as_str)
}

fn commit_time(finished: &FinishedMarker, unread: &mut Vec<Unread>) -> Option<DateTime<Utc>> {
    let text = commit_text(finished)?;
    let seconds = || text.parse::<i64>().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let time = text.parse::<DateTime<chrono::FixedOffset>>().map(|time| time.to_utc()).ok().or_else(seconds);
    if time.is_none() {
        let (marker, value) = (finished.marker.name.clone(), text.to_owned());
        unread.push(Unread { marker, value, reason: "is neither RFC 3339 nor seconds since 1970" });
    }
    time
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::postgres::TimelineId;
    use crate::repository::marker::{Finish, Marker, MarkerSource};

    pub fn at(minutes: i64) -> DateTime<Utc> {
        let noon: DateTime<Utc> = "2026-11-18T12:00:00Z".parse().unwrap();
        noon + TimeDelta::minutes(minutes)
    }

    /// A marker that begins at a minute, and its finish after so many more.
    pub fn marker(name: &str, minute: i64, finish: Option<(Outcome, i64)>, commit: Option<&str>) -> FinishedMarker {
        let lsn = Lsn::new(0x100_0000 + u64::try_from(minute).unwrap() * 0x1000);
        let timeline = TimelineId::FIRST;
        let meta: BTreeMap<_, _> = commit.map(|value| (COMMIT_TIME.to_owned(), value.to_owned())).into_iter().collect();
        let finish = finish.map(|(outcome, after)| Finish {
            marker: None,
            outcome,
            timeline,
            lsn: lsn.advance(0x100),
            end_lsn: lsn.advance(0x150),
            time: at(minute + after),
            who: None,
            meta: BTreeMap::new(),
        });
        let marker = Marker {
            name: name.to_owned(),
            timeline,
            lsn,
            end_lsn: lsn.advance(0x50),
            time: at(minute),
            source: MarkerSource::Mark,
            who: None,
            key: None,
            meta,
        };
        FinishedMarker { marker, finish }
    }

    /// A restore that ran for two minutes.
    fn restore(asked: RecoveryTarget, target: Lsn, minute: i64, verdict: Verdict) -> Certificate {
        let json = serde_json::json!({
            "restore": "20261118T120000Z-00000001", "cluster": "main", "lineage": "7-1", "system_identifier": "7",
            "asked": asked, "backup": "20261118T110000Z", "data_directory": "/srv/restored",
            "started": at(minute), "finished": at(minute + 2), "timeline_before": 1, "timeline_after": 2,
            "target_lsn": target, "reached_lsn": target, "last_kept": null, "first_left_out": null, "checks": [],
            "seconds": [], "bytes": { "files": 0, "restored": 0, "fetched": 0, "wal": 0 }, "server": null, "notes": [],
            "failure": null, "verdict": verdict,
        });
        serde_json::from_value(json).unwrap()
    }

    fn before(name: &str) -> RecoveryTarget {
        RecoveryTarget::Marker { side: MarkerSide::Before, marker: MarkerRef { name: name.to_owned(), lsn: None } }
    }

    #[test]
    fn a_finished_marker_is_a_deployment_and_another_is_none() {
        let markers = [marker("open", 0, None, None), marker("done", 10, Some((Outcome::Ok, 5)), None)];
        let (found, unread) = deployments(&markers, &[]);
        assert_eq!(found.iter().map(|one| (one.name.as_str(), one.result)).collect::<Vec<_>>(), [("done", Result::Ok)]);
        assert_eq!((found[0].ended, found[0].lead, unread), (at(15), None, vec![]));
    }

    #[test]
    fn the_time_of_the_commit_is_read_in_both_forms() {
        let seconds = at(-60).timestamp().to_string();
        for (text, lead) in [("2026-11-18T12:30:00+01:00", Some(45)), (seconds.as_str(), Some(75)), ("yesterday", None)]
        {
            let (found, unread) = deployments(&[marker("m", 10, Some((Outcome::Ok, 5)), Some(text))], &[]);
            assert_eq!(found[0].lead, lead.map(TimeDelta::minutes), "{text}");
            assert_eq!(unread.is_empty(), lead.is_some(), "{text}");
        }
        let (found, unread) =
            deployments(&[marker("m", 10, Some((Outcome::Ok, 5)), Some("2030-01-01T00:00:00Z"))], &[]);
        assert_eq!((found[0].lead, unread[0].reason), (None, "is later than the deployment"));
    }

    #[test]
    fn what_failed_is_over_with_a_restore_to_before_it_or_with_the_next_that_went_well() {
        let failed = marker("bad", 10, Some((Outcome::Failed, 5)), None);
        let next = marker("good", 40, Some((Outcome::Ok, 5)), None);
        let recovery = |certificates: &[Certificate]| {
            let (found, _) = deployments(&[failed.clone(), next.clone()], certificates);
            (
                found[0].recovery.clone().map(|recovery| recovery.by),
                found[0].time_to_recovery().map(|t| t.num_minutes()),
            )
        };
        let forward = (Some(RecoveredBy::Deployment("good".to_owned())), Some(35));
        assert_eq!(recovery(&[]), forward);
        // Just before a marker is its own record: it changes nothing.
        let target = failed.marker.lsn;
        let restored = restore(RecoveryTarget::Time { time: at(9) }, target, 20, Verdict::Reached);
        assert_eq!(
            recovery(std::slice::from_ref(&restored)),
            (Some(RecoveredBy::Restore(restored.restore.clone())), Some(12))
        );
        // One that did not arrive, one to behind it, and one from before it.
        for other in [
            restore(before("bad"), target, 20, Verdict::NotReached),
            restore(RecoveryTarget::Latest, failed.marker.lsn.advance(0x400), 20, Verdict::Reached),
            restore(RecoveryTarget::Latest, target, 5, Verdict::Reached),
        ] {
            assert_eq!(recovery(&[other]), forward);
        }
        assert_eq!(deployments(std::slice::from_ref(&failed), &[]).0[0].recovery, None);
    }

    #[test]
    fn what_was_never_finished_counts_once_a_restore_went_back_to_just_before_it() {
        let open = marker("release-42", 10, None, None);
        let target = open.marker.lsn;
        let (found, _) =
            deployments(std::slice::from_ref(&open), &[restore(before("release-42"), target, 20, Verdict::Reached)]);
        assert_eq!((found[0].result, found[0].ended, found[0].has_failed()), (Result::Undone, at(22), true));
        for other in [before("release-41"), RecoveryTarget::Time { time: at(9) }] {
            assert_eq!(deployments(std::slice::from_ref(&open), &[restore(other, target, 20, Verdict::Reached)]).0, []);
        }
    }
}
