//! How much of a time the machine itself took away from those who should have got on, so that a promise about time can be
//! held against the product and not against its neighbours.
//!
//! Two things are watched: how long the threads of some processes waited for a CPU while they could have run, by the kernel's
//! own account, and how long the same store takes for a small object of ours beyond what it should.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use pitr::storage::{ObjectKey, ObjectStore, Payload, PutMode};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);
/// What a small object may take on a machine that nobody else uses, beyond the latency that a test adds.
const FAIR_PUT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// Since the processes began.
    waited_for_cpu: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    looks: Vec<Look>,
    /// When each put began, and how long it took beyond what is fair.
    puts: Vec<(Instant, Duration)>,
    /// The put that is under way.
    putting: Option<Instant>,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Yardstick {
    seen: Arc<Mutex<Seen>>,
    _looking: AbortOnDropHandle<()>,
    _putting: AbortOnDropHandle<()>,
}

impl Yardstick {
    /// Watches these processes, and a store that answers after `latency` at the earliest.
    #[must_use]
    pub fn start(processes: Vec<u32>, store: Arc<dyn ObjectStore>, latency: Duration) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looking = {
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let look =
                        Look { at: Instant::now(), waited_for_cpu: processes.iter().map(|&pid| waited(pid)).sum() };
                    lock(&seen).looks.push(look);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let putting = put_again_and_again(Arc::clone(&seen), store, latency);
        Self {
            seen,
            _looking: AbortOnDropHandle::new(tokio::spawn(looking)),
            _putting: AbortOnDropHandle::new(tokio::spawn(putting)),
        }
    }

    /// At most so much was taken away within the last `window`.
    #[must_use]
    pub fn taken(&self, window: Duration) -> Duration {
        let seen = lock(&self.seen);
        let Some(last) = seen.looks.last() else { return Duration::ZERO };
        let now = Instant::now();
        let since = now.checked_sub(window).unwrap_or(last.at);
        let before = seen.looks.iter().rfind(|look| look.at <= since).or(seen.looks.first());
        let waited = before.map_or(Duration::ZERO, |before| last.waited_for_cpu.saturating_sub(before.waited_for_cpu));
        let under_way = seen.putting.map_or(Duration::ZERO, |begun| now.duration_since(begun).saturating_sub(FAIR_PUT));
        let ended = seen.puts.iter().rev().take_while(|(begun, took)| *begun + *took + FAIR_PUT >= since);
        // While ours was looked at late, so was everybody's.
        let late = now.duration_since(last.at).saturating_sub(PAUSE);
        waited + late + ended.map(|(_, excess)| *excess).max().unwrap_or_default().max(under_way)
    }
}

async fn put_again_and_again(seen: Arc<Mutex<Seen>>, store: Arc<dyn ObjectStore>, latency: Duration) {
    for number in 0_u64.. {
        let Ok(key) = ObjectKey::new(format!("put-{number}")) else { return };
        let begun = Instant::now();
        lock(&seen).putting = Some(begun);
        // A failure takes its time too, and the test that looks at the store finds out why.
        let _ = store.put(&key, Payload::from(Bytes::from_static(&[7; 512])), PutMode::CreateNew).await;
        let excess = begun.elapsed().saturating_sub(latency + FAIR_PUT);
        {
            let mut seen = lock(&seen);
            seen.putting = None;
            seen.puts.push((begun, excess));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the threads of a process waited for a CPU, all together.
fn waited(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Whether the kernel keeps that account.
///
/// # Errors
/// `/proc` can't be read.
pub fn is_kept() -> Result<bool> {
    Ok(std::fs::read_to_string("/proc/self/schedstat")?.split_whitespace().count() == 3)
}
