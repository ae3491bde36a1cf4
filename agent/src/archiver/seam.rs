//! Whether the server's WAL goes on where the repository's ends.
//!
//! Where the segment to be received next is partly stored, its bytes are compared as they come again. Where nothing of it
//! is stored, its first record must name the last record of the segment before as the one before it: a server that was put
//! back to an older state and has written on since, or the twin of the one that was archived, gives itself away there.

use std::time::Duration;

use pitr::postgres::SegmentNumber;
use pitr::postgres::wal::WalDecoder;
use pitr::repository::{self, WalStore};

use super::error::ArchiverError;
use super::open_segment::StreamFacts;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::replication::{self, Started, StreamMessage};

/// How long the server may take to show its WAL.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at the first record of `segment`, of which nothing is stored.
///
/// # Errors
/// [`ArchiverError::Fork`] where it does not follow what is stored; the repository fails. Where the server has nothing to
/// show, or cannot, there is nothing to say against it.
pub(super) async fn check(
    wal: &WalStore,
    conninfo: &ConnInfo,
    facts: StreamFacts,
    segment: SegmentNumber,
) -> Result<(), ArchiverError> {
    let Some(mut decoder) = end_of_the_one_before(wal, facts, segment).await? else { return Ok(()) };
    match tokio::time::timeout(PATIENCE, first_record(&mut decoder, conninfo, facts, segment)).await {
        Ok(Ok(Joint::Broken)) => {
            let lsn = facts.segment_size.start_of(segment);
            Err(ArchiverError::Fork { timeline: facts.timeline, lsn })
        }
        Ok(Ok(Joint::Holds)) | Err(_) => Ok(()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the server's WAL could not be looked at");
            Ok(())
        }
    }
}

/// A decoder that has read the stored segment before `segment`; none where that is not stored, or cannot be read.
async fn end_of_the_one_before(
    wal: &WalStore,
    facts: StreamFacts,
    segment: SegmentNumber,
) -> Result<Option<WalDecoder>, ArchiverError> {
    let Some(before) = segment.as_u64().checked_sub(1).map(SegmentNumber::new) else { return Ok(None) };
    let bytes = match wal.whole_segment(facts.name(before)).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error @ repository::Error::Storage(_)) => return Err(error.into()),
        // Damage shows where it is restored from; it says nothing of the server.
        Err(error) => {
            tracing::error!(%error, segment = %facts.name(before), "the last segment in the repository cannot be read");
            return Ok(None);
        }
    };
    let mut decoder = WalDecoder::new(facts.segment_size.start_of(before), facts.timeline, facts.segment_size)
        .with_system_identifier(facts.system_identifier)
        .with_major(facts.major);
    decoder.feed(&bytes);
    loop {
        match decoder.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Some(decoder)),
            Err(_) => return Ok(None),
        }
    }
}

enum Joint {
    Holds,
    Broken,
}

async fn first_record(
    decoder: &mut WalDecoder,
    conninfo: &ConnInfo,
    facts: StreamFacts,
    segment: SegmentNumber,
) -> crate::postgres::Result<Joint> {
    let start = facts.segment_size.start_of(segment);
    let connection = replication::connect(conninfo).await?;
    let Started::Streaming(mut stream) = connection.start(None, start, facts.timeline).await? else {
        return Ok(Joint::Holds);
    };
    loop {
        match stream.next().await? {
            StreamMessage::Wal { bytes, .. } => decoder.feed(&bytes),
            // Everything was shown.
            _ => return Ok(Joint::Holds),
        }
        match decoder.next_record() {
            Ok(Some(_)) => return Ok(Joint::Holds),
            Ok(None) => {}
            Err(error) if error.is_end_of_wal() => return Ok(Joint::Holds),
            Err(_) => return Ok(Joint::Broken),
        }
    }
}
