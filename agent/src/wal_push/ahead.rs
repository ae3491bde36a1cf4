//! Reads what the server's archiver will ask for next, while it is on its way to ask.
//!
//! A server that is behind asks for one segment after the other. Those that the stream has stored need nothing but a look at
//! the file: it is read before that, and the question is answered from memory.

use pitr::postgres::{SegmentName, SegmentNumber, WalSegmentSize};
use tokio::sync::watch;

use super::deposit::Deposit;

/// So far in front of the last segment that was asked for.
const AHEAD: u64 = 64;

/// Hashes the files that follow the one that was pushed last. Never ends but with its caller.
pub(super) async fn hash_ahead(deposit: &Deposit, mut pushed: watch::Receiver<Option<SegmentName>>) {
    let size = deposit.wal.lineage().lineage().wal_segment_size;
    let mut reached: Option<SegmentName> = None;
    loop {
        let last = *pushed.borrow_and_update();
        let next = last.and_then(|last| next(last, reached, size));
        let hashed = match next {
            Some(next) if deposit.progress.stored_segments().hash(next).is_some() => deposit.hash_ahead(next).await,
            _ => false,
        };
        if hashed {
            reached = next;
        } else if pushed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What comes behind both, where that is not too far.
fn next(pushed: SegmentName, reached: Option<SegmentName>, size: WalSegmentSize) -> Option<SegmentName> {
    let last = pushed.number(size)?.as_u64();
    let reached = reached.filter(|reached| reached.tli() == pushed.tli()).and_then(|reached| reached.number(size));
    let next = reached.map_or(last, |reached| reached.as_u64().max(last)).checked_add(1)?;
    (next - last <= AHEAD).then(|| SegmentNumber::new(next).name(pushed.tli(), size))
}

#[cfg(test)]
mod tests {
    use pitr::postgres::TimelineId;

    use super::*;

    #[test]
    fn goes_on_behind_what_was_pushed_and_read_and_not_too_far() {
        let size = WalSegmentSize::DEFAULT;
        let name = |tli: u32, number: u64| SegmentNumber::new(number).name(TimelineId::new(tli).unwrap(), size);
        let next = |pushed, reached| next(pushed, reached, size);
        assert_eq!(next(name(1, 300), None), Some(name(1, 301)));
        assert_eq!(next(name(1, 300), Some(name(1, 310))), Some(name(1, 311)));
        assert_eq!(next(name(1, 300), Some(name(1, 290))), Some(name(1, 301)));
        assert_eq!(next(name(2, 300), Some(name(1, 310))), Some(name(2, 301)));
        assert_eq!(next(name(1, 300), Some(name(1, 363))), Some(name(1, 364)));
        assert_eq!(next(name(1, 300), Some(name(1, 364))), None);
    }
}
