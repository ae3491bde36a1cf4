//! WAL summaries of one lineage, put and read back.
//!
//! What a summary says follows from the WAL, so nothing is lost with one: it can be built anew. A put of what is there is
//! success when it says the same. One that cannot be read, or that an older decoder made, gives way to the new one; one by a
//! newer decoder stays. Two that differ by the same decoder are a conflict: they are not of the same WAL.

use bytes::Bytes;
use futures::TryStreamExt;

use super::error::{Error, Result};
use super::layout::SummaryKey;
use super::store::LineageStore;
use super::summary_object::{self, HEADER_READ_BYTES, SummaryHeader, SummaryObjectError};
use crate::postgres::TimelineId;
use crate::storage::{ByteRange, ErrorKind, ObjectKey, ObjectStoreExt, Payload, PutMode};
use crate::wal_summary::{DECODER_VERSION, MAX_CONTENT_BYTES, WalSummary};

/// A summary as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedSummary {
    pub key: SummaryKey,
    pub stored_bytes: u64,
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum ReadSummary {
    Usable(Box<WalSummary>),
    /// It counts as missing.
    Unusable {
        /// Another version of the decoder made it; otherwise it is damaged.
        outdated: bool,
        reason: String,
    },
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutSummary {
    Created,
    /// It was there.
    Same,
    /// One that could not be used was there.
    Replaced,
    /// A newer decoder made the one that is there.
    LeftNewer,
}

/// A summary, encoded and ready to be put, as often as it takes.
#[derive(Clone, Debug)]
pub struct PreparedSummary {
    key: SummaryKey,
    object: Bytes,
    header: SummaryHeader,
}

impl PreparedSummary {
    #[must_use]
    pub const fn key(&self) -> SummaryKey {
        self.key
    }

    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.object.len() as u64
    }

    /// Size before compression.
    #[must_use]
    pub const fn plain_bytes(&self) -> u64 {
        self.header.bytes
    }
}

/// The WAL summaries of a lineage.
#[derive(Clone, Debug)]
pub struct SummaryStore {
    lineage: LineageStore,
}

impl SummaryStore {
    #[must_use]
    pub const fn new(lineage: LineageStore) -> Self {
        Self { lineage }
    }

    #[must_use]
    pub const fn lineage(&self) -> &LineageStore {
        &self.lineage
    }

    fn object_key(&self, key: SummaryKey) -> ObjectKey {
        self.lineage.layout().summary(key)
    }

    /// The summaries of a timeline, by where they begin.
    ///
    /// # Errors
    /// The store fails.
    pub async fn list(&self, tli: TimelineId) -> Result<Vec<ListedSummary>> {
        let prefix = self.lineage.layout().summaries_timeline(tli);
        let mut listed = self.lineage.store().list(&prefix);
        let mut found = Vec::new();
        while let Some(meta) = listed.try_next().await? {
            if let Some(key) = self.lineage.layout().parse_summary(&meta.key) {
                found.push(ListedSummary { key, stored_bytes: meta.size_bytes });
            }
        }
        Ok(found)
    }

    /// What the header of a summary says: its decoder, and when transactions ended.
    ///
    /// # Errors
    /// The store fails, or the object is no summary of that range.
    pub async fn header(&self, key: SummaryKey) -> Result<SummaryHeader> {
        let object_key = self.object_key(key);
        let size = self.lineage.store().head(&object_key).await?.size_bytes;
        let front = match ByteRange::new(0, HEADER_READ_BYTES.min(size)) {
            Some(range) => self.lineage.store().get_range(&object_key, range).await?,
            None => Bytes::new(),
        };
        let header = summary_object::decode_header(&front).map_err(|error| corrupt(&object_key, &error))?;
        self.check(key, &header)?;
        Ok(header)
    }

    fn check(&self, key: SummaryKey, header: &SummaryHeader) -> Result<()> {
        let lineage = self.lineage.lineage();
        let ours = header.key() == key
            && header.system_identifier == lineage.lineage.system_identifier()
            && header.wal_segment_size == lineage.wal_segment_size;
        if ours {
            return Ok(());
        }
        let reason =
            format!("its header is that of {} to {} on timeline {}", header.from_lsn, header.to_lsn, header.timeline);
        Err(Error::Corrupt { key: self.object_key(key), reason })
    }

