//! What a running agent says, asked over its socket: a process for each question would be measured, too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pitr::postgres::Lsn;
use pitr_tests::Agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const PAUSE: Duration = Duration::from_millis(4);

pub fn socket(agent: &Agent) -> PathBuf {
    agent.scratch().path().join("agent.sock")
}

/// Up to where everything is sealed, where it says so.
pub async fn sealed(socket: &Path) -> Result<Option<Lsn>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let body = text.split_once("\r\n\r\n").context("no body in the answer")?.1;
    // Behind a chunked body's sizes there is one object.
    let object = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to)).context("no JSON")?;
    let status: serde_json::Value = serde_json::from_str(object)?;
    Ok(status.pointer("/sealed/lsn").and_then(serde_json::Value::as_str).map(str::parse).transpose()?)
}

/// Waits until everything before `end` is sealed.
pub async fn wait_sealed(socket: &Path, end: Lsn, limit: Duration) -> Result<()> {
    let begun = std::time::Instant::now();
    loop {
        // Before it listens there is nobody to ask.
        if let Ok(Some(sealed)) = sealed(socket).await
            && sealed >= end
        {
            return Ok(());
        }
        if begun.elapsed() > limit {
            bail!("not sealed up to {end} within {limit:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
