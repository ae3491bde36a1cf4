//! The valve: bounds how much WAL the slot holds back on the server.
//!
//! A store that takes nothing for long would let the slot fill the server's disk, and a full disk stops the database. From
//! half of the limit on there is a warning. At the limit the slot is given up: what is lost is noted, in the repository
//! where it answers, else in memory until it does; the slot is dropped; and archiving begins anew as soon as the store takes
//! the note. Off unless `[wal] max_retained` is set.
//!
//! A backlog from before this agent started is no reason to give up while it becomes less.

use std::sync::Arc;
use std::time::Duration;

use pitr::postgres::Lsn;
use pitr::repository::gap::{GapCause, GapNote};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::gaps::GapBook;
use super::lease::Identity;
use super::progress::ArchiveProgress;
use crate::error_text::in_full;
use crate::postgres::instance::Slot;
use crate::postgres::{self, ConnInfo, SqlSession, sql};

/// Without a limit there is a warning from here on.
const WARN_BYTES: u64 = 4 << 30;
/// So many looks at a slot that does not move are enough to call it stuck.
const STUCK_AFTER_LOOKS: u32 = 6;
/// The repository has so long to take the note before the slot goes.
const NOTE_PATIENCE: Duration = Duration::from_secs(5);
const DROP_RETRY: Duration = Duration::from_millis(200);

/// Whether the slot is to be used. Shared by the valve and who streams; cheap to clone.
#[derive(Clone, Debug)]
pub struct SlotGuard(watch::Sender<Standing>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    /// Why the slot is not to be used now.
    given_up: Option<String>,
    /// Why it was given up last.
    last: Option<String>,
    warning: Option<String>,
}

impl Default for SlotGuard {
    fn default() -> Self {
        Self(watch::Sender::new(Standing::default()))
    }
}

impl SlotGuard {
    /// Resolves when the slot is given up.
    pub(super) async fn given_up(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|standing| standing.given_up.is_some()).await;
    }

    /// Resolves when the slot may be used.
    pub(super) async fn usable(&self) {
        let _ = self.0.subscribe().wait_for(|standing| standing.given_up.is_none()).await;
    }

    /// Why there is no slot, where it was given up in this process.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().last.clone()
    }

    /// Archiving goes on: what became of the slot explains nothing that comes later.
    pub(super) fn forget(&self) {
        self.0.send_modify(|standing| standing.last = None);
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let standing = self.0.borrow();
        standing.given_up.clone().or_else(|| standing.warning.clone())
    }
}

/// What the valve works with.
#[derive(Clone, Debug)]
pub struct Valve {
    pub conninfo: ConnInfo,
    pub slot: String,
    pub max_retained_bytes: Option<u64>,
    pub interval: Duration,
    pub progress: ArchiveProgress,
    pub gaps: GapBook,
    pub guard: SlotGuard,
    pub identity: Identity,
    pub clock: Arc<dyn pitr::clock::Clock>,
}

/// What the looks so far have shown.
#[derive(Debug, Default)]
struct Course {
    /// What the slot held when it was first looked at.
    first: Option<u64>,
    restart_lsn: Option<Lsn>,
    /// Looks since it moved.
    still: u32,
}

impl Course {
    /// Whether a slot that holds `retained` bytes is to be given up.
    fn note(&mut self, restart_lsn: Lsn, retained: u64, limit: u64) -> bool {
        let first = *self.first.get_or_insert(retained);
        self.still = if self.restart_lsn == Some(restart_lsn) { self.still.saturating_add(1) } else { 0 };
        self.restart_lsn = Some(restart_lsn);
        let backlog = if first > limit { first.saturating_add(limit / 4) } else { limit };
        retained > backlog || (retained > limit && self.still >= STUCK_AFTER_LOOKS)
    }
}

