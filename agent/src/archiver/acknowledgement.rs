//! What the server is told of our progress on one connection.
//!
//! The server copies the flush position into the slot without looking at it: a position that is too high lets go of WAL we
//! lack, one that is too low can make it archive files that are no WAL yet. So nothing else than this type makes one.
//!
//! Invariants: `flushed` is 0 (no position) or `start <= flushed <= received`, and neither ever goes back. After a
//! reconnect at the start of a segment, `sealed` may lie beyond what this connection has received: until that passes it,
//! `flushed` stays 0.
//!
//! Where commits wait for us, what is written is what is flushed: `synchronous_commit = remote_write` waits for the former.
//! The applied position stays 0, so that `remote_apply` waits for ever: there is nothing that it could mean here.

use pitr::postgres::Lsn;

use crate::postgres::replication::StandbyStatus;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    start: Lsn,
    received: Lsn,
    sealed: Lsn,
    flushed: Lsn,
    synchronous: bool,
}

impl Acknowledgement {
    pub(super) const fn new(start: Lsn, synchronous: bool) -> Self {
        Self { start, received: start, sealed: Lsn::INVALID, flushed: Lsn::INVALID, synchronous }
    }

    /// Everything before `end` has arrived.
    pub(super) fn receive(&mut self, end: Lsn) {
        self.received = self.received.max(end);
        self.advance();
    }

    /// Everything before `end` is durable in the repository.
    pub(super) fn seal(&mut self, end: Lsn) {
        self.sealed = self.sealed.max(end);
        self.advance();
    }

    fn advance(&mut self) {
        if self.sealed.is_valid() && self.start <= self.sealed && self.sealed <= self.received {
            self.flushed = self.flushed.max(self.sealed);
        }
    }

    pub(super) const fn received(&self) -> Lsn {
        self.received
    }

    pub(super) const fn flushed(&self) -> Lsn {
        self.flushed
    }

    pub(super) const fn status(&self, request_reply: bool) -> StandbyStatus {
        let written = if self.synchronous { self.flushed } else { self.received };
        StandbyStatus { written, flushed: self.flushed, applied: Lsn::INVALID, request_reply }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Receive(u64),
        Seal(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let positions = 0..2000_u64;
        let step = prop_oneof![positions.clone().prop_map(Step::Receive), positions.prop_map(Step::Seal)];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn flush_stays_within_what_is_received_and_sealed(
            start in 1..1000_u64,
            synchronous: bool,
            steps in steps(),
        ) {
            let start = Lsn::new(start);
            let mut acknowledgement = Acknowledgement::new(start, synchronous);
            let (mut received, mut sealed, mut before) = (start, Lsn::INVALID, Lsn::INVALID);
            for step in steps {
                match step {
                    Step::Receive(end) => {
                        received = received.max(Lsn::new(end));
                        acknowledgement.receive(Lsn::new(end));
                    }
                    Step::Seal(end) => {
                        sealed = sealed.max(Lsn::new(end));
                        acknowledgement.seal(Lsn::new(end));
                    }
                }
                let status = acknowledgement.status(false);
                prop_assert_eq!(status.written, if synchronous { status.flushed } else { received });
                prop_assert_eq!(status.applied, Lsn::INVALID);
                prop_assert!(status.flushed >= before, "went back");
                before = status.flushed;
                if status.flushed.is_valid() {
                    prop_assert!(start <= status.flushed && status.flushed <= received && status.flushed <= sealed);
                }
                if sealed >= start && sealed <= received {
                    prop_assert_eq!(status.flushed, sealed, "sealed is reported as soon as it may");
                }
            }
        }
    }

    #[test]
    fn says_nothing_until_what_is_received_passes_sealed() {
        let mut acknowledgement = Acknowledgement::new(Lsn::new(0x0100_0000), false);
        acknowledgement.seal(Lsn::new(0x0100_5000));
        acknowledgement.receive(Lsn::new(0x0100_4000));
        assert_eq!(acknowledgement.flushed(), Lsn::INVALID);
        acknowledgement.receive(Lsn::new(0x0100_6000));
        assert_eq!(acknowledgement.flushed(), Lsn::new(0x0100_5000));
    }
}
