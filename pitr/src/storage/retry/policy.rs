//! When to try again, and when to stop.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{Error, ErrorKind, Meter, Result, RetryOptions};

/// Repetitions that are nothing to worry about yet; later ones are warnings.
const QUIET_ATTEMPTS: u32 = 3;

/// The rule of repetition, shared by all who repeat: waits grow exponentially with full jitter up to a cap, all attempts
/// together end at a deadline, and a cancelled token ends them at once. Clones share the token and the counts.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    options: RetryOptions,
    cancel: CancellationToken,
    meter: Meter,
}

impl RetryPolicy {
    #[must_use]
    pub fn new(options: RetryOptions) -> Self {
        Self { options, cancel: CancellationToken::new(), meter: Meter::new() }
    }

    /// Ends all waiting when `cancel` is cancelled. A request that is under way is not cut off: whoever wants that drops it.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Counts the repetitions in `meter`.
    #[must_use]
    pub fn counted_by(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// The first attempt begins now.
    #[must_use]
    pub fn begin(&self) -> Attempts {
        Attempts { policy: self.clone(), began: Instant::now(), failed: 0 }
    }

    /// Does `attempt` until it succeeds, fails for good, or time is up.
    ///
    /// # Errors
    /// As [`Attempts::after`].
    pub async fn run<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = self.begin();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => attempts.after(error).await?,
            }
        }
    }
}

/// The attempts at one operation.
#[derive(Debug)]
pub struct Attempts {
    policy: RetryPolicy,
    began: Instant,
    failed: u32,
}

impl Attempts {
    /// Whether an attempt failed in a way that leaves open whether it had its effect.
    #[must_use]
    pub const fn have_failed(&self) -> bool {
        self.failed > 0
    }

    /// Takes the failure of an attempt and returns when it is time for the next one.
    ///
    /// # Errors
    /// The same error when another attempt is of no use; [`ErrorKind::Unavailable`] with it as its source when the next
    /// attempt would begin after the deadline; [`ErrorKind::Cancelled`].
    pub async fn after(&mut self, error: Error) -> Result<()> {
        if !error.kind().is_retryable() {
            return Err(error);
        }
        self.failed += 1;
        let wait = self.next_wait();
        let elapsed = self.began.elapsed();
        if self.policy.cancel.is_cancelled() {
            return Err(over(ErrorKind::Cancelled, "cancelled after a failed attempt".to_owned(), error));
        }
        if elapsed + wait >= self.policy.options.deadline {
            let reason = match self.failed {
                1 => "the attempt failed, and there is no time for another".to_owned(),
                n => format!("gave up after {n} attempts in {:.1} s", elapsed.as_secs_f64()),
            };
            return Err(over(ErrorKind::Unavailable, reason, error));
        }
        self.policy.meter.count_retry(error.operation());
        self.report(&error, wait);
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.policy.cancel.cancelled() => {
                Err(over(ErrorKind::Cancelled, "cancelled between two attempts".to_owned(), error))
            }
        }
    }

    fn next_wait(&self) -> Duration {
        let options = &self.policy.options;
        let doublings = (self.failed - 1).min(31);
        let longest = options.base.saturating_mul(1_u32 << doublings).min(options.cap);
        let longest_ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rand::rng().random_range(0..=longest_ns))
    }

    fn report(&self, error: &Error, wait: Duration) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let (operation, key, attempt) = (error.operation(), error.key(), self.failed);
        let (reason, wait_ms) = (error.reason(), u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        if attempt <= QUIET_ATTEMPTS {
            tracing::info!(%operation, key, attempt, reason, cause, wait_ms, "request to the store failed, trying again");
        } else {
            tracing::warn!(%operation, key, attempt, reason, cause, wait_ms, "request to the store keeps failing, trying again");
        }
    }
}

fn over(kind: ErrorKind, reason: String, cause: Error) -> Error {
    Error::new(kind, cause.operation(), cause.key().to_owned(), reason).with_source(cause)
}
