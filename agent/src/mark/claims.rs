//! Who will record a restore point.
//!
//! The record of a restore point can pass the decoder before the server has told the one who asked for it where it is. So
//! a claim is made before the server is asked, and knows its place afterwards. Whoever finds a restore point in the WAL
//! waits until no claim can mean it; what is then not recorded was made by somebody else, or its claim came to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pitr::postgres::Lsn;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug)]
struct Claimed {
    id: u64,
    /// End of the record, once the server has told.
    end_lsn: Option<Lsn>,
}

impl Claimed {
    /// Names do not count: in the WAL they are in the encoding of a database.
    fn may_mean(&self, end_lsn: Lsn) -> bool {
        self.end_lsn.is_none_or(|claimed| claimed == end_lsn)
    }
}

/// All claims that are open. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    open: watch::Sender<Vec<Claimed>>,
    last: Arc<AtomicU64>,
}

/// Stands until it is dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    id: u64,
}

impl Claims {
    /// For a restore point that is about to be made.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        self.open.send_modify(|open| open.push(Claimed { id, end_lsn: None }));
        Claim { claims: self.clone(), id }
    }

    /// Waits until no claim can mean the restore point whose record ends at `end_lsn`.
    pub async fn settled(&self, end_lsn: Lsn) {
        let mut open = self.open.subscribe();
        // The sender lives as long as `self`.
        drop(open.wait_for(|open| !open.iter().any(|claimed| claimed.may_mean(end_lsn))).await);
    }
}

impl Claim {
    /// The server said where the record ends.
    pub fn resolve(&self, end_lsn: Lsn) {
        self.claims.open.send_modify(|open| {
            open.iter_mut().filter(|claimed| claimed.id == self.id).for_each(|claimed| claimed.end_lsn = Some(end_lsn));
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.open.send_modify(|open| open.retain(|claimed| claimed.id != self.id));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_claim_means_any_restore_point_until_it_knows_its_own() {
        let claims = Claims::default();
        let settled = |lsn| claims.settled(Lsn::new(lsn)).now_or_never().is_some();
        assert!(settled(0x70));
        let claim = claims.claim();
        assert!(!settled(0x70) && !settled(0xE0));
        claim.resolve(Lsn::new(0x70));
        assert!(!settled(0x70) && settled(0xE0));
        drop(claim);
        assert!(settled(0x70));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let claims = Claims::default();
        let claim = claims.claim();
        let waiting = claims.settled(Lsn::new(0x70));
        let release = async {
            tokio::task::yield_now().await;
            drop(claim);
        };
        tokio::join!(waiting, release);
    }
}
