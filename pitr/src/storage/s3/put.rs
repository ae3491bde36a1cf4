//! Putting objects: which way, under which condition, with which headers.

use aws_sdk_s3::types::{ServerSideEncryption as Sse, StorageClass};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::options::{Checksums, CreateOnly, ServerSideEncryption};
use super::super::{Error, ErrorKind, ObjectKey, ObjectMeta, Operation, Payload, PutMode, Result, VersionTag, settle};
use super::body::{Piece, unreadable};
use super::error::Failure;
use super::stall::{Progress, watched};
use super::{Bucket, S3Store, parts};

/// The conditions of a put, as S3 takes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_none_match: Option<String>,
    pub(super) if_match: Option<String>,
}

impl Conditions {
    fn of(mode: &PutMode) -> Self {
        match mode {
            PutMode::CreateNew => Self { if_none_match: Some("*".to_owned()), if_match: None },
            PutMode::Overwrite => Self::default(),
            PutMode::Replace(tag) => Self { if_none_match: None, if_match: Some(format!("\"{}\"", tag.as_str())) },
        }
    }

    /// The error of a put under these conditions.
    pub(super) fn refused(&self, key: &ObjectKey, failure: Failure) -> Error {
        let failure = match failure.kind {
            ErrorKind::Changed if self.if_none_match.is_some() => failure.with_kind(ErrorKind::AlreadyExists),
            // If-Match on an object that is gone.
            ErrorKind::NotFound => failure.with_kind(ErrorKind::Changed),
            ErrorKind::Transient
                if self.if_match.is_some() && failure.status == Some(404) && failure.code.is_none() =>
            {
                failure.with_kind(ErrorKind::Changed)
            }
            _ => failure,
        };
        failure.into_error(Operation::Put, key)
    }
}

/// The tags as a query string.
pub(super) fn tagging(tags: &[(String, String)]) -> Option<String> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs: Vec<String> = tags.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

/// ETags are compared without their quotes, which some stores leave out in listings.
pub(super) fn tag(key: &ObjectKey, operation: Operation, etag: Option<&str>) -> Result<VersionTag> {
    match etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"')) {
        Some(etag) if !etag.is_empty() => Ok(VersionTag::new(etag)),
        _ => Err(Error::new(ErrorKind::Invalid, operation, key, "the store gives no ETag")),
    }
}

impl S3Store {
    pub(super) async fn put_object(&self, key: &ObjectKey, body: &Payload, mode: &PutMode) -> Result<ObjectMeta> {
        check_payload(key, body).await?;
        match self.bucket.options.create_only {
            CreateOnly::Native => self.put_under(key, body, Conditions::of(mode)).await,
            CreateOnly::Emulated => self.put_emulated(key, body, mode).await,
        }
    }

    async fn put_under(&self, key: &ObjectKey, body: &Payload, conditions: Conditions) -> Result<ObjectMeta> {
        let threshold = self.bucket.options.multipart_threshold_bytes.min(parts::MAX_PART_BYTES);
        if body.size_bytes() > threshold {
            self.put_in_parts(key, body, &conditions).await
        } else {
            self.bucket.put_at_once(key, body, &conditions).await
        }
    }

