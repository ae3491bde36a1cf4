//! Asks the resident fetcher, and starts one.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::FetchOutcome;
use super::resident::{Reply, Request, socket_path};
use crate::restore::recovery_config::RecoveryConfig;

/// Longer than the store is tried; afterwards whoever asks looks for itself.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_REPLY_BYTES: u64 = 64 << 10;

/// What a resident fetcher has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidentAnswer {
    Done(FetchOutcome),
    /// It is there, and could not help: fetch directly.
    Failed,
    /// There is none: fetch directly, and start one.
    NotRunning,
}

/// Has the file `name` put to `destination` by the resident fetcher of `config`, if there is one.
pub async fn ask(config: &RecoveryConfig, name: &str, destination: &Path) -> ResidentAnswer {
    let Ok(spool) = File::open(&config.spool) else { return ResidentAnswer::NotRunning };
    let Ok(stream) = UnixStream::connect(socket_path(&spool)).await else { return ResidentAnswer::NotRunning };
    // The fetcher works in another directory.
    let Ok(destination) = std::path::absolute(destination) else { return ResidentAnswer::Failed };
    let request = Request { restore: config.restore.to_string(), name: name.to_owned(), destination };
    match timeout(REPLY_TIMEOUT, exchange(stream, &request)).await {
        Ok(Some(Reply::Found { bytes })) => ResidentAnswer::Done(FetchOutcome::Found { bytes }),
        Ok(Some(Reply::Absent)) => ResidentAnswer::Done(FetchOutcome::Absent),
        Ok(Some(Reply::Failed { message })) => {
            tracing::debug!(message, "the resident fetcher failed");
            ResidentAnswer::Failed
        }
        Ok(None) | Err(_) => ResidentAnswer::Failed,
    }
}

async fn exchange(stream: UnixStream, request: &Request) -> Option<Reply> {
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(request).ok()?;
    text.push(b'\n');
    write.write_all(&text).await.ok()?;
    let mut line = String::new();
    BufReader::new(read.take(MAX_REPLY_BYTES)).read_line(&mut line).await.ok()?;
    serde_json::from_str(&line).ok()
}

/// Starts `program` with `arguments` as a resident fetcher that outlives this process: in a process group of its own, so that
/// what is sent to the server's does not reach it, and without its directory or its standard streams.
///
/// Where the server is process 1 of a container, it inherits the fetcher, and takes a child that ends by a signal or with
/// another code than 0 or 1 for a crash of its own: a fetcher must end with one of these.
///
/// # Errors
/// The program cannot be started.
pub fn start(program: &Path, arguments: &[std::ffi::OsString]) -> std::io::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop)
}

/// Closes what the server left open when it ran the command, which a process that outlives it must not hold: deleted files
/// would keep their space. To be called first of all in a resident fetcher, before anything is opened.
///
/// # Errors
/// `/proc` cannot be read.
pub fn close_inherited_files() -> std::io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        inherited.extend(number.filter(|number| *number > 2));
    }
    for number in inherited {
        // The listing's own is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}
