//! Shows how far a restore is.

use std::time::Duration;

use pitr::restore::{Phase, Progress};
use tokio::sync::watch;

use crate::output::human;
use crate::output::progress::{Meter, Step, Unit};

const INTERVAL: Duration = Duration::from_millis(200);

/// `work`, with its progress shown meanwhile.
pub async fn watched<T>(progress: &watch::Receiver<Progress>, meter: &mut Meter, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = tick.tick() => {
                let now = progress.borrow().clone();
                meter.show(&step(&now));
            }
        }
    }
}

fn step(progress: &Progress) -> Step {
    let (phase, done, total, unit) = match progress.phase {
        Phase::Checking => ("checking", 0, 0, Unit::None),
        Phase::Copying => ("copying", progress.bytes_done, progress.bytes_total, Unit::Bytes),
        Phase::Syncing => ("making it durable", 0, 0, Unit::None),
        Phase::Starting => ("starting the server", 0, 0, Unit::None),
        Phase::Replaying => {
            let from = progress.replay_from.unwrap_or_default();
            let distance = |lsn: Option<pitr::postgres::Lsn>| lsn.and_then(|lsn| lsn.distance_from(from)).unwrap_or(0);
            ("replaying WAL", distance(progress.replayed_lsn), distance(progress.replay_to), Unit::Bytes)
        }
        Phase::Verifying => ("verifying", 0, 0, Unit::None),
        Phase::Done => ("done", 0, 0, Unit::None),
    };
    Step { phase, done, total, unit, note: note(progress) }
}

fn note(progress: &Progress) -> Option<String> {
    if let Some(seconds) = progress.stalled_seconds {
        return Some(format!("nothing moved for {seconds} s"));
    }
    match progress.phase {
        Phase::Copying => {
            let files =
                format!("{} of {}", human::grouped(progress.files_done), human::count(progress.files_total, "file"));
            Some(match progress.compared_bytes {
                0 => files,
                _ => format!(
                    "{files}, {} reused, {} fetched",
                    human::bytes(progress.reused_bytes),
                    human::bytes(progress.fetched_bytes)
                ),
            })
        }
        Phase::Replaying => progress.replayed_lsn.map(|lsn| format!("at {lsn}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr::postgres::Lsn;

    #[test]
    fn replay_is_counted_from_the_start_of_the_backup() {
        let progress = Progress {
            phase: Phase::Replaying,
            replay_from: Some(Lsn::new(0x200_0000)),
            replayed_lsn: Some(Lsn::new(0x300_0000)),
            replay_to: Some(Lsn::new(0x400_0000)),
            ..Progress::default()
        };
        let step = step(&progress);
        assert_eq!((step.done, step.total, step.note.as_deref()), (0x100_0000, 0x200_0000, Some("at 0/3000000")));
    }

    #[test]
    fn what_is_reused_is_told() {
        let progress = Progress {
            phase: Phase::Copying,
            files_done: 1,
            files_total: 2,
            compared_bytes: 4096,
            reused_bytes: 2048,
            fetched_bytes: 1024,
            ..Progress::default()
        };
        assert_eq!(step(&progress).note.as_deref(), Some("1 of 2 files, 2.00 KiB reused, 1.00 KiB fetched"));
    }

    #[test]
    fn standing_still_is_told() {
        let progress = Progress { phase: Phase::Copying, stalled_seconds: Some(61), ..Progress::default() };
        assert_eq!(step(&progress).note.as_deref(), Some("nothing moved for 61 s"));
    }
}
