//! Which interrupted backup a new one takes up.
//!
//! Against deletion it is as with a parent: the intent names it, and then it is looked for once more.

use chrono::{DateTime, TimeDelta, Utc};
use pitr::lookup::{InterruptedBackup, interrupted_backups};
use pitr::postgres::TimelineId;
use pitr::repository::backup::{BackupId, ProgressHeader};
use pitr::repository::catalog::Catalog;
use pitr::repository::{LineageStore, Result};
use tracing::warn;

/// What has been silent for longer is not taken up. Retention keeps what it stored for a day more.
const MAX_SILENCE: TimeDelta = TimeDelta::days(6);
/// So many of the newest are looked at.
const MAX_CANDIDATES: usize = 16;

/// Of the backups that were interrupted since the last complete one, that which had got furthest.
///
/// # Errors
/// The store fails.
pub async fn find(
    lineage: &LineageStore,
    catalog: &Catalog,
    timeline: Option<TimelineId>,
    parent: Option<&BackupId>,
    now: DateTime<Utc>,
) -> Result<Option<InterruptedBackup>> {
    let newest = catalog.backups.iter().map(|backup| &backup.id).max();
    let found = interrupted_backups(lineage, newest).await?;
    let mut candidates = Vec::new();
    for backup in found.into_iter().rev().filter(|backup| fits(backup, parent, now)).take(MAX_CANDIDATES) {
        match backup.newest_record(lineage).await? {
            Ok(header) => candidates.push((header, backup)),
            Err(reason) => warn!(interrupted = %backup.id, reason, "an interrupted backup cannot be taken up"),
        }
    }
    Ok(choose(candidates, timeline))
}

/// It shares with nothing that the new backup might not name, and is not too old.
fn fits(backup: &InterruptedBackup, parent: Option<&BackupId>, now: DateTime<Utc>) -> bool {
    (backup.parent.is_none() || backup.parent.as_ref() == parent) && now - backup.active < MAX_SILENCE
}

/// Of those on the live timeline the one with the most bytes; of equals the newest. Pure.
fn choose(
    candidates: Vec<(ProgressHeader, InterruptedBackup)>,
    timeline: Option<TimelineId>,
) -> Option<InterruptedBackup> {
    let live = candidates.into_iter().filter(|(header, _)| Some(header.timeline) == timeline);
    live.max_by(|(a, left), (b, right)| (a.file_bytes, &left.id).cmp(&(b.file_bytes, &right.id)))
        .map(|(_, backup)| backup)
}

#[cfg(test)]
mod tests {
    use pitr::postgres::Lsn;
    use pitr::repository::hash::ContentHash;

    use super::*;

    fn interrupted(second: i64, parent: Option<i64>) -> InterruptedBackup {
        let id = |second| BackupId::new(at(second), 1);
        InterruptedBackup { id: id(second), parent: parent.map(id), active: at(second + 10), numbers: [0].into() }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap()
    }

    fn header(backup: &InterruptedBackup, timeline: u32, file_bytes: u64) -> ProgressHeader {
        ProgressHeader {
            id: backup.id.clone(),
            timeline: TimelineId::new(timeline).unwrap(),
            start_lsn: Lsn::new(1),
            catalog_version: 1,
            control_version: 1,
            data_checksums: true,
            number: 0,
            end_lsn: Lsn::new(2),
            file_bytes,
            bytes: 0,
            blake3: ContentHash::of(b""),
        }
    }

    #[test]
    fn the_one_that_got_furthest_on_the_live_timeline_is_taken_up() {
        let of = |list: &[(i64, u32, u64)]| {
            let with = |(second, timeline, bytes): &(i64, u32, u64)| {
                let backup = interrupted(*second, None);
                (header(&backup, *timeline, *bytes), backup)
            };
            choose(list.iter().map(with).collect(), TimelineId::new(2)).map(|backup| backup.id)
        };
        let id = |second| Some(interrupted(second, None).id);
        assert_eq!(of(&[(1, 2, 50), (2, 2, 70), (3, 2, 60)]), id(2));
        assert_eq!(of(&[(1, 2, 50), (2, 2, 50)]), id(2));
        assert_eq!(of(&[(2, 2, 50), (1, 2, 50)]), id(2));
        assert_eq!(of(&[(1, 1, 50), (2, 3, 70)]), None);
        assert_eq!(of(&[(1, 1, 50), (2, 2, 7)]), id(2));
    }

    #[test]
    fn one_that_shares_with_another_parent_or_is_too_old_is_left_alone() {
        let (own, parent) = (interrupted(100, Some(5)), interrupted(5, None).id);
        assert!(fits(&own, Some(&parent), at(200)));
        assert!(!fits(&own, None, at(200)));
        assert!(!fits(&own, Some(&interrupted(6, None).id), at(200)));
        let rootless = interrupted(100, None);
        assert!(fits(&rootless, None, at(200)) && fits(&rootless, Some(&parent), at(200)));
        assert!(fits(&rootless, None, at(110) + MAX_SILENCE - TimeDelta::seconds(1)));
        assert!(!fits(&rootless, None, at(110) + MAX_SILENCE));
    }
}
