//! Objects in parts.

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::super::options::Checksums;
use super::super::{Error, ErrorKind, ObjectKey, ObjectMeta, Operation, Payload, Result, settle};
use super::body::Piece;
use super::error::Failure;
use super::parts::{self, Part};
use super::put::{Conditions, length};
use super::stall::{Progress, watched};
use super::{Bucket, S3Store};

/// A store may take minutes to join many parts.
const COMPLETION_PATIENCE: u32 = 10;

impl S3Store {
    pub(super) async fn put_in_parts(
        &self,
        key: &ObjectKey,
        body: &Payload,
        conditions: &Conditions,
    ) -> Result<ObjectMeta> {
        let bucket = &self.bucket;
        let parts = parts::cut(body.size_bytes(), bucket.options.part_size_bytes, bucket.options.max_parts)
            .ok_or_else(|| {
                Error::new(ErrorKind::Invalid, Operation::Put, key, "the object is too large for its parts")
            })?;
        let upload = bucket.begin_upload(key).await?;
        let outcome = match bucket.upload_parts(key, &upload, body, parts).await {
            Ok(done) => self.complete(key, &upload, body, done, conditions).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            bucket.abort(key, &upload).await;
        }
        outcome
    }

    /// Makes the parts an object. An attempt whose answer got lost may have done so: then the upload is gone, and what is
    /// there under the key decides.
    async fn complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        body: &Payload,
        parts: Vec<CompletedPart>,
        conditions: &Conditions,
    ) -> Result<ObjectMeta> {
        let mut attempts = self.bucket.policy.begin();
        loop {
            let failure = match self.bucket.try_complete(key, upload, &parts, conditions).await {
                Ok(etag) => return self.bucket.meta_of_put(key, body.size_bytes(), etag.as_deref()),
                Err(failure) => failure,
            };
            if failure.is("NoSuchUpload") && attempts.have_failed() {
                let same = settle::find_same(self, key, body).await;
                if let Ok(Some(meta)) = same {
                    return Ok(meta);
                }
                return Err(failure.into_error(Operation::Put, key));
            }
            // After a conflict the store wants the whole upload again, which is for the caller to repeat.
            let whole = failure.is("ConditionalRequestConflict") || failure.is("NoSuchUpload");
            let error = conditions.refused(key, failure);
            if whole {
                return Err(error);
            }
            attempts.after(error).await?;
        }
    }
}

impl Bucket {
    async fn begin_upload(&self, key: &ObjectKey) -> Result<String> {
        let algorithm = (self.options.checksums != Checksums::Off).then_some(ChecksumAlgorithm::Crc32C);
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key.as_str())
            .content_type("application/octet-stream")
            .set_checksum_algorithm(algorithm)
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.kms_key())
            .set_storage_class(self.storage_class())
            .set_tagging(self.tagging.clone());
        let answer = watched(self.options.stall_timeout, &Progress::default(), request.send()).await;
        let output = match answer {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(Failure::of(error).into_error(Operation::Put, key)),
            Err(stalled) => return Err(Failure::from(stalled).into_error(Operation::Put, key)),
        };
        output
            .upload_id
            .ok_or_else(|| Error::new(ErrorKind::Invalid, Operation::Put, key, "the store gives no id of an upload"))
    }

    async fn upload_parts(
        &self,
        key: &ObjectKey,
        upload: &str,
        body: &Payload,
        parts: Vec<Part>,
    ) -> Result<Vec<CompletedPart>> {
        let uploads = stream::iter(parts).map(|part| {
            let piece = Piece::of(body, part.start, part.size_bytes);
            async move {
                let checksum = self.checksum(key, &piece).await?;
                let attempt = || self.upload_part(key, upload, part, piece.clone(), checksum.clone());
                self.policy.run(attempt).await
            }
        });
        uploads.buffered(self.options.part_concurrency.max(1)).try_collect().await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &str,
        part: Part,
        piece: Piece,
        checksum: Option<String>,
    ) -> Result<CompletedPart> {
        let progress = Progress::default();
        let request = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key.as_str())
            .upload_id(upload)
            .part_number(part.number)
            .content_length(length(key, part.size_bytes)?)
            .set_checksum_crc32_c(checksum.clone())
            .body(piece.into_body(progress.clone()));
        let answer =
            watched(self.options.stall_timeout, &progress, request.customize().disable_payload_signing().send());
        let output = match answer.await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(Failure::of(error).into_error(Operation::Put, key)),
            Err(stalled) => return Err(Failure::from(stalled).into_error(Operation::Put, key)),
        };
        self.confirm(key, checksum.as_deref(), output.checksum_crc32_c())?;
        Ok(CompletedPart::builder()
            .part_number(part.number)
            .set_e_tag(output.e_tag)
            .set_checksum_crc32_c(checksum)
            .build())
    }

    async fn try_complete(
        &self,
        key: &ObjectKey,
        upload: &str,
        parts: &[CompletedPart],
        conditions: &Conditions,
    ) -> std::result::Result<Option<String>, Failure> {
        let completed = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key.as_str())
            .upload_id(upload)
            .set_if_none_match(conditions.if_none_match.clone())
            .set_if_match(conditions.if_match.clone())
            .multipart_upload(completed);
        let patience = self.options.stall_timeout * COMPLETION_PATIENCE;
        match watched(patience, &Progress::default(), request.send()).await? {
            Ok(output) => Ok(output.e_tag),
            Err(error) => Err(Failure::of(error)),
        }
    }

    /// Frees what an upload that failed has stored. Best effort: its failure is not the reason of the put's.
    async fn abort(&self, key: &ObjectKey, upload: &str) {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(key.as_str()).upload_id(upload);
        let failure = match watched(self.options.stall_timeout, &Progress::default(), request.send()).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => Failure::of(error),
            Err(stalled) => stalled.into(),
        };
        if !failure.is("NoSuchUpload") {
            let error = failure.into_error(Operation::Put, key);
            tracing::warn!(key = key.as_str(), reason = error.reason(), "an upload that failed could not be aborted");
        }
    }
}