    /// Reads and checks a whole summary.
    ///
    /// # Errors
    /// The store fails; "not found" where there is none.
    pub async fn read(&self, key: SummaryKey) -> Result<ReadSummary> {
        // A header, and content that compresses to no more than itself.
        let limit = MAX_CONTENT_BYTES.saturating_mul(2);
        let object = self.lineage.store().get_bytes(&self.object_key(key), limit).await?;
        let decoded = blocking(move || summary_object::decode(&object)).await?;
        let unusable = |outdated, reason| Ok(ReadSummary::Unusable { outdated, reason });
        match decoded {
            Ok((header, summary)) => match self.check(key, &header) {
                Ok(()) => Ok(ReadSummary::Usable(Box::new(summary))),
                Err(error) => unusable(false, error.to_string()),
            },
            Err(error @ SummaryObjectError::OtherDecoder { .. }) => unusable(true, error.to_string()),
            Err(error) => unusable(false, text(&error)),
        }
    }

    /// Encodes and compresses, on a blocking thread.
    ///
    /// # Errors
    /// The summary is larger than any reader takes.
    pub async fn prepare(&self, summary: WalSummary) -> Result<PreparedSummary> {
        let key = SummaryKey { tli: summary.timeline, from: summary.from, to: summary.to };
        let id = self.lineage.lineage().lineage.system_identifier();
        let encoded = blocking(move || {
            let object = summary_object::encode(&summary, id)?;
            Ok((summary_object::decode_header(&object)?, object))
        });
        let (header, object) =
            encoded.await?.map_err(|error: SummaryObjectError| corrupt(&self.object_key(key), &error))?;
        Ok(PreparedSummary { key, object: object.into(), header })
    }

    /// Stores the summary; durable when this returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the same decoder has made another of the same range; the store fails.
    pub async fn put(&self, prepared: &PreparedSummary) -> Result<PutSummary> {
        if self.create(prepared).await? {
            return Ok(PutSummary::Created);
        }
        let key = self.object_key(prepared.key);
        match self.header(prepared.key).await {
            Ok(header) if header.decoder > DECODER_VERSION => return Ok(PutSummary::LeftNewer),
            Ok(header) if header.is_current() => {
                if let ReadSummary::Usable(_) = self.read(prepared.key).await? {
                    let same = (header.bytes, header.blake3) == (prepared.header.bytes, prepared.header.blake3);
                    let reason = "the same decoder has found something else in the same range".to_owned();
                    return if same { Ok(PutSummary::Same) } else { Err(Error::Conflict { key, reason }) };
                }
            }
            Ok(_) => {}
            Err(error) if error.is_corruption() || error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        self.lineage.store().delete(std::slice::from_ref(&key)).await?;
        self.create(prepared).await?;
        Ok(PutSummary::Replaced)
    }

    async fn create(&self, prepared: &PreparedSummary) -> Result<bool> {
        let payload = Payload::from(prepared.object.clone());
        match self.lineage.store().put(&self.object_key(prepared.key), payload, PutMode::CreateNew).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes summaries, after what covers them is durable.
    ///
    /// # Errors
    /// The store fails; some may then be gone.
    pub async fn delete(&self, keys: &[SummaryKey]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = keys.iter().map(|key| self.object_key(*key)).collect();
        Ok(self.lineage.store().delete(&keys).await?)
    }
}

fn corrupt(key: &ObjectKey, error: &SummaryObjectError) -> Error {
    Error::Corrupt { key: key.clone(), reason: text(error) }
}

/// With its causes.
fn text(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down refuses the work.
            Err(_) => Err(crate::storage::Error::new(
                ErrorKind::Cancelled,
                crate::storage::Operation::Get,
                "summaries",
                "the runtime is shutting down",
            )
            .into()),
        },
    }
}

#[cfg(test)]
mod tests;
