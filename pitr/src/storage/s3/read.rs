//! Reading objects.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::super::options::Checksums;
use super::super::{ByteRange, Error, ErrorKind, ObjectKey, ObjectMeta, ObjectReader, Operation, Result};
use super::Bucket;
use super::error::Failure;
use super::put::tag;
use super::stall::{Progress, Stalled, watched};

impl Bucket {
    pub(super) async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let request = self.client.head_object().bucket(&self.name).key(key.as_str()).send();
        let output = match watched(self.options.stall_timeout, &Progress::default(), request).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                let failure = Failure::of(error);
                return Err(if failure.status == Some(404) {
                    self.missing(Operation::Head, key).await
                } else {
                    failure.into_error(Operation::Head, key)
                });
            }
            Err(stalled) => return Err(Failure::from(stalled).into_error(Operation::Head, key)),
        };
        let size_bytes = size(key, Operation::Head, output.content_length())?;
        meta(key, Operation::Head, size_bytes, output.e_tag(), output.last_modified())
    }

    /// What a 404 without a body means: asks for the bucket.
    async fn missing(&self, operation: Operation, key: &ObjectKey) -> Error {
        let request = self.client.head_bucket().bucket(&self.name).send();
        let failure = match watched(self.options.stall_timeout, &Progress::default(), request).await {
            Ok(Ok(_)) => return not_found(operation, key),
            Ok(Err(error)) => Failure::of(error),
            Err(stalled) => stalled.into(),
        };
        match failure.status {
            Some(404) => {
                Error::new(ErrorKind::NoContainer, operation, key, format!("bucket \"{}\" does not exist", self.name))
            }
            // The bucket is there, it only must not be listed.
            Some(403) => not_found(operation, key),
            _ => failure.into_error(operation, key),
        }
    }

    pub(super) async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let header = range.map(|range| format!("bytes={}-{}", range.start(), range.end() - 1));
        let whole_checked = range.is_none() && self.options.checksums == Checksums::Required;
        let request = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key.as_str())
            .set_range(header)
            .set_checksum_mode(whole_checked.then_some(ChecksumMode::Enabled))
            .send();
        let output = match watched(self.options.stall_timeout, &Progress::default(), request).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(Failure::of(error).into_error(Operation::Get, key)),
            Err(stalled) => return Err(Failure::from(stalled).into_error(Operation::Get, key)),
        };
        let meta = self.check_answer(key, range, &output)?;
        let size_bytes = range.map_or(meta.size_bytes, ByteRange::size_bytes);
        let rest = Rest { key: key.clone(), body: output.body, left: size_bytes, stall: self.options.stall_timeout };
        let stream =
            stream::try_unfold(rest, |mut rest| async move { Ok(rest.next().await?.map(|chunk| (chunk, rest))) });
        Ok(ObjectReader { size_bytes, meta, stream: stream.boxed() })
    }

    /// That the answer is the range that was asked for, and what it says of the object.
    fn check_answer(&self, key: &ObjectKey, range: Option<ByteRange>, output: &GetObjectOutput) -> Result<ObjectMeta> {
        let length = size(key, Operation::Get, output.content_length())?;
        let total = match range {
            None => length,
            Some(range) => match output.content_range() {
                Some(text) => self.check_range(key, range, length, text)?,
                // A store may send the whole object for a range that is all of it.
                None if range.start() == 0 && range.end() == length => length,
                None if range.end() > length => return Err(beyond(key, range, length)),
                None => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        Operation::Get,
                        key,
                        "the store does not answer with ranges",
                    ));
                }
            },
        };
        meta(key, Operation::Get, total, output.e_tag(), output.last_modified())
    }

    fn check_range(&self, key: &ObjectKey, range: ByteRange, length: u64, text: &str) -> Result<u64> {
        let (first, last, total) = parse_content_range(text).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, Operation::Get, key, format!("unreadable Content-Range \"{text}\""))
        })?;
        if range.end() > total {
            return Err(beyond(key, range, total));
        }
        if first == range.start() && last + 1 == range.end() && length == range.size_bytes() {
            Ok(total)
        } else {
            let reason = format!("asked for bytes {} to {}, got \"{text}\"", range.start(), range.end());
            Err(Error::new(ErrorKind::Transient, Operation::Get, key, reason))
        }
    }
}

fn not_found(operation: Operation, key: &ObjectKey) -> Error {
    Error::new(ErrorKind::NotFound, operation, key, "there is no such object")
}

fn beyond(key: &ObjectKey, range: ByteRange, total: u64) -> Error {
    let reason = format!("bytes {} to {} were asked of {total}", range.start(), range.end());
    Error::new(ErrorKind::Invalid, Operation::Get, key, reason)
}

fn size(key: &ObjectKey, operation: Operation, length: Option<i64>) -> Result<u64> {
    length
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| Error::new(ErrorKind::Invalid, operation, key, "the store does not say the size of the object"))
}

pub(super) fn meta(
    key: &ObjectKey,
    operation: Operation,
    size_bytes: u64,
    etag: Option<&str>,
    modified: Option<&DateTime>,
) -> Result<ObjectMeta> {
    let modified =
        modified.and_then(|time| chrono::DateTime::from_timestamp(time.secs(), time.subsec_nanos())).ok_or_else(
            || Error::new(ErrorKind::Invalid, operation, key, "the store does not say the time of the object"),
        )?;
    Ok(ObjectMeta { key: key.clone(), size_bytes, modified, tag: tag(key, operation, etag)? })
}

/// `bytes FIRST-LAST/TOTAL`.
fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}

/// What has not arrived yet of a body.
struct Rest {
    key: ObjectKey,
    body: ByteStream,
    left: u64,
    stall: std::time::Duration,
}

impl Rest {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let chunk = match self.receive().await? {
            Some(chunk) => chunk,
            None => return Err(self.error(ErrorKind::Transient, &format!("the body ends {} bytes early", self.left))),
        };
        self.left = match self.left.checked_sub(chunk.len() as u64) {
            Some(left) => left,
            None => return Err(self.error(ErrorKind::Corrupt, "more bytes arrived than were announced")),
        };
        if self.left == 0 {
            // The last chunk is held back until the end is seen: only there does a checksum prove wrong.
            match self.receive().await {
                Ok(None) => {}
                Ok(Some(more)) if more.is_empty() => {}
                Ok(Some(_)) => return Err(self.error(ErrorKind::Corrupt, "more bytes arrived than were announced")),
                Err(error) => return Err(error.with_kind(ErrorKind::Corrupt)),
            }
        }
        Ok(Some(chunk))
    }

    async fn receive(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.stall, self.body.try_next()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(self.error(ErrorKind::Transient, "the body broke off").with_source(error)),
            Err(_) => Err(self.error(ErrorKind::Transient, &Stalled(self.stall).to_string())),
        }
    }

    fn error(&self, kind: ErrorKind, reason: &str) -> Error {
        Error::new(kind, Operation::Get, &self.key, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_strictly() {
        assert_eq!(parse_content_range("bytes 0-9/10"), Some((0, 9, 10)));
        for text in
            ["bytes 0-10/10", "bytes 5-4/10", "bytes */10", "bytes 0-9/*", "0-9/10", "bytes 0-9", "bytes -1-9/10"]
        {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
