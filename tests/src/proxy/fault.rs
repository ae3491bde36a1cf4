//! What can go wrong, and for which requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Forwarded after a pause, as a distant store answers.
    Delay(Duration),
    /// Bodies in both directions at this rate.
    Throttle {
        bytes_per_second: u64,
    },
    /// The connection is reset after so many bytes of the request's body.
    ResetAfter {
        bytes: u64,
    },
    /// Read, and never answered for as long as this fault is set; then the connection closes.
    Stall,
    /// 503 SlowDown, without reaching the store.
    SlowDown,
    /// The store does it, and the client is told 500.
    ErrorAfterEffect,
    /// The store does it, and the connection breaks before the answer.
    ResetAfterEffect,
    /// The answer's body ends after so many bytes.
    TruncateBody {
        bytes: u64,
    },
    /// 400 ExpiredToken, without reaching the store.
    ExpiredToken,
}

/// A fault for the requests that match.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    method: Option<&'static str>,
    path: Option<String>,
    times: Option<u32>,
}

impl Rule {
    #[must_use]
    pub const fn every(fault: Fault) -> Self {
        Self { fault, method: None, path: None, times: None }
    }

    /// Only requests of this method.
    #[must_use]
    pub const fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose path and query contain this.
    #[must_use]
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = Some(part.into());
        self
    }

    /// Only so many times.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        self.times != Some(0)
            && self.method.is_none_or(|wanted| wanted == method)
            && self.path.as_deref().is_none_or(|part| path.contains(part))
    }
}

/// The rules in force, shared by all connections.
#[derive(Debug)]
pub struct Rules {
    rules: Mutex<Vec<Rule>>,
    generation: watch::Sender<u64>,
    seen: AtomicU64,
    hit: AtomicU64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rules: Mutex::default(),
            generation: watch::Sender::new(0),
            seen: AtomicU64::new(0),
            hit: AtomicU64::new(0),
        }
    }
}

impl Rules {
    pub(super) fn replace(&self, rules: Vec<Rule>) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The fault for a request; counts it.
    pub(super) fn fault_for(&self, method: &str, path: &str) -> Fault {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rule) = rules.iter_mut().find(|rule| rule.matches(method, path)) else { return Fault::None };
        if let Some(times) = rule.times.as_mut() {
            *times -= 1;
        }
        if rule.fault != Fault::None {
            self.hit.fetch_add(1, Ordering::Relaxed);
        }
        rule.fault.clone()
    }

    /// Waits until other rules were set.
    pub(super) async fn changed(&self) {
        let mut generation = self.generation.subscribe();
        // The sender lives as long as the rules do.
        let _ = generation.changed().await;
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(super) fn hit(&self) -> u64 {
        self.hit.load(Ordering::Relaxed)
    }
}