impl Valve {
    /// Looks at the slot until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let watching = async {
            let mut course = Course::default();
            let mut session = None;
            loop {
                match self.look(&mut session, &mut course).await {
                    Ok(false) => {}
                    Ok(true) => {
                        self.give_up(course.restart_lsn).await;
                        course = Course::default();
                    }
                    Err(error) => {
                        // Who streams tells of a server that does not answer.
                        tracing::debug!(%error, "the slot could not be looked at");
                        session = None;
                    }
                }
                tokio::time::sleep(self.interval).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = watching => {}
        }
    }

    fn server(&self) -> ConnInfo {
        match self.progress.now().endpoint {
            Some(endpoint) => self.conninfo.clone().only(&endpoint),
            None => self.conninfo.clone(),
        }
    }

    /// Whether the slot is to be given up.
    async fn look(&self, kept: &mut Option<SqlSession>, course: &mut Course) -> postgres::Result<bool> {
        let moved = kept.as_ref().is_some_and(|session| {
            session.is_closed() || self.progress.now().endpoint.is_some_and(|now| now != *session.endpoint())
        });
        if moved || kept.is_none() {
            *kept = Some(sql::connect(&self.server()).await?);
        }
        let Some(session) = kept.as_ref() else { return Ok(false) };
        let slot = Slot::read(session, &self.slot).await?.filter(|slot| slot.physical && !slot.is_lost());
        let Some((slot, restart_lsn)) = slot.and_then(|slot| slot.restart_lsn.map(|lsn| (slot, lsn))) else {
            // One that is made from now on has no backlog.
            *course = Course { first: Some(0), ..Course::default() };
            return Ok(false);
        };
        let retained = slot.retained_bytes.unwrap_or(0);
        self.warn(&slot, retained);
        Ok(self.max_retained_bytes.is_some_and(|limit| course.note(restart_lsn, retained, limit)))
    }

    fn warn(&self, slot: &Slot, retained: u64) {
        let warning = warning(&self.slot, slot, retained, self.max_retained_bytes);
        let known = self.guard.0.borrow().warning.is_some();
        if let (Some(text), false) = (&warning, known) {
            tracing::warn!(retained_bytes = retained, "{text}");
        }
        if known || warning.is_some() {
            self.guard.0.send_modify(|standing| standing.warning = warning);
        }
    }

    async fn give_up(&self, restart_lsn: Option<Lsn>) {
        let limit = self.max_retained_bytes.unwrap_or(0) >> 20;
        let reason = format!(
            "the slot \"{}\" held more WAL on the server than [wal] max_retained ({limit} MiB), and was given up",
            self.slot
        );
        tracing::error!(restart_lsn = restart_lsn.map(tracing::field::display), reason, "giving up the slot");
        let sealed = self.progress.now().sealed;
        if let Some(sealed) = sealed {
            self.gaps.note(GapNote {
                timeline: sealed.timeline,
                from_lsn: sealed.lsn,
                to_lsn: None,
                cause: GapCause::SlotGivenUp,
                reason: reason.clone(),
                noticed: self.clock.now(),
                who: format!("{}/{}", self.identity.host, self.identity.pid),
            });
        }
        self.guard.0.send_modify(|standing| {
            standing.given_up = Some(reason.clone());
            standing.last = Some(reason);
            standing.warning = None;
        });
        // Durable before the slot goes, where the repository answers at all.
        let _ = tokio::time::timeout(NOTE_PATIENCE, self.written()).await;
        self.drop_slot().await;
        self.written().await;
        self.guard.0.send_modify(|standing| standing.given_up = None);
    }

    /// Resolves when the repository has taken every note.
    async fn written(&self) {
        let mut changes = self.gaps.subscribe();
        while !self.gaps.all_written() {
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }

    /// Until it is gone: it can be in use for a moment yet.
    async fn drop_slot(&self) {
        let mut told = false;
        loop {
            match self.try_drop().await {
                Ok(()) => {
                    tracing::error!(slot = self.slot, "the slot is dropped: the server may remove its WAL");
                    return;
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(error = in_full(&error), "the slot could not be dropped yet");
                }
                Err(_) => {}
            }
            tokio::time::sleep(DROP_RETRY).await;
        }
    }

    async fn try_drop(&self) -> postgres::Result<()> {
        let session = sql::connect(&self.server()).await?;
        if let Some(slot) = Slot::read(&session, &self.slot).await? {
            if let Some(pid) = slot.active_pid {
                // Its connection is closed already; the server notices at its next write, which may be far away.
                drop(session.query("SELECT pg_terminate_backend($1)", &[&pid]).await);
            }
            session.query("SELECT pg_drop_replication_slot($1)", &[&self.slot]).await?;
        }
        session.close().await
    }
}

