//! A limit on what a backup sends.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The longest sleep between two looks at whether to stop.
const STEP: Duration = Duration::from_millis(100);

/// Spreads bytes over time, for all threads together.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When everything taken so far may have been sent.
    due: Mutex<Option<Instant>>,
}

impl Pace {
    /// `bytes_per_second` is at least 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), due: Mutex::new(None) }
    }

    /// How long to wait now for `bytes` more.
    fn reserve(&self, bytes: u64, now: Instant) -> Duration {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used earlier is not saved up.
        let start = due.map_or(now, |due| due.max(now));
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *due = Some(start + took);
        start.duration_since(now)
    }

    /// Waits until `bytes` may be sent, or the backup is to stop.
    pub fn wait(&self, bytes: u64, cancel: &CancellationToken) {
        let mut left = self.reserve(bytes, Instant::now());
        while !left.is_zero() && !cancel.is_cancelled() {
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_to_the_rate() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        assert_eq!(pace.reserve(500, start), Duration::ZERO);
        assert_eq!(pace.reserve(500, start), Duration::from_millis(500));
        assert_eq!(pace.reserve(500, start + Duration::from_millis(400)), Duration::from_millis(600));
        // After a pause nothing has been saved up.
        assert_eq!(pace.reserve(500, start + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(pace.reserve(1, start + Duration::from_secs(60)), Duration::from_millis(500));
    }
}
