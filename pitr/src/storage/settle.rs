//! Whether an object is the one that we put.

use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::io::AsyncReadExt;

use super::{Error, ErrorKind, ObjectKey, ObjectMeta, ObjectStore, Operation, Payload, Result};

const FILE_CHUNK_BYTES: usize = 256 * 1024;

/// What the store says of the object when its content is that of `body`, byte by byte.
///
/// # Errors
/// What reading says, of either side.
pub(super) async fn find_same(store: &dyn ObjectStore, key: &ObjectKey, body: &Payload) -> Result<Option<ObjectMeta>> {
    let mut reader = store.get(key, None).await?;
    if reader.size_bytes != body.size_bytes() {
        return Ok(None);
    }
    let mut ours = content(key, body);
    let mut expected = Bytes::new();
    while let Some(mut chunk) = reader.stream.try_next().await? {
        while !chunk.is_empty() {
            if expected.is_empty() {
                match ours.try_next().await? {
                    Some(next) => expected = next,
                    None => return Ok(None),
                }
            }
            let size = chunk.len().min(expected.len());
            if chunk.split_to(size) != expected.split_to(size) {
                return Ok(None);
            }
        }
    }
    Ok(Some(reader.meta))
}

fn content(key: &ObjectKey, body: &Payload) -> BoxStream<'static, Result<Bytes>> {
    match body {
        Payload::Chunks(chunks) => stream::iter(chunks.clone().into_iter().map(Ok)).boxed(),
        Payload::File { path, .. } => file_content(key.clone(), path.clone()),
    }
}

fn file_content(key: ObjectKey, path: PathBuf) -> BoxStream<'static, Result<Bytes>> {
    let failed = move |error: std::io::Error| {
        Error::new(ErrorKind::Invalid, Operation::Put, &key, "the payload cannot be read again").with_source(error)
    };
    let opened = stream::once(tokio::fs::File::open(path));
    let chunks = opened.map_ok(|file| {
        stream::try_unfold(file, |mut file| async move {
            let mut chunk = Vec::with_capacity(FILE_CHUNK_BYTES);
            let read = file.read_buf(&mut chunk).await?;
            Ok((read > 0).then(|| (Bytes::from(chunk), file)))
        })
    });
    chunks.try_flatten().map_err(failed).boxed()
}