/// What there is to say of a slot that holds `retained` bytes.
fn warning(name: &str, slot: &Slot, retained: u64, limit: Option<u64>) -> Option<String> {
    let mib = retained >> 20;
    if let Some(limit) = limit.filter(|limit| retained >= limit / 2) {
        let limit = limit >> 20;
        return Some(format!(
            "the slot \"{name}\" holds {mib} MiB of WAL on the server; at {limit} MiB it is given up"
        ));
    }
    match (slot.wal_status.as_deref(), slot.safe_bytes) {
        (Some("unreserved"), _) => {
            Some(format!("the server is about to invalidate the slot \"{name}\", which holds {mib} MiB of WAL"))
        }
        (_, Some(safe)) if u64::try_from(safe).unwrap_or(0) < retained / 3 => {
            let safe = safe.max(0) >> 20;
            Some(format!(
                "after {safe} MiB more of WAL the server may invalidate the slot \"{name}\" ({mib} MiB are held)"
            ))
        }
        (Some("extended"), _) => Some(format!(
            "the slot \"{name}\" holds {mib} MiB of WAL, more than max_wal_size lets the server keep otherwise"
        )),
        _ if limit.is_none() && retained >= WARN_BYTES => {
            Some(format!("the slot \"{name}\" holds {mib} MiB of WAL on the server, and nothing bounds that"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(status: &str, safe: Option<i64>) -> Slot {
        Slot {
            physical: true,
            active_pid: None,
            restart_lsn: Some(Lsn::new(1)),
            wal_status: Some(status.to_owned()),
            invalidation: None,
            retained_bytes: None,
            safe_bytes: safe,
        }
    }

    #[test]
    fn warns_before_anything_is_lost() {
        const MIB: u64 = 1 << 20;
        let text = |slot: &Slot, retained, limit| warning("s", slot, retained, limit);
        assert_eq!(text(&slot("reserved", None), 30 * MIB, Some(64 * MIB)), None);
        assert!(text(&slot("reserved", None), 32 * MIB, Some(64 * MIB)).unwrap().contains("given up"));
        assert!(text(&slot("unreserved", Some(-5)), 30 * MIB, None).unwrap().contains("about to"));
        assert!(text(&slot("extended", None), 30 * MIB, None).is_some());
        assert!(text(&slot("reserved", Some(5 << 20)), 30 * MIB, None).unwrap().contains("5 MiB more"));
        assert_eq!(text(&slot("reserved", Some(50 << 20)), 30 * MIB, None), None);
        assert!(text(&slot("reserved", None), WARN_BYTES, None).is_some());
    }

    #[test]
    fn a_backlog_that_becomes_less_is_borne_and_one_that_stands_is_not() {
        let mut course = Course::default();
        for position in 1..100_u64 {
            assert!(!course.note(Lsn::new(position), 5000 - position, 1000), "{position}");
        }
        assert!(course.note(Lsn::new(100), 5300, 1000), "it has grown by more than a quarter of the limit");

        let mut course = Course::default();
        let stuck = (0..20).position(|_| course.note(Lsn::new(7), 5000, 1000));
        assert_eq!(stuck, Some(STUCK_AFTER_LOOKS as usize));

        let mut course = Course::default();
        assert!(!course.note(Lsn::new(1), 900, 1000));
        assert!(course.note(Lsn::new(2), 1001, 1000));
    }
}
