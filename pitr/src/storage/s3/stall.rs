//! Requests that do not move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts the bytes of a request body that went out.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn sent(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Nothing moved for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no byte moved for {} s", .0.as_secs())]
pub(super) struct Stalled(pub(super) Duration);

/// Waits for `request`, as long as `progress` moves at least once in every `limit`. The SDK's own limits cover a request as a
/// whole, which would forbid large bodies over slow lines.
pub(super) async fn watched<T>(
    limit: Duration,
    progress: &Progress,
    request: impl Future<Output = T>,
) -> Result<T, Stalled> {
    let mut request = std::pin::pin!(request);
    let mut seen = progress.sent();
    loop {
        if let Ok(answer) = tokio::time::timeout(limit, request.as_mut()).await {
            return Ok(answer);
        }
        let now = progress.sent();
        if now == seen {
            return Err(Stalled(limit));
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn slow_is_not_stalled() {
        let progress = Progress::default();
        let moving = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                progress.add(1);
            }
        };
        assert_eq!(watched(LIMIT, &progress, moving).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn standing_still_ends_it() {
        let progress = Progress::default();
        let stuck = async {
            progress.add(1);
            std::future::pending::<()>().await;
        };
        let began = tokio::time::Instant::now();
        assert_eq!(watched(LIMIT, &progress, stuck).await, Err(Stalled(LIMIT)));
        assert!(began.elapsed() <= LIMIT * 2);
    }
}
