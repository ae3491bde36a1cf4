//! A piece of a payload as the body of a request.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use base64::Engine;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::super::{Error, ErrorKind, ObjectKey, Operation, Payload, Result};
use super::stall::Progress;

/// Bytes of a file that are read at once.
const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Bytes that may be summed up without leaving the async threads: some tens of microseconds.
const INLINE_BYTES: u64 = 256 * 1024;

/// A range of a payload. It can be read as often as needed.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Chunks(Vec<Bytes>),
    File { path: PathBuf, start: u64, size_bytes: u64 },
}

impl Piece {
    pub(super) fn of(payload: &Payload, start: u64, size_bytes: u64) -> Self {
        match payload {
            Payload::Chunks(chunks) => Self::Chunks(slice(chunks, start, size_bytes)),
            Payload::File { path, .. } => Self::File { path: path.clone(), start, size_bytes },
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Chunks(chunks) => chunks.iter().map(|chunk| chunk.len() as u64).sum(),
            Self::File { size_bytes, .. } => *size_bytes,
        }
    }

    /// CRC-32C as S3 writes it: the big-endian bytes in base64.
    pub(super) async fn checksum(&self, key: &ObjectKey) -> Result<String> {
        let sum = if self.size_bytes() <= INLINE_BYTES && matches!(self, Self::Chunks(_)) {
            self.crc32c()
        } else {
            let piece = self.clone();
            tokio::task::spawn_blocking(move || piece.crc32c()).await.unwrap_or_else(|error| Err(error.into()))
        };
        let sum = sum.map_err(|error| unreadable(key, error))?;
        Ok(base64::engine::general_purpose::STANDARD.encode(sum.to_be_bytes()))
    }

    fn crc32c(&self) -> std::io::Result<u32> {
        match self {
            Self::Chunks(chunks) => Ok(chunks.iter().fold(0, |sum, chunk| crc32c::crc32c_append(sum, chunk))),
            Self::File { path, start, size_bytes } => {
                let mut file = std::fs::File::open(path)?;
                file.seek(SeekFrom::Start(*start))?;
                let (mut sum, mut left) = (0, *size_bytes);
                let mut buffer = vec![0; FILE_CHUNK_BYTES];
                while left > 0 {
                    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let chunk = &mut buffer[..wanted];
                    file.read_exact(chunk)?;
                    sum = crc32c::crc32c_append(sum, chunk);
                    left -= wanted as u64;
                }
                Ok(sum)
            }
        }
    }

    pub(super) fn into_body(self, progress: Progress) -> ByteStream {
        let left = self.size_bytes();
        let stream = match self {
            Self::Chunks(chunks) => stream::iter(chunks.into_iter().map(Ok)).boxed(),
            Self::File { path, start, size_bytes } => read_file(path, start, size_bytes),
        };
        ByteStream::new(SdkBody::from_body_1_x(PieceBody { stream: Mutex::new(stream), left, progress }))
    }
}

fn slice(chunks: &[Bytes], start: u64, size_bytes: u64) -> Vec<Bytes> {
    let (mut position, end) = (0_u64, start + size_bytes);
    let mut cut = Vec::new();
    for chunk in chunks {
        let chunk_end = position + chunk.len() as u64;
        let (from, to) = (start.clamp(position, chunk_end), end.clamp(position, chunk_end));
        if from < to {
            // Both lie within the chunk, whose length is a usize.
            let offset = |at: u64| usize::try_from(at - position).unwrap_or(chunk.len());
            cut.push(chunk.slice(offset(from)..offset(to)));
        }
        position = chunk_end;
    }
    cut
}

fn read_file(path: PathBuf, start: u64, size_bytes: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
    let opened = async move {
        let mut file = tokio::fs::File::open(path).await?;
        file.seek(SeekFrom::Start(start)).await?;
        let chunks = stream::try_unfold((file, size_bytes), |(mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(FILE_CHUNK_BYTES);
            let mut chunk = Vec::with_capacity(wanted);
            (&mut file).take(wanted as u64).read_buf(&mut chunk).await?;
            if chunk.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let left = left - chunk.len() as u64;
            Ok(Some((Bytes::from(chunk), (file, left))))
        });
        Ok::<_, std::io::Error>(chunks)
    };
    stream::once(opened).try_flatten().boxed()
}

pub(super) fn unreadable(key: &ObjectKey, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Invalid, Operation::Put, key, "the payload cannot be read").with_source(error)
}

/// The stream with its length, so that the request can say it beforehand.
struct PieceBody {
    /// The mutex is never locked: it only makes the stream shareable, which the SDK asks of a body.
    stream: Mutex<BoxStream<'static, std::io::Result<Bytes>>>,
    left: u64,
    progress: Progress,
}

impl Body for PieceBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let stream = match self.stream.get_mut() {
            Ok(stream) => stream,
            Err(poisoned) => poisoned.into_inner(),
        };
        let Some(chunk) = ready!(stream.poll_next_unpin(context)) else { return Poll::Ready(None) };
        Poll::Ready(Some(chunk.map(|chunk| {
            self.left = self.left.saturating_sub(chunk.len() as u64);
            self.progress.add(chunk.len());
            Frame::data(chunk)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new("k").unwrap()
    }

    async fn content(piece: Piece) -> Vec<u8> {
        piece.into_body(Progress::default()).collect().await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn pieces_of_chunks_and_of_files_are_the_same() {
        let content_bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &content_bytes).unwrap();
        let as_file = Payload::File { path: file.path().to_owned(), size_bytes: 1_000_000 };
        let as_chunks = Payload::Chunks(content_bytes.chunks(77_777).map(Bytes::copy_from_slice).collect());
        for (start, size) in [(0, 1_000_000), (0, 0), (1, 2), (77_776, 2), (500_000, 500_000), (999_999, 1)] {
            let expected = &content_bytes[start..start + size];
            for payload in [&as_file, &as_chunks] {
                let piece = Piece::of(payload, start as u64, size as u64);
                assert_eq!(piece.size_bytes(), size as u64);
                assert_eq!(piece.crc32c().unwrap(), crc32c::crc32c(expected));
                assert!(content(piece).await == expected);
            }
        }
    }

    #[tokio::test]
    async fn checksum_is_written_as_s3_writes_it() {
        let piece = Piece::Chunks(vec!["1234".into(), "56789".into()]);
        // The check value of CRC-32C is e3069283.
        assert_eq!(piece.checksum(&key()).await.unwrap(), "4waSgw==");
    }

    #[tokio::test]
    async fn file_that_is_cut_off_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "123").unwrap();
        let piece = Piece::File { path: file.path().to_owned(), start: 0, size_bytes: 4 };
        assert_eq!(piece.checksum(&key()).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert!(piece.into_body(Progress::default()).collect().await.is_err());
    }
}
