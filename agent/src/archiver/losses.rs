//! What this process has learned of WAL that the server does not have: where it said so, and what became of the slot.

use std::sync::{Mutex, PoisonError};

use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::gap::GapCause;

use crate::postgres::{ConnInfo, Endpoint};

/// Why WAL is not there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub cause: GapCause,
    pub reason: String,
}

#[derive(Debug, Default)]
struct State {
    /// Starts of segments that the server answered it no longer has.
    refused: Vec<(TimelineId, Lsn)>,
    slot: Option<Cause>,
    /// A server that answered and was not the right one.
    avoid: Option<Endpoint>,
}

/// Kept from one connection to the next.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<State>);

impl Losses {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The server said that it does not have the WAL from `start` on.
    pub(super) fn refuse(&self, timeline: TimelineId, start: Lsn) {
        self.with(|state| {
            if !state.refused.contains(&(timeline, start)) {
                state.refused.push((timeline, start));
            }
        });
    }

    pub(super) fn is_refused(&self, timeline: TimelineId, start: Lsn) -> bool {
        self.with(|state| state.refused.contains(&(timeline, start)))
    }

    /// Another server may have what this one had not.
    pub(super) fn forget_refusals(&self) {
        self.with(|state| state.refused.clear());
    }

    /// The slot kept nothing any more when it was looked at.
    pub(super) fn slot_is_gone(&self, cause: GapCause, reason: String) {
        self.with(|state| {
            state.slot.get_or_insert(Cause { cause, reason });
        });
    }

    /// WAL comes from where it was to come: whatever became of the slot did no harm.
    pub(super) fn went_well(&self) {
        self.with(|state| state.slot = None);
    }

    /// The next connection tries the others first.
    pub(super) fn avoid(&self, endpoint: Endpoint) {
        self.with(|state| state.avoid = Some(endpoint));
    }

    /// `conninfo` with the server to be avoided at its end.
    pub(super) fn order(&self, mut conninfo: ConnInfo) -> ConnInfo {
        if let Some(avoid) = self.with(|state| state.avoid.clone()) {
            conninfo.endpoints.sort_by_key(|endpoint| *endpoint == avoid);
        }
        conninfo
    }

    /// Why WAL that the server does not have is gone.
    pub(super) fn cause(&self) -> Cause {
        self.with(|state| state.slot.clone()).unwrap_or_else(|| Cause {
            cause: GapCause::WalRemoved,
            reason:
                "the server no longer has it, although its slot was to keep it: files were removed, or pg_resetwal \
                     was run"
                    .to_owned(),
        })
    }
}
