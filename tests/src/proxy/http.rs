//! As much of HTTP/1.1 as a proxy needs: heads, and where bodies end.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{Duration, Instant, sleep_until};

const MAX_HEAD: usize = 256 * 1024;

/// The head of a request or an answer, as it came.
#[derive(Debug, Clone)]
pub struct Head {
    lines: Vec<String>,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// The next head of the stream; none where it ended in between two.
    pub async fn read(stream: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<Option<Self>> {
        let (mut lines, mut size) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            let length = stream.read_line(&mut line).await?;
            size += length;
            if length == 0 {
                return if lines.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if size > MAX_HEAD {
                return Err(io::Error::other("the head is too long"));
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                return Ok(Some(Self { lines }));
            }
            lines.push(line.to_owned());
        }
    }

    /// Method and path of a request; version and code of an answer.
    pub fn first_words(&self) -> (&str, &str) {
        let mut words = self.lines.first().map_or("", String::as_str).split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    pub fn status(&self) -> u16 {
        self.first_words().1.parse().unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn remove(&mut self, name: &str) {
        let is_it =
            |line: &String| line.split_once(':').is_some_and(|(found, _)| found.trim().eq_ignore_ascii_case(name));
        self.lines.retain(|line| !is_it(line));
    }

    pub fn request_body(&self) -> Body {
        self.declared_body().unwrap_or(Body::Length(0))
    }

    pub fn answer_body(&self, to_method: &str) -> Body {
        let empty = to_method == "HEAD" || matches!(self.status(), 100..=199 | 204 | 304);
        if empty { Body::Length(0) } else { self.declared_body().unwrap_or(Body::UntilClose) }
    }

    fn declared_body(&self) -> Option<Body> {
        if self.header("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked")) {
            return Some(Body::Chunked);
        }
        self.header("content-length")?.parse().ok().map(Body::Length)
    }

    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut text = self.lines.join("\r\n");
        text.push_str("\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    }
}

/// Copies bodies, within what a fault allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Copier {
    bytes_per_second: Option<u64>,
    limit: Option<u64>,
    copied: u64,
}

impl Copier {
    /// At this rate, and no more than `limit` bytes.
    pub const fn new(bytes_per_second: Option<u64>, limit: Option<u64>) -> Self {
        Self { bytes_per_second, limit, copied: 0 }
    }

    /// Copies one body. False: the limit was reached first.
    pub async fn copy(
        &mut self,
        body: Body,
        from: &mut BufReader<impl AsyncRead + Unpin>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        match body {
            Body::Length(length) => self.bytes(length, from, to).await,
            Body::UntilClose => self.until_close(from, to).await,
            Body::Chunked => self.chunks(from, to).await,
        }
    }

    async fn until_close(
        &mut self,
        from: &mut BufReader<impl AsyncRead + Unpin>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        loop {
            let length = from.fill_buf().await?.len() as u64;
            if length == 0 {
                return Ok(true);
            }
            if !self.bytes(length, from, to).await? {
                return Ok(false);
            }
        }
    }

    async fn chunks(
        &mut self,
        from: &mut BufReader<impl AsyncRead + Unpin>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        loop {
            let mut line = String::new();
            from.read_line(&mut line).await?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::Error::other("not the size of a chunk"))?;
            to.write_all(line.as_bytes()).await?;
            if size == 0 {
                return self.trailers(from, to).await;
            }
            // With the line end after it.
            if !self.bytes(size + 2, from, to).await? {
                return Ok(false);
            }
        }
    }

    async fn trailers(
        &self,
        from: &mut BufReader<impl AsyncRead + Unpin>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        loop {
            let mut line = String::new();
            from.read_line(&mut line).await?;
            to.write_all(line.as_bytes()).await?;
            if line.trim().is_empty() {
                to.flush().await?;
                return Ok(true);
            }
        }
    }

    async fn bytes(
        &mut self,
        mut length: u64,
        from: &mut BufReader<impl AsyncRead + Unpin>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        let mut buffer = vec![0; 64 * 1024];
        while length > 0 {
            let allowed = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.copied));
            if allowed == 0 {
                to.flush().await?;
                return Ok(false);
            }
            let most = usize::try_from(length.min(allowed)).unwrap_or(usize::MAX).min(buffer.len());
            let start = Instant::now();
            let read = from.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(rate) = self.bytes_per_second {
                sleep_until(start + Duration::from_micros(read as u64 * 1_000_000 / rate.max(1))).await;
            }
            to.write_all(&buffer[..read]).await?;
            (length, self.copied) = (length - read as u64, self.copied + read as u64);
        }
        to.flush().await?;
        Ok(true)
    }
}
