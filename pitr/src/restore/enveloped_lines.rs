//! Enveloped objects of JSON lines, read as a stream: neither the object nor its content is ever held as a whole.
//!
//! Lines are handed on before the hash over all of them is known, so whoever uses them does nothing that cannot be taken
//! back before [`read`] has returned.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{Error, Result};
use crate::repository::document::{self, Document};
use crate::repository::envelope;
use crate::repository::hash::ContentHash;
use crate::storage::{self, ErrorKind, ObjectKey, ObjectStore, Operation};

/// Chunks between the store and the parser.
const CHUNKS_AHEAD: usize = 4;
/// No line is longer: a file of 1 GiB whose pages stand in as many frames needs a sixth of this.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Size and hash that a header states of the lines behind it.
pub(crate) trait LinesHeader: Document {
    fn lines_bytes(&self) -> u64;
    fn lines_hash(&self) -> ContentHash;
}

/// Takes lines of JSON.
pub(crate) trait LineSink: Send + 'static {
    /// # Errors
    /// In words, what is wrong with the line.
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String>;
}

/// Feeds every line of the object `key` to `sink` and returns both once all of them are proven to be those that the header
/// states, and the header the one that `accept` lets pass.
///
/// # Errors
/// The store fails, or the object is missing or damaged.
pub(crate) async fn read<H: LinesHeader + Send + 'static, S: LineSink>(
    store: &Arc<dyn ObjectStore>,
    key: &ObjectKey,
    sink: S,
) -> Result<(H, S)> {
    let damaged = |reason: String| Error::Damaged { object: key.to_string(), reason };
    let mut reader = match store.get(key, None).await {
        Ok(reader) => reader,
        Err(error) if error.is_not_found() => return Err(damaged("is missing".to_owned())),
        Err(error) => return Err(storage_error(error)),
    };
    let (sender, receiver) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
    let parser =
        tokio::task::spawn_blocking(move || parse::<H, S>(ChunkReader { receiver, chunk: Bytes::new() }, sink));
    let fed: storage::Result<()> = async {
        let mut missing = reader.size_bytes;
        while let Some(chunk) = reader.stream.try_next().await? {
            missing = missing.saturating_sub(chunk.len() as u64);
            if sender.send(chunk).await.is_err() {
                return Ok(()); // the parser gave up and says why
            }
        }
        if missing == 0 {
            return Ok(());
        }
        // Not the object's fault: it has the bytes.
        let reason = format!("the last {missing} bytes did not arrive");
        Err(storage::Error::new(ErrorKind::Transient, Operation::Get, key, reason))
    }
    .await;
    drop(sender);
    let parsed = parser.await.map_err(|error| Error::panicked(&error))?;
    fed.map_err(storage_error)?;
    parsed.map_err(damaged)
}

fn storage_error(error: storage::Error) -> Error {
    if error.kind() == ErrorKind::Corrupt {
        return Error::Damaged { object: error.key().to_owned(), reason: error.reason().to_owned() };
    }
    Error::Repository(error.into())
}

fn parse<H: LinesHeader, S: LineSink>(mut object: ChunkReader, mut sink: S) -> std::result::Result<(H, S), String> {
    let header: H = read_header(&mut object)?;
    let unreadable = |error: io::Error| format!("cannot be decompressed: {error}");
    let decoder = zstd::stream::read::Decoder::new(object).map_err(unreadable)?;
    // One byte more than is stated, so that too much is noticed without being read.
    let mut lines = BufReader::with_capacity(64 << 10, decoder.take(header.lines_bytes().saturating_add(1)));
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        hasher.update(&line);
        bytes += read as u64;
        let content = line.strip_suffix(b"\n").ok_or("ends within a line, or has one that is too long")?;
        sink.line(content)?;
    }
    if bytes != header.lines_bytes() {
        return Err(format!("holds {bytes} bytes of lines and not the stated {}", header.lines_bytes()));
    }
    if ContentHash::from_hasher(&hasher) != header.lines_hash() {
        return Err("holds other lines than its header states".to_owned());
    }
    Ok((header, sink))
}

fn read_header<H: Document>(object: &mut ChunkReader) -> std::result::Result<H, String> {
    let cut = |_| "ends within its header".to_owned();
    let mut prefix = [0; 8];
    object.read_exact(&mut prefix).map_err(cut)?;
    let total = envelope::header_bytes(&prefix).map_err(|error| error.to_string())?;
    let mut sealed = vec![0; total.saturating_sub(prefix.len())];
    object.read_exact(&mut sealed).map_err(cut)?;
    document::unseal(&sealed).map_err(|error| format!("has a header that cannot be used: {error}"))
}

/// Reads one line of JSON.
pub(crate) fn json<T: DeserializeOwned>(line: &[u8]) -> std::result::Result<T, String> {
    serde_json::from_slice(line).map_err(|error| format!("has a line that cannot be read: {error}"))
}

/// The chunks of a channel as one stream of bytes, for a blocking thread.
struct ChunkReader {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        if let Some(target) = buffer.get_mut(..length) {
            self.chunk.copy_to_slice(target);
        }
        Ok(length)
    }
}