    async fn put_emulated(&self, key: &ObjectKey, body: &Payload, mode: &PutMode) -> Result<ObjectMeta> {
        let current = match self.bucket.head(key).await {
            Ok(meta) => Some(meta),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let lost = match (mode, current) {
            (PutMode::Overwrite, _) => return self.put_under(key, body, Conditions::default()).await,
            (PutMode::CreateNew, None) => ErrorKind::AlreadyExists,
            (PutMode::Replace(tag), Some(meta)) if meta.tag == *tag => ErrorKind::Changed,
            (PutMode::CreateNew, Some(_)) => {
                return Err(Error::new(ErrorKind::AlreadyExists, Operation::Put, key, "the object exists"));
            }
            (PutMode::Replace(_), _) => {
                return Err(Error::new(ErrorKind::Changed, Operation::Put, key, "the object is another version"));
            }
        };
        self.put_under(key, body, Conditions::default()).await?;
        // Somebody may have put another one between our look and our put, or after it.
        let ours = settle::find_same(self, key, body).await?;
        ours.ok_or_else(|| Error::new(lost, Operation::Put, key, "another content was put at the same time"))
    }
}

/// The file is as long as was said, and can be read.
async fn check_payload(key: &ObjectKey, body: &Payload) -> Result<()> {
    let Payload::File { path, size_bytes } = body else { return Ok(()) };
    let found = tokio::fs::metadata(path).await.map_err(|error| unreadable(key, error))?.len();
    if found == *size_bytes {
        return Ok(());
    }
    let reason = format!("{} has {found} bytes instead of {size_bytes}", path.display());
    Err(Error::new(ErrorKind::Invalid, Operation::Put, key, reason))
}

impl Bucket {
    async fn put_at_once(&self, key: &ObjectKey, body: &Payload, conditions: &Conditions) -> Result<ObjectMeta> {
        let piece = Piece::of(body, 0, body.size_bytes());
        let size_bytes = piece.size_bytes();
        let checksum = self.checksum(key, &piece).await?;
        let progress = Progress::default();
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key.as_str())
            .content_length(length(key, size_bytes)?)
            .content_type("application/octet-stream")
            .set_checksum_crc32_c(checksum.clone())
            .set_if_none_match(conditions.if_none_match.clone())
            .set_if_match(conditions.if_match.clone())
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.kms_key())
            .set_storage_class(self.storage_class())
            .set_tagging(self.tagging.clone())
            .body(piece.into_body(progress.clone()));
        let answer =
            watched(self.options.stall_timeout, &progress, request.customize().disable_payload_signing().send());
        let output = match answer.await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(conditions.refused(key, Failure::of(error))),
            Err(stalled) => return Err(Failure::from(stalled).into_error(Operation::Put, key)),
        };
        self.confirm(key, checksum.as_deref(), output.checksum_crc32_c())?;
        self.meta_of_put(key, size_bytes, output.e_tag())
    }

    pub(super) fn meta_of_put(&self, key: &ObjectKey, size_bytes: u64, etag: Option<&str>) -> Result<ObjectMeta> {
        let tag = tag(key, Operation::Put, etag)?;
        Ok(ObjectMeta { key: key.clone(), size_bytes, modified: self.clock.now(), tag })
    }

    pub(super) async fn checksum(&self, key: &ObjectKey, piece: &Piece) -> Result<Option<String>> {
        match self.options.checksums {
            Checksums::Off => Ok(None),
            Checksums::Auto | Checksums::Required => piece.checksum(key).await.map(Some),
        }
    }

    /// Compares the checksum that the store answers with, where one is demanded.
    pub(super) fn confirm(&self, key: &ObjectKey, sent: Option<&str>, confirmed: Option<&str>) -> Result<()> {
        match (sent, confirmed) {
            (Some(sent), Some(confirmed)) if sent != confirmed => {
                Err(Error::new(ErrorKind::Corrupt, Operation::Put, key, "the store received another content"))
            }
            (Some(_), None) if self.options.checksums == Checksums::Required => {
                let reason = "the store does not confirm checksums, which the options demand";
                Err(Error::new(ErrorKind::Invalid, Operation::Put, key, reason))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn encryption(&self) -> Option<Sse> {
        match &self.options.encryption {
            ServerSideEncryption::BucketDefault => None,
            ServerSideEncryption::Aes256 => Some(Sse::Aes256),
            ServerSideEncryption::Kms { .. } => Some(Sse::AwsKms),
        }
    }

    pub(super) fn kms_key(&self) -> Option<String> {
        match &self.options.encryption {
            ServerSideEncryption::Kms { key_id } => key_id.clone(),
            _ => None,
        }
    }

    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        self.options.storage_class.as_deref().map(StorageClass::from)
    }
}

pub(super) fn length(key: &ObjectKey, size_bytes: u64) -> Result<i64> {
    i64::try_from(size_bytes)
        .map_err(|_| Error::new(ErrorKind::Invalid, Operation::Put, key, "the object is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_a_query_string() {
        assert_eq!(tagging(&[]), None);
        let tags = [("cost center".to_owned(), "a&b=c".to_owned()), ("x".to_owned(), String::new())];
        assert_eq!(tagging(&tags).unwrap(), "cost%20center=a%26b%3Dc&x=");
    }

    #[test]
    fn tags_of_versions_have_no_quotes() {
        let key = ObjectKey::new("k").unwrap();
        let tag = |etag| tag(&key, Operation::Head, etag).map(|tag| tag.as_str().to_owned());
        assert_eq!(tag(Some("\"abc-2\"")).unwrap(), "abc-2");
        assert_eq!(tag(Some("abc-2")).unwrap(), "abc-2");
        assert!(tag(None).is_err() && tag(Some("\"\"")).is_err());
    }
}
