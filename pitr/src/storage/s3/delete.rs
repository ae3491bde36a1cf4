//! Deleting objects.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::super::options::Checksums;
use super::super::{Error, ErrorKind, ObjectKey, Operation, Result};
use super::Bucket;
use super::error::{Failure, classify};
use super::stall::{Progress, watched};

/// The most that one request may name.
const BATCH: usize = 1000;
/// Requests under way where each names one object.
const SINGLES_AT_ONCE: usize = 16;

impl Bucket {
    /// In batches; one by one where the store has no batches or checks them in another way than we can, and where checksums,
    /// which a batch needs, are off.
    pub(super) async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let mut batches_work = self.options.checksums != Checksums::Off;
        for batch in keys.chunks(BATCH) {
            if batches_work && batch.len() > 1 {
                match self.delete_batch(batch).await {
                    Err(error) if error.kind() == ErrorKind::Invalid => batches_work = false,
                    outcome => {
                        outcome?;
                        continue;
                    }
                }
            }
            let singles = stream::iter(batch.to_vec()).map(|key| async move { self.delete_one(&key).await });
            singles.buffer_unordered(SINGLES_AT_ONCE).try_collect::<()>().await?;
        }
        Ok(())
    }

    async fn delete_one(&self, key: &ObjectKey) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.name).key(key.as_str()).send();
        match watched(self.options.stall_timeout, &Progress::default(), request).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let failure = Failure::of(error);
                if failure.kind == ErrorKind::NotFound {
                    Ok(())
                } else {
                    Err(failure.into_error(Operation::Delete, key))
                }
            }
            Err(stalled) => Err(Failure::from(stalled).into_error(Operation::Delete, key)),
        }
    }

    async fn delete_batch(&self, keys: &[ObjectKey]) -> Result<()> {
        let shown = keys.first().map(ObjectKey::as_str).unwrap_or_default();
        let invalid = |error: aws_sdk_s3::error::BuildError| {
            Error::new(ErrorKind::Invalid, Operation::Delete, shown, "the request cannot be made").with_source(error)
        };
        let identifiers = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key.as_str()).build())
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(invalid)?;
        let delete = Delete::builder().set_objects(Some(identifiers)).quiet(true).build().map_err(invalid)?;
        let request = self.client.delete_objects().bucket(&self.name).delete(delete).send();
        let output = match watched(self.options.stall_timeout, &Progress::default(), request).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(Failure::of(error).into_error(Operation::Delete, shown)),
            Err(stalled) => return Err(Failure::from(stalled).into_error(Operation::Delete, shown)),
        };
        let refused = output.errors().iter().find(|error| error.code() != Some("NoSuchKey"));
        match refused {
            None => Ok(()),
            Some(error) => {
                let reason = format!("{}: {}", error.code().unwrap_or("error"), error.message().unwrap_or("refused"));
                let kind = classify(None, error.code());
                Err(Error::new(kind, Operation::Delete, error.key().unwrap_or(shown), reason))
            }
        }
    }
}
