//! Reading objects.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::super::{ByteRange, Error, ErrorKind, ObjectKey, ObjectMeta, ObjectReader, Operation, Result};
use super::root::{Root, directories, meta, not_found, unfit};
use super::{blocking, failed};
use crate::fs::{Directory, EntryType};

/// Bytes of one read: large enough that handing over to the blocking threads costs nothing beside it.
const CHUNK_BYTES: u64 = 1024 * 1024;

impl Root {
    pub(super) fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let directory = self.directory_of(Operation::Head, key)?;
        let status = directory.status(key.file_name()).map_err(|error| failed(Operation::Head, key, error))?;
        check_type(Operation::Head, key, &directory, status.entry_type)?;
        Ok(meta(key.clone(), &status))
    }

    pub(super) fn open_object(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<OpenObject> {
        let name = key.file_name();
        let failed = |error| failed(Operation::Get, key, error);
        let directory = self.directory_of(Operation::Get, key)?;
        check_type(Operation::Get, key, &directory, directory.status(name).map_err(failed)?.entry_type)?;
        let file = directory.open_file(name).map_err(failed)?;
        let status = directory.status_of_open(name, &file).map_err(failed)?;
        check_type(Operation::Get, key, &directory, status.entry_type)?;
        let meta = meta(key.clone(), &status);
        let (start, end) = range.map_or((0, meta.size_bytes), |range| (range.start(), range.end()));
        if end > meta.size_bytes {
            let reason = format!("bytes {start} to {end} were asked of {}", meta.size_bytes);
            return Err(Error::new(ErrorKind::Invalid, Operation::Get, key, reason));
        }
        let mut rest = Rest { file, key: key.clone(), left: end - start };
        rest.file
            .seek(SeekFrom::Start(start))
            .map_err(|error| Error::new(ErrorKind::Transient, Operation::Get, key, "seek failed").with_source(error))?;
        let first = rest.next_chunk()?;
        Ok(OpenObject { meta, size_bytes: end - start, first, rest })
    }

    fn directory_of(&self, operation: Operation, key: &ObjectKey) -> Result<Directory> {
        self.existing_directory(operation, key, directories(key))?.ok_or_else(|| not_found(operation, key))
    }
}

fn check_type(operation: Operation, key: &ObjectKey, directory: &Directory, entry_type: EntryType) -> Result<()> {
    match entry_type {
        EntryType::File => Ok(()),
        EntryType::Directory => Err(not_found(operation, key)),
        EntryType::Symlink | EntryType::Other => Err(unfit(operation, key, &directory.path_of(key.file_name()))),
    }
}

/// An object with its first bytes, which for most objects are all.
pub(super) struct OpenObject {
    meta: ObjectMeta,
    size_bytes: u64,
    first: Bytes,
    rest: Rest,
}

impl OpenObject {
    pub(super) fn into_reader(self) -> ObjectReader {
        let first = stream::iter((!self.first.is_empty()).then_some(Ok(self.first)));
        let rest = stream::try_unfold(self.rest, |mut rest| async move {
            if rest.left == 0 {
                return Ok(None);
            }
            let key = rest.key.clone();
            blocking(Operation::Get, &key, move || {
                let chunk = rest.next_chunk()?;
                Ok(Some((chunk, rest)))
            })
            .await
        });
        ObjectReader { size_bytes: self.size_bytes, meta: self.meta, stream: first.chain(rest).boxed() }
    }
}

struct Rest {
    file: File,
    key: ObjectKey,
    left: u64,
}

impl Rest {
    fn next_chunk(&mut self) -> Result<Bytes> {
        let wanted = self.left.min(CHUNK_BYTES);
        let mut chunk = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        (&self.file).take(wanted).read_to_end(&mut chunk).map_err(|error| {
            Error::new(ErrorKind::Transient, Operation::Get, &self.key, "read failed").with_source(error)
        })?;
        if chunk.len() as u64 != wanted {
            // Published files never change, so somebody else cut it off.
            let reason = format!("file ends {} bytes early", self.left - chunk.len() as u64);
            return Err(Error::new(ErrorKind::Corrupt, Operation::Get, &self.key, reason));
        }
        self.left -= wanted;
        Ok(chunk.into())
    }
}
