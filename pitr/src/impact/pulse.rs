//! How many transactions ended when.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::lookup::Witness;
use crate::postgres::MajorVersion;
use crate::postgres::wal::{Outcome, Record};
use crate::wal_summary::SegmentTimes;

/// Beyond so many buckets they become twice as long.
const MAX_BUCKETS: usize = 4096;

/// Ends of transactions in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    pub commits: u64,
    pub aborts: u64,
}

/// Ends of transactions by time. Of what only a summary tells, which knows how many ended in a segment and when the first and
/// the last did, as many are taken to have ended in each second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    seconds: i64,
    buckets: BTreeMap<i64, Beat>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { seconds: 1, buckets: BTreeMap::new() }
    }
}

impl Pulse {
    pub fn add(&mut self, time: DateTime<Utc>, beat: Beat) {
        let bucket = self.buckets.entry(time.timestamp().div_euclid(self.seconds)).or_default();
        bucket.commits += beat.commits;
        bucket.aborts += beat.aborts;
        while self.buckets.len() > MAX_BUCKETS {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.seconds *= 2;
        for (bucket, beat) in std::mem::take(&mut self.buckets) {
            let coarse = self.buckets.entry(bucket.div_euclid(2)).or_default();
            coarse.commits += beat.commits;
            coarse.aborts += beat.aborts;
        }
    }

    pub fn add_segment(&mut self, times: &SegmentTimes) {
        let (first, last) = (times.earliest.timestamp(), times.latest.timestamp());
        let parts = (last - first + 1).clamp(1, 64);
        for part in 0..parts {
            let share = |count: u64| {
                let (part, parts) = (part.unsigned_abs(), parts.unsigned_abs());
                count * (part + 1) / parts - count * part / parts
            };
            let second = first + (last - first) * part / parts;
            let beat = Beat { commits: share(times.commits), aborts: share(times.aborts) };
            if let Some(time) = DateTime::from_timestamp(second, 0).filter(|_| beat != Beat::default()) {
                self.add(time, beat);
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (bucket, beat) in &other.buckets {
            if let Some(time) = DateTime::from_timestamp(bucket * other.seconds, 0) {
                self.add(time, *beat);
            }
        }
    }

    /// In at most `most` stretches of one length in seconds, each with its beginning, without holes between the first and the last.
    #[must_use]
    pub fn beats(&self, most: usize) -> (i64, Vec<(DateTime<Utc>, Beat)>) {
        let (Some((first, _)), Some((last, _))) = (self.buckets.first_key_value(), self.buckets.last_key_value())
        else {
            return (self.seconds, Vec::new());
        };
        let most = i64::try_from(most.max(1)).unwrap_or(i64::MAX);
        let mut factor = 1;
        while last.div_euclid(factor) - first.div_euclid(factor) + 1 > most {
            factor *= 2;
        }
        let mut beats: BTreeMap<i64, Beat> =
            (first.div_euclid(factor)..=last.div_euclid(factor)).map(|bucket| (bucket, Beat::default())).collect();
        for (bucket, beat) in &self.buckets {
            let coarse = beats.entry(bucket.div_euclid(factor)).or_default();
            coarse.commits += beat.commits;
            coarse.aborts += beat.aborts;
        }
        let seconds = self.seconds * factor;
        let told =
            beats.into_iter().filter_map(|(bucket, beat)| Some((DateTime::from_timestamp(bucket * seconds, 0)?, beat)));
        (seconds, told.collect())
    }
}

/// Takes the pulse of records.
#[derive(Debug)]
pub(super) struct PulseTaker {
    pub major: MajorVersion,
    pub pulse: Pulse,
}

impl Witness for PulseTaker {
    fn record(&mut self, record: &Record<'_>) {
        // One that cannot be read ends the summary that it belongs to, and with it this.
        if let Ok(Some(end)) = record.transaction_end(self.major) {
            let committed = end.outcome == Outcome::Commit;
            self.pulse.add(end.time, Beat { commits: u64::from(committed), aborts: u64::from(!committed) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn beats_add_up_however_long_they_are() {
        let mut pulse = Pulse::default();
        for second in 0..10_000 {
            pulse.add(at(second), Beat { commits: 2, aborts: 1 });
        }
        let times = SegmentTimes { segment: 1, commits: 7, aborts: 1, earliest: at(10_000), latest: at(10_003) };
        pulse.add_segment(&times);
        let (seconds, beats) = pulse.beats(100);
        assert!(beats.len() <= 100 && seconds >= 100, "{seconds} {}", beats.len());
        let sum = |of: fn(&Beat) -> u64| beats.iter().map(|(_, beat)| of(beat)).sum::<u64>();
        assert_eq!((sum(|beat| beat.commits), sum(|beat| beat.aborts)), (20_007, 10_001));
        assert!(beats.windows(2).all(|pair| (pair[1].0 - pair[0].0).num_seconds() == seconds));
    }

    #[test]
    fn idle_time_is_told_as_nothing() {
        let mut pulse = Pulse::default();
        pulse.add(at(0), Beat { commits: 1, aborts: 0 });
        pulse.add(at(3), Beat { commits: 1, aborts: 0 });
        assert_eq!(pulse.beats(10).1.len(), 4);
        assert_eq!(Pulse::default().beats(10).1, []);
    }
}
