//! Reads that go on where they broke.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::super::{ByteRange, Error, ErrorKind, ObjectMeta, ObjectReader, ObjectStore, Operation, Result};
use super::{Attempts, RetryPolicy};

/// A read under way.
struct Resumable {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    meta: ObjectMeta,
    /// The next byte to deliver, and the one after the last.
    position: u64,
    end: u64,
    stream: Option<BoxStream<'static, Result<Bytes>>>,
    /// Since the last byte that arrived: a read may take hours, as long as it moves.
    attempts: Option<Attempts>,
}

/// The same reader, whose stream is continued with another ranged get whenever it breaks or ends early.
pub(super) fn resumable(
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    range: Option<ByteRange>,
    reader: ObjectReader,
) -> ObjectReader {
    let position = range.map_or(0, ByteRange::start);
    let end = position + reader.size_bytes;
    let meta = reader.meta.clone();
    let read = Resumable { inner, policy, meta, position, end, stream: Some(reader.stream), attempts: None };
    let stream = stream::try_unfold(read, |mut read| async move { Ok(read.next().await?.map(|chunk| (chunk, read))) });
    ObjectReader { stream: stream.boxed(), ..reader }
}

impl Resumable {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.end {
            match self.next_chunk().await {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    self.position += chunk.len() as u64;
                    self.attempts = None;
                    return Ok(Some(chunk));
                }
                Err(error) => {
                    self.stream = None;
                    self.attempts.get_or_insert_with(|| self.policy.begin()).after(error).await?;
                }
            }
        }
        Ok(None)
    }

    async fn next_chunk(&mut self) -> Result<Bytes> {
        if self.stream.is_none() {
            self.stream = Some(self.reopen().await?);
        }
        let left = self.end - self.position;
        match self.stream.as_mut() {
            Some(stream) => match stream.next().await {
                Some(Ok(chunk)) if chunk.len() as u64 > left => {
                    Err(self.error(ErrorKind::Corrupt, "more bytes arrived than were asked for"))
                }
                Some(chunk) => chunk,
                None => Err(self.error(ErrorKind::Transient, "the store stopped sending before the end")),
            },
            None => Err(self.error(ErrorKind::Transient, "the read is not open")),
        }
    }

    async fn reopen(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let reader = self.inner.get(&self.meta.key, ByteRange::new(self.position, self.end)).await?;
        if reader.meta.tag == self.meta.tag && reader.meta.size_bytes == self.meta.size_bytes {
            Ok(reader.stream)
        } else {
            Err(self.error(ErrorKind::Changed, "the object was replaced while it was read"))
        }
    }

    fn error(&self, kind: ErrorKind, reason: &str) -> Error {
        Error::new(kind, Operation::Get, &self.meta.key, reason)
    }
}
